import copy
import math

import pytest
import yaml
from pydantic import ValidationError

from atomsweep.report.read import published
from atomsweep.report.read.papers import Paper
from atomsweep.shipped import PUBLISHED, shipped


@pytest.fixture(scope="module")
def raw():
    return yaml.safe_load((shipped(PUBLISHED) / "forcenet.yaml").read_text(encoding="utf-8"))


def value(reference, column, **key):
    df = published.numbers(reference)
    for axis, wanted in key.items():
        df = df[df[axis] == wanted]
    assert len(df) == 1
    return float(df[column].iloc[0])


def test_every_table_of_the_paper_is_there():
    tables = published.papers()["forcenet"].tables
    assert {table.number for table in tables.values()} == set(range(1, 9))
    rows = {table.number: len(table.rows) for table in tables.values()}
    assert rows == {1: 7, 2: 4, 3: 8, 4: 5, 5: 12, 6: 8, 7: 4, 8: 6}
    assert {n: t.workshop_number for n, t in zip(rows, tables.values(), strict=True)} == {
        1: 2, 2: 1, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8
    }  # fmt: skip


def test_table5_has_the_papers_numbers():
    t5 = "forcenet.table5"
    assert value(t5, "val_id", basis="sph", act="swish") == 0.0313
    assert value(t5, "val_ood_both", basis="sine", act="relu") == 0.0456
    assert value(t5, "val_ood_ads", basis="gauss", act="relu") == 0.0384
    assert value(t5, "val_ood_cat", basis="identity", act="swish") == 0.0338
    assert value(t5, "val_avg", basis="none", act="relu") == 0.0430
    assert value(t5, "val_avg", basis="linact", act="swish") == 0.0367


def test_other_tables_have_the_papers_numbers():
    assert value("forcenet.table1", "train", model="dimenet_pp_large") == 1600
    assert math.isnan(value("forcenet.table1", "hidden", model="median"))
    assert value("forcenet.table1", "val_id", model="median") == 0.0810
    assert value("forcenet.table2", "instability", dataset="oc20_2m", augmentation="none") == 0.0093
    assert value("forcenet.table4", "val_avg", hidden=768, layers=7, batch=512) == 0.0345
    assert value("forcenet.table6", "val_ood_both", ablation="edge_linear_bn") == 0.0520
    assert value("forcenet.table7", "val_id", augmentation="rotate_z", fixed_weight=0) == 0.0333
    assert value("forcenet.table8", "afbt_val_avg", model="forcenet_large") == 12.66


@pytest.mark.parametrize(
    ("reference", "metric", "factor"),
    [
        ("forcenet.table1", "cost/device_hours_per_million", 1.0),
        ("forcenet.table2", "rotation/forces_std", 1.0),
        ("forcenet.table8", "relax/val_avg/adwt", 0.01),
        ("forcenet.table8", "relax/val_ood_both/afbt", 0.01),
    ],
)
def test_numbers_of_evaluations_stand_beside_ours_in_our_unit(reference, metric, factor):
    columns = [
        c
        for c in published.measured(published.table(reference))
        if f"{c.split}/{c.metric}" == metric
    ]
    assert [c.to_ours for c in columns] == [factor]


@pytest.mark.parametrize("reference", published.references())
def test_averages_are_the_mean_of_their_splits(reference):
    table, df = published.table(reference), published.numbers(reference)
    for column in table.columns:
        if column.average_of:
            mean = df[list(column.average_of)].mean(axis=1)
            unit = 10.0**-column.decimals
            assert ((df[column.name] - mean).abs() <= unit * 1.001).all()


def test_rows_that_occur_in_several_tables_agree():
    """Table 3 is the average of Table 6; the default ForceNet is in five tables."""
    table3, table6 = published.numbers("forcenet.table3"), published.numbers("forcenet.table6")
    assert list(table3["val_avg"]) == list(table6["val_avg"])
    splits = ["val_id", "val_ood_ads", "val_ood_cat", "val_ood_both", "val_avg"]
    default = [0.0313, 0.0355, 0.0334, 0.0439, 0.0360]
    for reference, row in (("1", 5), ("5", 1), ("6", 0), ("7", 0)):
        df = published.numbers(f"forcenet.table{reference}")
        assert df[splits].iloc[row].tolist() == default


def test_marks_of_recovered_and_inferred_cells_survive():
    marks = [row.marks for row in published.table("forcenet.table2").rows]
    assert marks == [{"augmentation": "recovered"}] * 4
    assert published.table("forcenet.table7").rows[1].marks == {"augmentation": "inferred"}


def test_contradictions_within_the_paper_are_footnotes_of_their_tables():
    assert "large-twice" in published.table("forcenet.table1").footnotes
    assert "large-twice" in published.table("forcenet.table4").footnotes
    assert "average-rounding" in published.table("forcenet.table5").footnotes
    assert "relaxation-speed" in published.table("forcenet.table8").footnotes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["rows"][0]["values"].pop(), "must have 2 keys and 5 values"),
        (lambda t: t["rows"][0]["values"].__setitem__(4, 0.0380), "average to 0.0372"),
        (lambda t: t["rows"].append(t["rows"][0]), "two rows of one key"),
        (lambda t: t["rows"][0].__setitem__("key", ["spline", "relu"]), "basis=spline"),
        (lambda t: t["columns"][0].__setitem__("unit", "kcal"), "unit"),
        (lambda t: t["columns"][0].__setitem__("split", "holdout"), "must be one of"),
        (lambda t: t["columns"][0].pop("metric"), "both a split and a metric"),
        (lambda t: t.__setitem__("colour", "red"), "Extra inputs"),
        (lambda t: t["footnotes"].append("lost"), "lost"),
        (lambda t: t["rows"][0].__setitem__("marks", {"val_ood": "inferred"}), "name no column"),
        (lambda t: t["applies"]["axes"].append("depth"), "unknown axes"),
    ],
)
def test_a_damaged_table_is_refused(raw, change, told):
    damaged = copy.deepcopy(yaml.safe_load(yaml.safe_dump(raw)))
    change(damaged["tables"]["table5"])
    with pytest.raises(ValidationError, match=told):
        Paper.model_validate(damaged)


def test_an_unknown_table_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"forcenet\.table9.*forcenet\.table5"):
        published.table("forcenet.table9")


FORCENET = {
    "choice.model": "forcenet_small",
    "choice.task": "s2f",
    "choice.ablation": "none",
    "choice.dens": "none",
    "choice.basis": "sph",
    "choice.act": "swish",
}


@pytest.mark.parametrize(
    ("axes", "change", "expected"),
    [
        (["choice.basis", "choice.act"], {}, "forcenet.table5"),
        (["choice.act"], {}, "forcenet.table5"),
        (["choice.ablation"], {"choice.ablation": None}, "forcenet.table6"),
        (["choice.augmentation"], {"config.task.fixed_weight": 0.05}, "forcenet.table7"),
        (["choice.model"], {"choice.model": None}, "forcenet.table1"),
        (["choice.basis", "choice.act"], {"choice.model": "gns"}, None),
        (["choice.basis", "choice.act"], {"choice.ablation": "only_dist"}, None),
        (["choice.basis", "config.optim.lr"], {}, None),
        ([], {}, None),
    ],
)
def test_the_published_table_follows_from_the_swept_axes(axes, change, expected):
    assert published.matching(axes, FORCENET | change) == expected
