import math

import pandas as pd
import pytest
from scipy import stats

from atomsweep.report.read import published
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.baselines import baseline_command, baselines_of, lacks_baseline
from atomsweep.report.tables.beside import _published_best, best_of, in_order
from atomsweep.report.tables.cells import cells_of
from atomsweep.report.tables.comparable import UnlikeRuns, comparable
from atomsweep.report.tables.forms import baseline_lines
from atomsweep.tracking import schema

AXES = ["choice.basis", "choice.act"]


@pytest.fixture
def runs(table5):
    return read_directories(table5.path)


def cell(cells, split="val_id", **key):
    found = cells[cells["split"] == split]
    for axis, wanted in key.items():
        found = found[found[f"choice.{axis}"] == wanted]
    assert len(found) == 1
    return found.iloc[0]


def test_cells_hold_ours_the_papers_and_the_difference(runs):
    df = runs.sweep("latest")
    cells = cells_of(df, AXES, reference="forcenet.table5", best_within=0.0005)
    assert len(cells) == 4 * 5
    one = cell(cells, "val_ood_both", basis="sine", act="relu")
    assert one["mean"] == pytest.approx(0.052 + 0.010)
    assert one["published"] == 0.0456
    assert one["difference"] == pytest.approx(0.062 - 0.0456)
    assert cell(cells, "val_avg", basis="sph", act="swish")["published"] == 0.0360


def test_bold_is_the_best_and_what_is_within_the_papers_tolerance(runs):
    df = runs.sweep("latest")
    df = pd.concat([df, df.assign(seed=1)], ignore_index=True)
    cells = cells_of(df, AXES, reference="forcenet.table5", best_within=0.0005)
    best = {key: cell(cells, basis=key[0], act=key[1])["best"] for key in PAIRS}
    assert best == {PAIRS[0]: True, PAIRS[1]: False, PAIRS[2]: True, PAIRS[3]: False}
    theirs = {key: cell(cells, basis=key[0], act=key[1])["published_best"] for key in PAIRS}
    assert theirs == {PAIRS[0]: True, PAIRS[1]: False, PAIRS[2]: True, PAIRS[3]: False}
    strict = cells_of(df, AXES)
    assert cell(strict, basis="sine", act="swish")["best"] == False  # noqa: E712
    alone = cells_of(runs.sweep("latest"), AXES, best_within=0.0005)
    assert not alone["best"].any()  # one seed shows no best


PAIRS = [("sph", "swish"), ("sph", "relu"), ("sine", "swish"), ("sine", "relu")]


def test_exactly_the_tolerance_away_is_still_best():
    values = pd.Series([0.0313, 0.0318, 0.03181])
    assert best_of(values, 0.0005, "low").tolist() == [True, True, False]
    assert best_of(pd.Series([0.9, 0.95]), 0.01, "high").tolist() == [False, True]


def test_the_baseline_is_the_newest_median_on_the_same_data_and_task(table5):
    table5.run("e" * 12, model="median", name="older", val_id=0.2, sweep=None, created=1.0)
    table5.run("d" * 12, model="median", name="else", val_id=0.3, sweep=None, fingerprint="other")
    runs = read_directories(table5.path)
    df = runs.sweep("latest")
    baselines = baselines_of(runs.df, df)
    assert baselines["identity"].tolist() == ["f" * 12]
    cells = cells_of(df, AXES, baselines=baselines)
    assert cell(cells, basis="sph", act="swish")["ratio"] == pytest.approx(0.5)
    assert cell(cells, "val_ood_both", basis="sph", act="swish")["ratio"] == pytest.approx(
        0.06 / 0.11
    )


def test_the_median_of_runs_that_say_no_data_is_that_of_the_default():
    missing = {"state": "missing", "command": "atomsweep run basis=sph root=there"}
    assert baseline_command(pd.DataFrame([missing])) == "atomsweep run model=median root=there"
    chosen = missing | {"choice.data": "ours", "choice.task": "is2re"}
    told = "atomsweep run model=median data=ours task=is2re root=there"
    assert baseline_command(pd.DataFrame([chosen])) == told


