"""A run that has not left the Median is marked in table, claims and page, and decides no claim."""

import csv
import json
import math
import shutil

import pandas as pd
import pytest

from atomsweep.cli.report import main
from atomsweep.report.pages import html, report
from atomsweep.report.pages.markdown import report_markdown
from atomsweep.report.read.directories import read_directories
from atomsweep.report.tables.trained import left_at, limits_of, why_untrained
from atomsweep.report.tables.verdicts import HOLDS, UNDECIDED
from atomsweep.tracking import schema
from benchmarks.synthetic_runs import make_runs

MEDIAN = {"x": 0.44, "y": 0.45, "z": 0.50}


def row(x, y, z, split="val_id", **more):
    errors = {
        f"metric.{split}/forces_{axis}_mae": v for axis, v in zip("xyz", (x, y, z), strict=True)
    }
    return {"state": schema.FINISHED, "choice.model": "forcenet_small", **errors, **more}


BASELINE = row(*MEDIAN.values(), **{"choice.model": "median"})


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (row(0.2, 0.2, 0.3), ""),
        (row(0.2, 0.2, 0.39), ""),
        (row(0.2, 0.43, 0.3), "y is at 0.96 of the Median on val_id"),
        (row(0.7, 0.2, 0.3), "x is at 1.59 of the Median on val_id"),  # worse than the Median
        (row(0.1, 0.1, 0.3), "the error of z is 2.7 times that of y on val_id"),
        (row(0.43, 0.43, 0.3, state=schema.RUNNING), ""),
        (row(0.44, 0.45, 0.5, **{"choice.model": "median"}), ""),
        (row(0.44, 0.45, 0.3, **{"config.model.edge_features": "only_dist"}), ""),
        ({"state": schema.FINISHED, "metric.val_id/forces_mae": 0.4}, ""),
        (row(0.2, float("nan"), 0.3), ""),
    ],
)
def test_why_a_run_is_not_trained(run, why):
    assert why_untrained(run, BASELINE) == why


def test_without_a_median_components_are_held_against_one_another():
    assert why_untrained(row(0.2, 0.21, 0.39), None) == ""
    assert why_untrained(row(0.2, 0.21, 0.41), None) == (
        "the error of z is 2.0 times that of x on val_id"
    )
    assert why_untrained(row(0.0, 0.21, 0.41), None) == ""  # no forces along x


def test_a_component_that_hardly_exists_in_the_data_tells_nothing():
    flat = row(0.4, 0.4, 1e-6, **{"choice.model": "median"})
    assert why_untrained(row(0.1, 0.1, 1e-4), flat) == ""
    assert why_untrained(row(0.1, 0.1, 0.0), row(0.4, 0.4, 0.0, **{"choice.model": "median"})) == ""
    assert why_untrained(row(0.1, 0.39, 1e-4), flat).startswith("y is at 0.97 of the Median")


def with_components(path, factors):
    result = json.loads((path / schema.RESULT).read_text())
    error = result["metrics"]["val_id/forces_mae"]
    for axis, factor in zip("xyz", factors, strict=True):
        result["metrics"][f"val_id/forces_{axis}_mae"] = factor * error
    (path / schema.RESULT).write_text(json.dumps(result))


@pytest.fixture
def stuck(tmp_path):
    """Table 5 of three seeds, of which seed 1 of Spherical with ReLU has x at the Median."""
    root = tmp_path / "runs"
    make_runs(root, "forcenet/table5", range(3))
    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        told = {o.partition("=")[0]: o.partition("=")[2] for o in run["overrides"]}
        bad = (told.get("basis"), told.get("act"), run["seed"]) == ("sph", "relu", 1)
        with_components(path, (5.0, 1, 1) if bad else (1, 1, 1))
    runs = read_directories(root)
    return report.build(runs, runs.sweep("forcenet/table5"))


