"""Status of many runs: counts and the slowest, JSON, and looks that read what changed."""

import json
import os
import time

import pytest

from atomsweep.cli import status
from atomsweep.cli.main import main
from atomsweep.launch.control import NoSuchSweep
from atomsweep.launch.overview import Overview
from atomsweep.launch.plan import Plan
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import files, schema
from atomsweep.tracking.files import dumps, write_atomic
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory
from tests.launch.test_survey import cell, finish
from tests.places import REPOSITORY

MANY = 60


@pytest.fixture
def many(tmp_path):
    """A sweep of `MANY` cells: two run elsewhere, three failed, one is missing, one finished."""
    root = tmp_path / "runs"
    cells = [cell(seed=i) for i in range(MANY)]
    plan = Plan.of(cells, Grid({"seed": []}, [], name="table"), ["run.py", "-m"], root)
    runs = [one.create(root, plan.sweep, plan.command) for one in cells[1:]]
    plan.save(root, [one.find(root) for one in plan.cells], {one.identity: 1000 for one in cells})
    finish(runs[0])
    for run, fraction, left in ((runs[1], 0.75, 10.0), (runs[2], 0.25, 90.0)):
        run.update_status(step=1, fraction=fraction, seconds_left=left)
    for run in runs[3:6]:
        run.fail("ValueError: bad")
    return root, runs