def test_without_a_median_run_there_is_no_ratio(root):
    root.run("a" * 12)
    runs = read_directories(root.path)
    assert baselines_of(runs.df, runs.df).empty
    cells = cells_of(runs.df, AXES)
    assert cells["ratio"].isna().all()


def seeds(root, values, basis="sph"):
    for seed, value in enumerate(values):
        identity = f"{basis}{seed}".ljust(12, "0")
        state = schema.FINISHED if value is not None else schema.FAILED
        root.run(identity, basis=basis, seed=seed, val_id=value or 0.05, state=state)


def test_seeds_become_mean_and_interval(root):
    values = [0.050, 0.052, 0.057]
    seeds(root, values)
    one = cell(cells_of(read_directories(root.path).df, AXES), basis="sph")
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(values), scale=stats.sem(values))
    assert one["mean"] == pytest.approx((low + high) / 2)
    assert one["half_width"] == pytest.approx((high - low) / 2)
    assert (one["n"], one["planned"]) == (3, 3)


def test_one_seed_has_no_interval(runs):
    cells = cells_of(runs.sweep("latest"), AXES)
    assert cells["half_width"].isna().all()
    assert (cells["n"] == 1).all()


def test_a_cell_with_a_failed_seed_is_empty_and_not_the_mean_of_the_rest(root):
    seeds(root, [0.050, None, 0.060])
    seeds(root, [0.070, 0.071, 0.072], basis="sine")
    cells = cells_of(read_directories(root.path).df, AXES)
    one = cell(cells, basis="sph")
    assert math.isnan(one["mean"])
    assert (one["n"], one["planned"]) == (2, 3)
    assert one["so_far"] == pytest.approx(0.055)
    assert not one["best"]
    assert cell(cells, basis="sine")["best"]


def test_a_metric_missing_for_one_split_empties_that_cell_only(runs):
    df = runs.sweep("latest")
    df.loc[0, "metric.val_ood_cat/forces_mae"] = float("nan")
    cells = cells_of(df, AXES)
    assert math.isnan(cell(cells, "val_ood_cat", basis="sph", act="swish")["mean"])
    assert cell(cells, "val_id", basis="sph", act="swish")["mean"] == 0.05


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"fingerprint": "0ther"}, "data sets"),
        ({"steps": 1600}, "budgets"),
        ({"task": "s2ef"}, "tasks"),
    ],
)
def test_unlike_runs_share_no_table(root, other, told):
    root.run("a" * 12)
    root.run("b" * 12, act="relu", **other)
    root.run("c" * 12, act="tanh")
    df = read_directories(root.path).df
    with pytest.raises(UnlikeRuns, match=told):
        cells_of(df, AXES)
    parts = comparable(df)
    assert [sorted(part["choice.act"]) for part in parts] == [["swish", "tanh"], ["relu"]]
    assert len(cells_of(parts[0], AXES)) == 2 * 5


def test_a_missing_cell_joins_the_part_that_it_does_not_contradict(root):
    root.run("a" * 12, steps=100)
    root.run("b" * 12, steps=200)
    cells = {
        "a" * 12: {"engine.steps": "100", "act": "swish"},
        "b" * 12: {"engine.steps": "200", "act": "swish"},
        "c" * 12: {"engine.steps": "200", "act": "relu"},
    }
    root.plan(cells, {"engine.steps": ["100", "200"], "act": ["swish", "relu"]})
    parts = comparable(read_directories(root.path).sweep("latest"))
    assert [part["identity"].tolist() for part in parts] == [["a" * 12], ["b" * 12, "c" * 12]]


def test_two_runs_in_one_place_are_refused_by_what_tells_them_apart(root):
    root.run("a" * 12, optim="laptop")
    root.run("b" * 12, optim="forcenet", name="other")
    with pytest.raises(UnlikeRuns, match=r"they differ in choice\.optim"):
        cells_of(read_directories(root.path).df, AXES)