def test_it_is_marked_with_its_reason_and_decides_nothing(stuck):
    (claim,) = [c for c in stuck.claims if c.text == "act=swish < act=relu for every basis"]
    sph = next(c for c in claim.comparisons if c.left.startswith("Spherical"))
    assert sph.n == 2
    assert "seed 1 of Spherical, ReLU is not trained (" in sph.note
    others = [c for c in claim.comparisons if c is not sph]
    assert {c.n for c in others} == {3}
    page = html.page(stuck)
    text = report_markdown(stuck)
    assert "1 of them not trained: it decides no claim but of cost" in stuck.summary
    for told in (page, text):
        assert "no claim but of cost or against the Median: Spherical, ReLU, seed 1 (" in told
        assert "‡" in told
    (marked,) = set(stuck.tables[0].cells["untrained"]) - {0}
    assert marked == 1


def test_against_the_median_a_run_that_has_not_left_it_counts(tmp_path):
    root = tmp_path / "runs"
    make_runs(root, "forcenet/table1", range(3))
    for path in root.glob("run-*"):
        if json.loads((path / schema.RUN).read_text())["choices"]["model"] != "median":
            with_components(path, (5.0, 1, 1))
    runs = read_directories(root)
    made = report.build(runs, runs.sweep("forcenet/table1"))
    pairs = {claim.text: claim.comparisons for claim in made.claims}
    against = pairs["model=median > every other cell"]
    assert {c.n for c in against} == {3}
    assert not any("not trained" in c.note for c in against)
    assert {c.n for c in pairs["model=forcenet < model=gns"]} == {0}
    assert {c.n for c in pairs["model=forcenet < model=gns at equal device-time"]} == {0}
    of_time = pairs["model=dimenet_pp > 18 * model=forcenet on device_seconds"]
    assert [(c.n, c.note) for c in of_time] == [(3, "")]


def test_a_claim_that_it_would_have_decided_stays_open(tmp_path):
    root = tmp_path / "runs"
    make_runs(root, "forcenet/table7", range(3))
    text = "augmentation=rotate_z < augmentation=none for task.fixed_weight=0.05 on val_ood_cat"

    def verdict():
        runs = read_directories(root)
        made = report.build(runs, runs.sweep("forcenet/table7"))
        return next(c for c in made.claims if c.text == text)

    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        result = json.loads((path / schema.RESULT).read_text())
        worse = run["choices"]["augmentation"] == "none"
        result["metrics"]["val_ood_cat/forces_mae"] = 0.1 + 0.02 * worse + 1e-4 * run["seed"]
        (path / schema.RESULT).write_text(json.dumps(result))
    assert verdict().verdict == HOLDS
    for path in root.glob("run-*"):
        if json.loads((path / schema.RUN).read_text())["choices"]["augmentation"] == "none":
            with_components(path, (1, 1, 3))
    (one,) = verdict().comparisons
    assert (verdict().verdict, one.n) == (UNDECIDED, 0)
    assert "no seed that both have finished" in one.note
    (question,) = [
        q for q in report.look(read_directories(root), "forcenet/table7").open if q.claim == text
    ]
    assert question.pairs == 0
    assert "not trained (" in question.hindrance  # so no further seed is asked for


def test_where_forces_were_learnt_a_missing_median_is_told_whatever_the_table_shows(tmp_path):
    """Nothing else says that a run of normalised losses has left it."""
    root = tmp_path / "runs"
    make_runs(root, "matsci/table2", range(3))
    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        result = json.loads((path / schema.RESULT).read_text())
        if run["choices"]["model"] == "median":
            shutil.rmtree(path)
            continue
        result["metrics"] = {"val_id/normalised_l1": 0.7 + 0.01 * run["seed"]}
        if run["choices"]["task"] != "is2re":
            result["metrics"] |= {f"val_id/forces_{axis}_mae": 0.3 for axis in "xyz"}
        (path / schema.RESULT).write_text(json.dumps(result))
    runs = read_directories(root)
    tables = report.build(runs, runs.sweep("matsci/table2")).tables
    assert {table.metric for table in tables} == {"normalised_l1"}
    told = [" ".join(table.caption) for table in tables]
    assert any("No Median baseline on this data yet" in text for text in told)


