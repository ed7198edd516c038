"""The report of a study: what it says of trials that were made up, and the files that it leaves."""

import json

import pandas as pd
import pytest

from atomsweep.cli.report import main
from atomsweep.report.read.directories import read_directories
from atomsweep.report.study.importance import importances
from atomsweep.report.study.report import build_study, study_of
from atomsweep.report.study.trials import history, trials_df
from atomsweep.tracking import schema
from tests.report.conftest import Root

OBJECTIVE = "val_id/forces_mae"
SPACE = {
    "basis": {"choices": ["sph", "sine"], "log": False},
    "optim.optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.num_layers": {"low": 2, "high": 4, "log": False},
}


def trial(number, basis="sph", lr=1e-3, layers=3, value=None, curve=(), **more):
    state = "complete" if value is not None else schema.PRUNED
    return {
        "number": number,
        "state": state,
        "params": {"basis": basis, "optim.optimizer.lr": lr, "model.num_layers": layers},
        "values": None if value is None else [value],
        "constraints": {},
        "feasible": True,
        "intermediate": {str(250 * i): v for i, v in enumerate(curve, 1)},
        "identities": [f"{number:012x}"],
        "started": "",
        "ended": "",
        "message": "",
        "again": None,
    } | more


def study(trials, best, **more):
    return {
        "objectives": {OBJECTIVE: "minimize"},
        "constraints": [],
        "space": SPACE,
        "seeds": [0],
        "wanted": len(trials),
        "best": best,
        "trials": trials,
    } | more


TRIALS = [  # the basis decides, and nothing else
    trial(i, "sine" if i % 2 else "sph", 10 ** (-4 + i / 6), 2 + i % 3, 0.05 + 0.05 * (i % 2))
    for i in range(12)
]


@pytest.fixture
def root(tmp_path):
    return make_study(tmp_path / "runs")


def make_study(path):
    """Runs and the plan of a study of four trials: the default, a better, a pruned, a failed."""
    made = Root(path)
    values = {0: 0.06, 1: 0.05}
    for number in range(4):
        state = {0: schema.FINISHED, 1: schema.FINISHED, 2: schema.INTERRUPTED, 3: schema.FAILED}
        made.run(
            f"{number:012x}",
            basis="sine" if number % 2 else "sph",
            val_id=values.get(number, 0.2),
            state=state[number],
            sweep="hpo/toy",
        )
    (made.path / f"forcenet_small-sph-swish-{2:012x}" / schema.STOP).write_text("{}")
    trials = [
        trial(0, "sph", 2e-3, 3, 0.06, [0.3, 0.06]),
        trial(1, "sine", 5e-3, 2, 0.05, [0.2, 0.05]),
        trial(2, "sph", 1e-4, 4, None, [0.4]),
        trial(3, "sine", 1e-2, 4, state=schema.FAILED, message="not a number | of any kind"),
    ]
    plan = {
        "sweep": "hpo/toy",
        "created": "2026-01-01",
        "command": "run.py sweeps=hpo/toy",
        "title": "A toy",
        "groups": {},
        "cells": [
            {"identity": f"{n:012x}", "name": f"cell-{n:012x}", "trial": n, "overrides": []}
            for n in range(4)
        ],
        schema.STUDY: study(trials, [1]),
    }
    path = made.path / schema.PLANS / "hpo" / "toy.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(plan))
    return made.path


def test_the_summary_compares_the_best_with_the_first_trial(root):
    report = build_study(read_directories(root), "hpo/toy")
    assert "4 of 4 trials: 2 complete, 1 pruned, 1 failed." in report.summary
    assert "Best: trial 1, val_id/forces_mae 0.0500 (basis sine" in report.summary
    assert "That is 0.83 × the first trial's 0.0600 (basis sph" in report.summary
    assert report.problems == ["trial 3 has failed: not a number | of any kind"]


def test_trials_are_listed_best_first_and_those_without_a_value_print_none(root):
    grid = build_study(read_directories(root), "hpo/toy").grid
    assert [row[0].text for row in grid.rows] == ["1", "0", "2", "3"]
    value = list(grid.header).index(OBJECTIVE)
    assert [row[value].text for row in grid.rows] == ["0.0500", "0.0600", "–", "–"]
    assert [row[0].bold for row in grid.rows] == [True, False, False, False]


