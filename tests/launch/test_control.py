"""Sweeps from another shell: how they stand, stopping them, launching them again."""

import json
import os
import signal
import subprocess
import sys

import pytest

from atomsweep.cli.main import main
from atomsweep.launch.control import NoSuchSweep, cancel, plan_of, retry_command, sweeps
from atomsweep.launch.overview import Overview
from atomsweep.launch.plan import Plan
from atomsweep.launch.presence import launchers, launching
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from tests.launch.test_survey import cell, finish

HOLD = """\
import signal, sys, time
from atomsweep.tracking.run import RunDirectory
run = RunDirectory(sys.argv[1])
with run.lock():
    run.start_segment("cpu")
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print("holds", flush=True)
        time.sleep(60)
    finally:
        run.interrupt("stopped by SIGTERM")
"""

LAUNCH = """\
import sys, time
from pathlib import Path
from atomsweep.launch.presence import launching
try:
    with launching(Path(sys.argv[1]), "paper/table"):
        print("launches", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    return process


@pytest.fixture
def sweep(tmp_path):
    """A saved plan of three cells, of which the last has no directory."""
    cells = [cell(seed=i) for i in range(3)]
    argv = ["run.py", "-m", "a=1,2", "rerun=all", "plan=false"]
    plan = Plan.of(cells, Grid({"seed": ["0", "1", "2"]}, [], name="paper/table"), argv, tmp_path)
    for one in cells[:2]:
        one.create(tmp_path, plan.sweep, plan.command)
    plan.save(
        tmp_path, [one.find(tmp_path) for one in plan.cells], {one.identity: 1000 for one in cells}
    )
    finish(find_runs(tmp_path)[0])
    return tmp_path


def test_a_sweep_tells_states_and_time_spent_and_to_come(sweep):
    found = Overview(sweep).look().sweeps["paper/table"]
    assert sorted(found.counts()) == ["finished", "missing", "queued"]
    assert found.left == pytest.approx(50.0)
    assert found.unknown == 1
    assert found.spent == sum(run.allocated_seconds() for run in find_runs(sweep))
    assert sweeps(sweep) == ["paper/table"]
    with pytest.raises(NoSuchSweep, match="there is no sweep x in .*; known: paper/table"):
        plan_of(sweep, "x")


def test_files_that_are_no_plans_are_passed_over(sweep):
    folder = sweep / schema.PLANS
    (folder / "._mine.json").write_bytes(b"\x00\x05")  # what macOS leaves beside a copy
    (folder / "gone.json").symlink_to(folder / "nowhere.json")
    assert sweeps(sweep) == list(Overview(sweep).look().sweeps) == ["paper/table"]


def test_status_shows_sweeps_and_every_cell_of_one(sweep, capsys):
    assert main(["status", "--root", str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["sweep", "cells", "states"]
    assert lines[1].startswith("paper/table  3 ")
    assert "about 50 s + 1 cells unknown" in lines[1]
    assert lines[-1].startswith("2 runs, ")
    assert main(["status", "paper/table", "--root", str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("3 runs, ")
    assert "missing" in lines[-2]


def test_launchers_are_known_while_they_live(tmp_path):
    with launching(tmp_path, "paper/table"):
        assert [launcher["pid"] for launcher in launchers(tmp_path, "paper/table")] == [os.getpid()]
        assert launchers(tmp_path, "paper/tab") == []
    assert launchers(tmp_path, "paper/table") == []
    assert list((tmp_path / schema.PLANS / "paper").iterdir()) == []


def test_the_launcher_of_lr_2_is_none_of_lr(tmp_path):
    with launching(tmp_path, "lr.2"):
        assert launchers(tmp_path, "lr") == []
        assert [launcher["pid"] for launcher in launchers(tmp_path, "lr.2")] == [os.getpid()]
        with launching(tmp_path, "lr"):
            assert len(launchers(tmp_path, "lr")) == len(launchers(tmp_path, "lr.2")) == 1
        assert len(launchers(tmp_path, "lr.2")) == 1


def test_what_a_killed_launcher_left_is_swept_away_by_the_next(tmp_path):
    process = start(LAUNCH, tmp_path)
    process.kill()
    process.wait()
    assert launchers(tmp_path, "paper/table") == []
    assert len(list((tmp_path / schema.PLANS / "paper").iterdir())) == 1
    with launching(tmp_path, "paper/table"):
        assert len(list((tmp_path / schema.PLANS / "paper").iterdir())) == 1


def test_cancel_stops_the_launcher_and_then_what_still_works(sweep):
    launcher = start(LAUNCH, sweep)
    queued = next(run for run in find_runs(sweep) if run.state() == schema.QUEUED)
    worker = start(HOLD, queued.path)
    told = cancel(sweep, "paper/table", find_runs(sweep))
    assert f"launcher {launcher.pid} is asked to stop" in told
    assert f"{queued.name}: process {worker.pid} is asked to stop" in told
    assert launcher.wait(10) == 130
    assert worker.wait(10) == 7
    assert queued.state() == schema.INTERRUPTED
    assert cancel(sweep, "paper/table", find_runs(sweep)) == []


def test_cancel_leaves_alone_what_works_elsewhere(sweep, capsys):
    queued = next(run for run in find_runs(sweep) if run.state() == schema.QUEUED)
    worker = start(HOLD, queued.path)
    lock = queued.path / schema.LOCK
    lock.write_text(json.dumps({"pid": worker.pid, "host": "node7"}))
    assert main(["cancel", queued.identity, "--root", str(sweep)]) == 0
    assert "works on node7, left alone" in capsys.readouterr().out
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)


def test_cancel_of_nothing_says_so(sweep, capsys):
    assert main(["cancel", "paper/table", "--root", str(sweep)]) == 0
    assert "nothing of it is running" in capsys.readouterr().out
    assert main(["cancel", "unheard", "--root", str(sweep)]) == 1
    assert "neither a sweep nor a run unheard" in capsys.readouterr().err


def test_retry_types_the_command_again_with_what_failed_into_its_own_root(sweep, monkeypatch):
    monkeypatch.chdir(sweep)
    argv = ["/x/run.py", "-m", "a=1,2", "++root=/other", "rerun=all", "plan=false", "b=c"]
    words = retry_command({"argv": argv, "directory": str(sweep)}, sweep)
    assert words == ["-m", "a=1,2", "b=c", f"root={sweep}", "rerun=failed"]


def test_a_root_that_was_moved_is_retried_where_it_is(sweep):
    moved = sweep / "it's moved"
    words = retry_command({"argv": ["run.py", "a=1"], "directory": "/gone"}, moved)
    assert words[-2] == f"root='{sweep}/it\\'s moved'"


def test_the_folder_of_a_plan_is_not_entered(sweep, tmp_path_factory):
    theirs = tmp_path_factory.mktemp("theirs")
    with pytest.raises(ValueError, match="go there and type retry again"):
        retry_command({"argv": ["run.py"], "directory": str(theirs)}, sweep)


@pytest.mark.parametrize(
    "word",
    [
        "--config-dir=/tmp/theirs",
        "-cd",
        "hydra.callbacks.x._target_=os.system",
        "+hydra.run.dir=/tmp",
        "hydra/launcher=theirs",
        "~hydra.sweeper",
        "cluster.preamble=[touch /tmp/evil]",
        "++cluster.python=/tmp/evil",
    ],
)
def test_a_plan_of_elsewhere_starts_no_program_and_sets_nothing_of_hydra(sweep, word):
    path = sweep / schema.PLANS / "paper" / "table.json"
    plan = plan_of(sweep, "paper/table") | {"argv": ["/tmp/evil.py", "a=1", word]}
    plan |= {"directory": "/gone"}
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="which retry does not repeat"):
        retry_command(plan, sweep)
    assert main(["retry", "paper/table", "--root", str(sweep)]) == 1


def test_retry_starts_atomsweep_and_never_the_plans_program(sweep, monkeypatch):
    started = []
    monkeypatch.chdir(sweep)  # and back at the end
    monkeypatch.setattr(os, "execv", lambda *words: started.append(words))
    path = sweep / schema.PLANS / "paper" / "table.json"
    plan = plan_of(sweep, "paper/table") | {"argv": ["/tmp/evil.py", "a=1"], "directory": "/gone"}
    path.write_text(json.dumps(plan))
    with pytest.raises(AssertionError, match="exec does not return"):
        main(["retry", "paper/table", "--root", str(sweep)])
    ((_, words),) = started
    assert words[1:5] == ["-P", "-m", "atomsweep", "run"]
    assert "/tmp/evil.py" not in words


def test_a_plan_that_does_not_say_how_it_was_launched_is_a_sentence(sweep):
    with pytest.raises(ValueError, match="type its command again"):
        retry_command({"cells": []}, sweep)


def test_sigterm_stops_a_launcher_like_ctrl_c(tmp_path):
    process = start(LAUNCH, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 130
    assert launchers(tmp_path, "paper/table") == []