def told(capsys, *words):
    assert main(["status", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


def test_of_many_runs_the_slowest_and_what_failed_are_told_and_the_rest_is_counted(many, capsys):
    root, runs = many
    with runs[1].lock(), runs[2].lock():
        lines = told(capsys, "--root", root)
        in_sweep = told(capsys, "table", "--root", root)
    counted = f"1 finished, 2 running, 3 failed, {MANY - 7} queued"
    assert counted in lines[1]
    names = [line.split()[0] for line in lines[4:9]]
    assert names[:2] == [runs[2].name, runs[1].name]  # the one that ends last first
    assert set(names[2:]) == {run.name for run in runs[3:6]}
    assert (
        lines[9]
        == f"and {MANY - 6} more, not told one by one; --all tells them, --json for scripts"
    )
    assert lines[10] == f"{MANY - 1} runs, {counted}"
    assert lines[11:] == ["3 failed: ValueError: bad"]
    assert f"{MANY} runs, {counted}, 1 missing" in in_sweep


def test_all_tells_every_run(many, capsys):
    root, runs = many
    lines = told(capsys, "table", "--all", "--root", root)
    names = [line.split()[0] for line in lines if line.startswith("steps_")]
    assert len(names) == MANY
    assert set(names) > {run.name for run in runs}


def test_few_runs_are_told_one_by_one(many, capsys, monkeypatch):
    monkeypatch.setattr(status, "MOST", MANY)
    names = [line.split()[0] for line in told(capsys, "--root", many[0])[4 : 4 + MANY - 1]]
    assert set(names) == {run.name for run in many[1]}


def test_json_has_every_field_of_every_cell(many, capsys):
    root, runs = many
    runs[1].update_status(values={"m": float("nan")})
    document = json.loads("\n".join(told(capsys, "table", "--json", "--root", root)))
    assert set(document) == {"format", "root", "time", "sweeps", "runs", "problems"}
    assert (document["format"], document["problems"]) == (1, [])
    (sweep,) = document["sweeps"]
    assert sweep["states"] == {"finished": 1, "failed": 3, "queued": MANY - 5, "missing": 1}
    assert (sweep["name"], sweep["cells"], sweep["unknown"]) == ("table", MANY, 1)
    assert sweep["device_seconds_left"] == pytest.approx(50.0 * (MANY - 2 - 1))
    assert {frozenset(run) for run in document["runs"]} == {frozenset(status.FIELDS)}
    by_name = {run["name"]: run for run in document["runs"]}
    assert len(by_name) == MANY
    assert [run["state"] for run in document["runs"]][:2] == ["missing", "finished"]
    assert document["runs"][0]["path"] is None
    done, failed = by_name[runs[0].name], by_name[runs[3].name]
    assert (done["step"], done["fraction"], done["device_seconds"]) == (100, 1.0, 50.0)
    assert done["path"] == str(runs[0].path)
    assert failed["message"] == "ValueError: bad"
    assert by_name[runs[1].name]["value"] is None  # JSON has no NaN


def test_json_names_what_is_damaged(many, capsys):
    root, runs = many
    (runs[0].path / schema.RESULT).write_text("{")
    assert main(["status", "--json", "--root", str(root)]) == 0
    out, err = capsys.readouterr()
    assert any("result.json is damaged" in problem for problem in json.loads(out)["problems"])
    assert err == ""


def test_the_documented_fields_are_those_of_the_json():
    text = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    start = text.index("**For scripts**")
    table = text[start : text.index("**A live page**")]
    assert [f for f in status.FIELDS if f"`{f}`" not in table] == []


def test_a_second_look_reads_only_what_has_changed(many, monkeypatch):
    root, runs = many
    overview = Overview(root)
    before = overview.look()
    opened = []
    real = files.Path.read_bytes
    monkeypatch.setattr(files.Path, "read_bytes", lambda path: (opened.append(path), real(path))[1])
    assert overview.look() == before
    assert opened == []
    runs[7].update_status(state=schema.FAILED, message="disk full")
    after = overview.look()
    assert {path.parent for path in opened} == {runs[7].path}
    changed = [n for n, (a, b) in enumerate(zip(before.lines, after.lines, strict=True)) if a != b]
    assert [after.lines[n].message for n in changed] == ["disk full"]


def test_a_look_sees_locks_new_runs_and_runs_that_are_gone(many):
    root, runs = many
    overview = Overview(root)
    states = {line.name: line.state for line in overview.look().lines}
    assert states[runs[9].name] == schema.QUEUED
    with runs[9].lock():  # no file tells it
        assert {s.name: s.state for s in overview.look().lines}[runs[9].name] == schema.RUNNING
    assert {s.name: s.state for s in overview.look().lines}[runs[9].name] == schema.QUEUED
    new = cell(seed=MANY + 1).create(root, None, "")
    for path in runs[9].path.iterdir():
        path.unlink()
    runs[9].path.rmdir()
    names = [line.name for line in overview.look().lines]
    assert new.name in names
    assert runs[9].name not in names


def test_the_furthest_of_two_directories_of_one_identity_counts_in_its_sweep(many):
    root, runs = many
    twin = root / f"another-{runs[9].identity}"
    twin.mkdir()
    for name in (schema.RUN, schema.CONFIG, schema.STATUS):
        (twin / name).write_bytes((runs[9].path / name).read_bytes())
    write_atomic(twin / schema.STATUS, dumps({"state": schema.FAILED, "message": "x"}))
    assert len(find_runs(root)) == MANY
    standing = Overview(root).look().sweeps["table"]
    assert standing.counts()[schema.FAILED] == 4
    assert RunDirectory.for_identity(root, runs[9].identity).path == twin


def test_a_sweep_without_a_plan_is_refused_by_the_look_that_is_to_tell_of_it(many):
    with pytest.raises(NoSuchSweep, match="there is no sweep x in .*; known: table"):
        Overview(many[0]).look(only="x")


def test_watching_looks_again_until_it_is_stopped(many, capsys, monkeypatch):
    root, runs = many
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        runs[8].fail("ValueError: bad")
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    assert main(["status", "--watch", "--root", str(root)]) == 130
    out = capsys.readouterr().out
    assert out.count("Ctrl-C ends this") == 2
    first, _, second = out.partition("3 failed: ValueError: bad")
    assert first
    assert "4 failed: ValueError: bad" in second
    assert min(pauses) >= status.EVERY
    assert os.linesep + "\x1b" not in out  # nothing is cleared where there is no screen


def test_json_is_not_watched(capsys):
    with pytest.raises(SystemExit):
        main(["status", "--watch", "--json"])
    assert "not allowed with argument" in capsys.readouterr().err