def test_rows_follow_the_paper_and_unknown_ones_come_last(root):
    for number, (basis, act) in enumerate(
        [
            ("none", "tanh"),
            ("bessel", "swish"),
            ("sine", "swish"),
            ("sph", "swish"),
            ("sph", "relu"),
        ]
    ):
        root.run(str(number) * 12, basis=basis, act=act)
    cells = cells_of(read_directories(root.path).df, AXES, reference="forcenet.table5")
    ordered = in_order(cells, AXES, "forcenet.table5").drop_duplicates(AXES)
    assert list(zip(ordered["choice.basis"], ordered["choice.act"], strict=True)) == [
        ("sph", "relu"), ("sph", "swish"), ("sine", "swish"), ("none", "tanh"), ("bessel", "swish")
    ]  # fmt: skip
    assert math.isnan(cell(cells, basis="none", act="tanh")["published"])


def test_published_numbers_join_on_axes_that_were_not_swept(root):
    root.run("a" * 12, basis="sine", act="relu")
    root.run("b" * 12, basis="gauss", act="relu")
    df = read_directories(root.path).df
    cells = cells_of(df, ["choice.basis"], reference="forcenet.table5")
    assert cells[cells["split"] == "val_id"]["published"].tolist() == [
        0.0335,
        0.0324,
    ]  # gauss, sine


def test_published_numbers_join_on_numbers(root):
    for number, weight in enumerate((0.05, 1.0)):
        root.run(str(number) * 12, config={"task": {"fixed_weight": weight}}, name=str(weight))
    df = read_directories(root.path).df
    cells = cells_of(df, ["config.task.fixed_weight"], reference="forcenet.table7")
    assert cells[cells["split"] == "val_avg"]["published"].tolist() == [0.0360, 0.0419]


def test_each_row_is_held_against_the_baseline_of_its_data(root):
    for n, (molecule, value) in enumerate([("ethanol", 0.05), ("aspirin", 0.08)]):
        for seed in range(2):
            root.run(f"{n}{seed}" * 6, data=molecule, fingerprint=molecule, val_id=value, seed=seed)
    root.run("a" * 12, model="median", data="ethanol", fingerprint="ethanol", val_id=0.1)
    runs = read_directories(root.path)
    df = runs.df[runs.df["choice.model"] != "median"]
    rows = ["choice.act", "choice.data"]
    baselines = baselines_of(runs.df, df)
    cells = cells_of(df, rows, splits=["val_id"], baselines=baselines)
    ratios = cells.set_index("choice.data")["ratio"]
    assert ratios["ethanol"] == pytest.approx(0.5)
    assert math.isnan(ratios["aspirin"])
    assert cells["best"].all()  # each on its own data: ethanol's 0.05 does not beat aspirin's 0.08
    lines = {labels[1]: values for labels, values in baseline_lines(cells, rows, None)}
    assert lines == {"ethanol": ["0.1000"], "aspirin": ["–"]}
    (lacking,) = lacks_baseline(df, baselines)
    assert lacking["choice.data"].unique().tolist() == ["aspirin"]


def test_one_baseline_of_all_rows_has_no_label_but_its_name(runs):
    df = runs.sweep("latest")
    baselines = baselines_of(runs.df, df)
    cells = cells_of(df, AXES, splits=["val_id"], baselines=baselines)
    assert baseline_lines(cells, AXES, None) == [(["Median", ""], ["0.1000"])]


def test_the_papers_best_is_that_of_a_molecule_where_its_table_has_several():
    table, numbers = published.table("dens.table5"), published.numbers("dens.table5")
    best = _published_best(table, numbers["forces"], 0.0, "low")
    molecule = [axis.name for axis in table.axes if "molecule" in axis.column]
    lowest = numbers.groupby(molecule)["forces"].transform("min")
    assert best.tolist() == (numbers["forces"] == lowest).tolist()