def points(**errors):
    """Points of one run, from the errors of x, y and z at each step."""
    rows = [
        {"metric": f"val_id/forces_{axis}_mae", "step": float(step), "value": value}
        for axis, values in errors.items()
        for step, value in zip((100, 200, 300, 400), values, strict=False)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # in any order


@pytest.mark.parametrize(
    ("errors", "step"),
    [
        ({"x": (0.4, 0.3, 0.2, 0.1), "y": (0.4, 0.4, 0.2, 0.1), "z": (0.4, 0.3, 0.2, 0.1)}, 100),
        ({"x": (0.4, 0.3, 0.2, 0.1), "y": (0.44, 0.43, 0.2, 0.1), "z": (0.4, 0.3, 0.2, 0.1)}, 300),
        ({"x": (0.4, 0.44, 0.2, 0.1), "y": (0.4, 0.4, 0.2, 0.1), "z": (0.4, 0.3, 0.2, 0.1)}, 300),
        ({"x": (0.4, 0.3, 0.2, 0.1), "y": (0.4, 0.4, 0.2, 0.1), "z": (0.4, 0.3, 0.2, 0.48)}, None),
        ({"x": (math.nan, 0.3, 0.2, 0.1), "y": (0.4,) * 4, "z": (0.4,) * 4}, 200),
        ({"x": (0.3,) * 4, "y": (0.3,) * 4, "z": ()}, None),
    ],
    ids=[
        "at once",
        "the last component counts",
        "came back",
        "not to the end",
        "not finite",
        "not told",
    ],
)
def test_the_step_from_which_on_all_three_are_below_the_median(errors, step):
    found = left_at(points(**errors), limits_of(BASELINE))
    assert found == step if step else math.isnan(found)


def test_no_step_is_known_without_components_or_without_a_median():
    away = {"x": (0.1,) * 4, "y": (0.1,) * 4, "z": (0.1,) * 4}
    limits = limits_of(BASELINE)
    assert left_at(points(**away), limits) == 100
    assert limits_of({"metric.val_id/forces_mae": 0.4}) == {}
    assert math.isnan(left_at(points(**away), {}))
    assert math.isnan(left_at(points(**away).iloc[:0], limits))


def test_the_page_says_when_each_row_left_the_median(tmp_path):
    root, out = tmp_path / "runs", tmp_path / "page.md"
    make_runs(root, "forcenet/table5", range(3))
    stays = {"basis": "sph", "act": "relu"}
    for path in root.glob("run-*"):
        run = json.loads((path / schema.RUN).read_text())
        told = {o.partition("=")[0]: o.partition("=")[2] for o in run["overrides"]}
        if run["choices"]["model"] == "median":
            with_components(path, (1, 1, 1))
            continue
        steps = 1 + run["seed"] + 9 * (stays.items() <= told.items() and run["seed"] == 2)
        lines = [
            {"step": step, "device_seconds": float(step)}
            | {f"val_id/forces_{a}_mae": 0.9 if step < steps else 0.01 for a in "xyz"}
            for step in (1, 2, 3, 4)
        ]
        with (path / schema.JOURNAL).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    words = ["results", "forcenet/table5", "--root", str(root), "--out", str(out)]
    assert main(words) == 0
    section = out.read_text().split("### Leaving the Median")[1].split("###")[0]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in section.splitlines()]
    rows = {tuple(line[:2]): line[2:] for line in lines if len(line) == 7}
    assert rows["Spherical", "ReLU"][:3] + rows["Spherical", "ReLU"][4:] == ["3", "1", "2", "1"]
    assert rows["Sine", "Swish"][:3] + rows["Sine", "Swish"][4:] == ["3", "1", "3", "none"]
    with out.with_suffix(".csv").open() as file:
        kept = {r["row"]: r for r in csv.DictReader(file) if r["metric"] == "left_median_at"}
    assert kept["Sine, Swish"]["values"] == "1 2 3"
    stayed = kept["Spherical, ReLU"]
    assert stayed["values"] == "1 2 never"
    assert (stayed["mean"], stayed["n"]) == ("", "2")