def test_the_command_writes_every_part(root, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["report", "hpo/toy", "--root", str(root), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Best: trial 1" in shown
    names = {path.name for path in out.iterdir()}
    figures = {"history", "pruning", "pareto", "slices", "parallel"}
    assert {f"{name}.{kind}" for name in figures for kind in ("svg", "pdf", "png")} <= names
    page = (out / "report.html").read_text()
    for text in (
        "A toy",
        "What the study found",
        "2 complete, 1 pruned",
        "<style>",
        "atomsweep run sweeps",
    ):
        assert text in page
    assert page.count("<svg") == len(figures)
    assert "http" not in page.replace("http://www.w3.org", "")
    text = (out / "report.md").read_text()
    assert "trials are too few to weigh parameters" in text
    trials = pd.read_csv(out / "trials.csv")
    assert list(trials["number"]) == [0, 1, 2, 3]
    assert trials.loc[1, f"value.{OBJECTIVE}"] == 0.05
    assert r"\begin{tabular}" in (out / "table.tex").read_text()


def test_latest_is_the_study_where_it_is_the_newest(root):
    assert study_of(read_directories(root), ["latest"]) == "hpo/toy"
    assert study_of(read_directories(root), ["choice.basis=sph"]) is None
    assert study_of(read_directories(root), ["other"]) is None


def test_a_study_without_a_value_is_a_sentence(root, capsys):
    path = root / schema.PLANS / "hpo" / "toy.json"
    plan = json.loads(path.read_text())
    plan[schema.STUDY]["trials"] = plan[schema.STUDY]["trials"][2:]
    path.write_text(json.dumps(plan))
    assert main(["report", "hpo/toy", "--root", str(root)]) == 1
    assert "no trial of hpo/toy is complete (1 pruned, 1 failed)" in capsys.readouterr().err


def test_the_best_so_far_never_gets_worse_and_ignores_what_is_not_feasible():
    values = [0.3, 0.4, 0.1, 0.2, 0.15]
    trials = [trial(i, value=v, feasible=i != 2) for i, v in enumerate(values)]
    df = trials_df(
        study(trials, []), pd.DataFrame({"identity": [], "device_seconds": [], "step": []})
    )
    low = history(df, OBJECTIVE, "minimize")
    assert list(low["best"]) == [0.3, 0.3, 0.3, 0.2, 0.15]
    assert list(history(df, OBJECTIVE, "maximize")["best"]) == [0.3, 0.4, 0.4, 0.4, 0.4]


def test_the_parameter_that_decides_weighs_most():
    df, told, number = importances(study(TRIALS, [0]))
    assert df["key"].iloc[0] == "basis"
    assert df["importance"].iloc[0] > 0.8
    assert df["importance"].sum() == pytest.approx(1.0)
    assert number == 12
    assert told.startswith(f"{OBJECTIVE} of complete trials, over 12 trials: too few to rely on")
    _, many, _ = importances(
        study([*TRIALS, *(t | {"number": 50 + i} for i, t in enumerate(TRIALS))], [0])
    )
    assert many == f"{OBJECTIVE} of complete trials, over 24 trials"


def test_pruned_trials_are_weighed_at_a_step_that_most_have_reached():
    pruned = [
        trial(i, t["params"]["basis"], t["params"]["optim.optimizer.lr"], 3, None, [t["values"][0]])
        for i, t in enumerate(TRIALS)
    ]
    pruned[0] |= {"state": "complete", "values": [0.01], "intermediate": {"250": 0.05, "500": 0.01}}
    df, told, _ = importances(study(pruned, [0]))
    assert told.startswith(f"{OBJECTIVE} at step 250, over 12 trials")
    assert df["key"].iloc[0] == "basis"


def test_trials_count_the_device_time_of_all_their_seeds():
    runs = pd.DataFrame(
        {"identity": ["a", "b", "c"], "device_seconds": [1.0, 2.0, 4.0], "step": [10.0, 10.0, 5.0]}
    )
    df = trials_df(study([trial(0, value=0.1, identities=["a", "c"])], [0]), runs)
    assert df["device_seconds"].iloc[0] == 5.0
