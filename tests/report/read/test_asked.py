"""Tables laid out by their sweep file: launched, changed since, or never launched."""

import json
import re

import pytest
import yaml

from atomsweep.cli.report import main
from atomsweep.report.pages import report, writing
from atomsweep.report.read import published
from atomsweep.report.read.asked import asked_of, known_files
from atomsweep.report.read.directories import read_directories
from atomsweep.report.read.runs import UnknownSweep
from atomsweep.shipped import PUBLISHED, shipped
from atomsweep.tracking import schema
from benchmarks.synthetic_runs import make_runs

FILE = """\
title: Mine
rows:
- {label: small, model.hidden_channels: 16}
- {label: wide, model.hidden_channels: 64}
columns: {act: [relu, swish]}
seeds: [0, 1]
metrics: [forces_mae, cost/structures_per_second]
evaluations: [cost]
scale: {laptop: [data=mini_oc], node: [data=mini_oc_large]}
claims: ['"wide" < "small"']
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(FILE)
    (tmp_path / "runs").mkdir()
    return tmp_path


def built(place, name):
    runs = read_directories(place / "runs")
    return report.build(runs, runs.sweep(name))


def test_a_table_that_was_never_launched_is_dashes_with_the_commands_that_fill_it(place):
    made = built(place, "mine")
    assert made.heading == "Mine"
    rows = made.tables[0].grid.rows
    assert [[cell.text for cell in row[:2]] for row in rows[1:]] == [
        ["small", "ReLU"], ["small", "Swish"], ["wide", "ReLU"], ["wide", "Swish"]
    ]  # fmt: skip
    assert {cell.text for row in rows[1:] for cell in row[3:-1]} == {"–"}
    assert len([gap for gap in made.gaps if gap.cell != "Median"]) == 8
    assert made.gaps[0].command == (
        "atomsweep run model.hidden_channels=16 act=relu seed=0 data=mini_oc"
    )
    assert made.command == "atomsweep run sweeps=mine"
    assert [cell.text for cell in made.tables[0].matrix.rows[0]] == ["small", "–", "–"]
    assert writing.write(made, place / "out").is_file()


def test_each_metric_has_a_table_and_evaluations_have_no_baseline(place):
    made = built(place, "mine")
    assert [table.metric for table in made.tables] == ["forces_mae", "structures_per_second"]
    assert made.tables[1].grid.header[-1] == "Cost"
    assert made.tables[1].grid.rows[0][0].text == "small"


def test_another_scale_is_found_by_the_name_of_its_sweep(place):
    df = read_directories(place / "runs").sweep("mine-node")
    assert df.attrs["asked"].scale == "node"
    assert "data=mini_oc_large" in df["command"].iloc[0]
    assert df.attrs["command"] == "atomsweep run sweeps=mine scale=node"


def test_runs_of_one_sweep_fill_the_cells_of_another_that_asks_for_the_same(tmp_path):
    make_runs(tmp_path / "runs", "forcenet/table6", range(3))
    runs = read_directories(tmp_path / "runs")
    df = runs.sweep("forcenet/table3")  # never launched: the same cells under another name
    assert (df["state"] == schema.FINISHED).all()
    made = report.build(runs, df)
    assert made.tables[0].reference == "forcenet.table3"


def test_a_run_that_no_launch_of_the_table_made_stands_in_its_cell(make_root, place):
    """Made alone, in other words: the report composes the cell and finds the run."""
    from atomsweep.cli.report import _identities

    words = ["model.hidden_channels=16", "act=relu", "seed=0", "data=mini_oc"]
    identity, *_ = _identities(words, ())
    assert _identities(["act=relu", "model.hidden_channels=16", "+nothing=1"], ()) == ()
    root = make_root(place / "runs")
    root.run(identity, act="relu", sweep=None, val_id=0.0512, overrides=["act=relu"])
    root.run("f" * 12, act="relu", sweep=None, seed=5)  # another seed: of no cell
    runs = read_directories(place / "runs")
    asked = []

    def identities(overrides, axes):
        asked.append(overrides)
        return _identities(overrides, axes)

    runs.identities = identities
    df = runs.sweep("mine")
    finished = df[df["state"] == schema.FINISHED]
    assert finished["identity"].tolist() == [identity]
    assert finished["label"].tolist() == ["small"]
    assert words in asked
    assert all({"act=relu", "seed=0"} <= set(one) for one in asked)  # others have no such run


def test_cells_that_differ_by_their_ranks_alone_are_told_apart(tmp_path):
    make_runs(tmp_path / "runs", "matsci/figure3", [0, 1, 2])
    df = read_directories(tmp_path / "runs").sweep("matsci/figure3")
    assert df.attrs["asked"].dropped == 0
    assert df["identity"].is_unique
    ranks = [setting[1]["cluster.ranks"] for setting in df.attrs["asked"].settings.values()]
    assert sorted(ranks) == ["1"] * 6 + ["2"] * 6 + ["4"] * 6


def test_a_file_that_grew_since_its_launch_has_missing_cells_and_tells_of_those_it_lost(tmp_path):
    make_runs(tmp_path / "runs", "forcenet/table5", [0, 1, 2, 16])
    path = tmp_path / "runs" / schema.PLANS / "forcenet" / "table5.json"
    plan = json.loads(path.read_text())
    plan["cells"] = plan["cells"][4:]
    path.write_text(json.dumps(plan))
    runs = read_directories(tmp_path / "runs")
    df = runs.sweep("forcenet/table5")
    assert len(df) == 36  # three seeds, and none beyond 15
    assert (df["state"] == schema.MISSING).sum() == 3
    assert df.attrs["asked"].dropped == 11
    made = report.build(runs, df)
    assert "11 planned runs are no longer in the sweep file" in made.summary
    assert made.gaps[0].reason == "no launch has planned it yet"


def test_a_wrong_file_is_a_problem_and_the_plan_lays_the_table_out(place, monkeypatch):
    plans = {
        "mine": {
            "file": "mine",
            "scale": "laptop",
            "statement": {"title": "Old", "rows": {"act": ["relu"]}},
            "cells": [{"identity": "a" * 12, "overrides": ["act=relu", "seed=0"], "label": None}],
        }
    }
    (place / "sweeps" / "mine.yaml").write_text("title: 3\n")
    problems = []
    found = asked_of("mine", plans, [place / "sweeps"], problems)
    assert found.statement.title == "Old"
    assert (
        "mine.yaml:1: title: input should be a valid string, got 3; the table is laid"
        in problems[0]
    )


@pytest.mark.long
def test_reports_of_everything_have_an_index(tmp_path, monkeypatch, capsys):
    make_runs(tmp_path / "runs", "forcenet/table7", range(2))
    (tmp_path / "analysis/published").mkdir(parents=True)
    text = (shipped(PUBLISHED) / "matsci.yaml").read_text(encoding="utf-8")
    text = text.replace("key: matsci", "key: another", 1)
    (tmp_path / "analysis/published/another.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "all", "--strict"]) == 1
    printed = capsys.readouterr().out
    told = "Nothing has finished.\n  fill it: atomsweep run sweeps=forcenet/table5"
    assert f"forcenet/table5: {told}" in printed
    for reference in published.references():
        paper, _, table = reference.partition(".")
        assert (tmp_path / "reports" / paper / table / "report.html").is_file(), reference
    alone = (tmp_path / "reports/another/table1/report.html").read_text()
    assert "none of our runs answers this table" in alone
    index = (tmp_path / "reports" / "index.html").read_text()
    first = re.search(r'<tbody>\s*<tr><th[^>]*><a href="([^"]*)"', index)  # what has results
    assert first[1] == "forcenet/table7/report.html"


def test_a_published_table_that_is_not_there_is_a_problem(place):
    (place / "sweeps" / "mine.yaml").write_text(FILE + "published: forcenet.table99\n")
    with pytest.raises(UnknownSweep, match="there is no table of forcenet table99"):
        built(place, "mine")


def test_a_plan_may_name_a_published_table_that_is_gone(place):
    statement = yaml.safe_load(FILE) | {"published": "forcenet.table99"}
    cells = [{"identity": "a" * 12, "overrides": ["act=relu", "seed=0"], "label": None}]
    plan = {"file": "gone", "scale": "laptop", "statement": statement, "cells": cells}
    (place / "runs" / schema.PLANS).mkdir()
    (place / "runs" / schema.PLANS / "gone.json").write_text(json.dumps(plan))
    assert any("forcenet.table99" in problem for problem in built(place, "gone").problems)


def test_files_of_the_present_folder_come_before_the_shipped_ones_which_stay(place):
    names = known_files(read_directories(place / "runs").files)
    assert {"mine", "forcenet/table5"} <= set(names)
    assert not [name for name in names if name.startswith("hpo/")]
    (place / "sweeps" / "forcenet").mkdir()
    (place / "sweeps" / "forcenet" / "table5.yaml").write_text(FILE)
    assert built(place, "forcenet/table5").heading == "Mine"
    assert built(place, "forcenet/table6").tables[0].paper == "forcenet.table6"


def test_papers_of_the_present_folder_are_read_besides_the_shipped_ones(place):
    shipped_papers = published.papers()
    own = place / "analysis" / "published"
    own.mkdir(parents=True)
    text = (shipped(PUBLISHED) / "matsci.yaml").read_text(encoding="utf-8")
    (own / "mine.yaml").write_text(text.replace("key: matsci", "key: mine", 1))
    title = published.papers()["matsci"].title
    (own / "matsci.yaml").write_text(text.replace(title, "Another title", 1))
    published._papers.cache_clear()  # a process reads the papers of a folder once
    assert list(published.papers()) == [*shipped_papers, "mine"]
    assert published.papers()["matsci"].title == "Another title"
    assert published.papers()["forcenet"] == shipped_papers["forcenet"]
    assert published.table("mine.table1").title == published.table("matsci.table1").title


def test_a_run_that_another_sweep_has_made_stands_in_the_row_that_asks_for_it(make_root, place):
    """`model=forcenet size=small` and `model=forcenet_small` are one run, of the first's name."""
    (place / "sweeps" / "all.yaml").write_text(
        "title: All\npublished: forcenet.table1\nrows: {model: [gns, forcenet]}\n"
        "overrides: [size=small]\nmetrics: [forces_mae]\n"
    )
    root = make_root(place / "runs")
    root.run("a" * 12, model="gns", sweep="all")
    root.run("b" * 12, model="forcenet_small", sweep="table5")
    cells = {"a" * 12: "gns", "b" * 12: "forcenet"}
    chosen = {
        identity: {"model": model, "seed": "0", "size": "small"}
        for identity, model in cells.items()
    }
    root.plan(chosen, {"model": ["gns", "forcenet"]}, sweep="all")
    plan = json.loads((place / "runs/_sweeps/all.json").read_text()) | {"file": "all"}
    (place / "runs/_sweeps/all.json").write_text(json.dumps(plan))
    made = built(place, "all").tables[0]
    assert made.cells["mean"].notna().all()
    averages = made.cells[made.cells["split"] == "val_avg"]
    assert made.reference == "forcenet.table1"  # it gives the words; its numbers stand apart
    assert averages["published"].isna().all()
    assert averages["choice.model"].tolist() == ["gns", "forcenet"]
