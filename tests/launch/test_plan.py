"""Run directories of many cells: a launch that is killed while it makes them doubles nothing."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from atomsweep.launch.plan import Cell, Plan, create_all
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory, directories

CELLS = 200


def cells():
    data = {"name": "d", "fingerprint": "f0", "provenance": {}}
    parts = {"model": {"_target_": "atomsweep.models.schnet.SchNet"}, "data": {"root": "x"}}
    return [
        Cell({**parts, "seed": seed}, {"model": "schnet"}, [f"seed={seed}"], data)
        for seed in range(CELLS)
    ]


def plan(root):
    """What a launch does before its first cell begins."""
    grid = Grid({"seed": [str(seed) for seed in range(CELLS)]}, [])
    made = Plan.of(cells(), grid, ["run.py", "-m"], root)
    runs = create_all(made.cells, root, made.sweep, "run.py -m")
    made.save(root, runs, {})
    return runs


def killed(root, at):
    """A launch that is killed when it has made some directories."""
    process = multiprocessing.get_context("spawn").Process(target=plan, args=(root,))
    process.start()
    while process.is_alive() and len(list(root.glob("seed_*"))) < at:
        time.sleep(0.001)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_a_launch_killed_while_it_makes_directories_leaves_whole_ones_and_doubles_none(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    assert killed(root, 30) == -signal.SIGKILL
    made = [RunDirectory(path) for path in root.glob("seed_*")]
    left = [run for run in made if (run.path / schema.RUN).exists()]  # which makes it a run
    assert 29 <= len(left) < CELLS
    assert len(made) <= len(left) + 1  # the one that was being made
    assert [run for run in left if run.problems()] == []
    inodes = {run.path: run.path.stat().st_ino for run in left}
    killed(root, 120)
    runs = plan(root)
    assert {run.path for run in runs} == set(root.glob("seed_*"))
    assert len({run.identity for run in runs}) == len(runs) == CELLS
    assert {path: path.stat().st_ino for path in inodes} == inodes  # taken up, not made anew
    assert [run for run in runs if run.problems()] == []
    files = {path for path in root.rglob("*") if not path.is_dir()}
    again = plan(root)
    assert [run.path for run in again] == [run.path for run in runs]
    assert {path for path in root.rglob("*") if not path.is_dir()} == files
    assert len(directories(root)) == CELLS
    assert [path.suffix for path in Path(root, "_sweeps").iterdir()] == [".json"]


def test_a_name_that_is_used_again_for_other_cells_is_noticed(tmp_path):
    some = cells()[:4]
    first, other, more = (
        Plan.of(part, Grid({}, [], name="mine"), ["run.py"], tmp_path)
        for part in (some[:2], some[2:], some[:3])
    )
    assert first.replaced(tmp_path) == 0
    first.save(tmp_path, [None, None], {})
    assert (first.replaced(tmp_path), more.replaced(tmp_path), other.replaced(tmp_path)) == (
        0,
        0,
        2,
    )
