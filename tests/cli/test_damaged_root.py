"""One damaged file in a root: a problem that names it, and everything else goes on."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from atomsweep.cli.main import main
from atomsweep.launch.control import retry_command
from atomsweep.launch.plan import Plan, plan_path
from atomsweep.launch.survey import survey
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.files import DamagedFile, dumps, read_json, write_atomic
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.mlflow.plans import Plans
from tests.contracts.params import first
from tests.launch.test_survey import cell, finish

NOBODY = 65534
DOCUMENTS = (schema.RUN, schema.STATUS, schema.RESULT, schema.ENVIRONMENT, schema.CONFIG)
FILES = (*DOCUMENTS, schema.SEGMENTS, schema.JOURNAL, schema.WANTED, schema.LOCK)
DAMAGE = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "binary": lambda raw: b"\x80\xff\x00" + raw[3:],
    "list": lambda raw: b"[1, 2]\n",
    "nested": lambda raw: b"[" * 100_000,
    "odd": lambda raw: re.sub(rb'("?\w+"?): (?!\{|\[)[^,\n]+', rb"\1: [[0]]", raw),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A finished, a failed and a queued cell of a sweep."""
    root = tmp_path_factory.mktemp("template") / "runs"
    cells = [cell(seed=i) for i in range(3)]
    plan = Plan.of(cells, Grid({"seed": ["0", "1", "2"]}, [], name="table"), ["run.py", "-m"], root)
    runs = [one.create(root, plan.sweep, plan.command) for one in cells]
    plan.save(root, [one.find(root) for one in cells], {one.identity: 1000 for one in cells})
    for run in runs:
        with run.lock():
            run.start_segment("cpu")
            run.log(1, {"train/loss": 1.0}, 1.0, 0.0)
            run.write_environment(device="cpu")
            evaluations.want(run, {"cost": {"warm_up": 1}})
    finish(runs[0])
    runs[1].fail("ValueError: as asked")
    return root


@pytest.fixture
def root(template):
    """A copy of it where anybody may look."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copytree(template, Path(folder) / "runs"))


def looks(root, capsys, *words):
    """What `status` prints, and its problems."""
    code = main(["status", *words, "--root", str(root)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("damage", first(3, DAMAGE))
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_stops_nothing(root, capsys, name, damage):
    victim = find_runs(root)[0]
    others = [run.name for run in find_runs(root) if run.name != victim.name]
    path = victim.path / name
    path.write_bytes(DAMAGE[damage](path.read_bytes() if path.exists() else b'{"a": 1}'))
    code, out, err = looks(root, capsys)
    assert code == 0
    assert all(other in out for other in others)
    if name in (schema.RUN, schema.CONFIG) and damage in ("binary", "list", "nested"):
        assert f"{path}" in err
    looks(root, capsys, "table")
    problems: list[str] = []
    found = find_runs(root, problems)
    assert len(found) + len(problems) == 3
    plans = Plans(root)
    for run in found:
        views.tags(run, run.state(), plans.sweeps_of(run))
        views.points(run.journal())
        views.final_metrics(run)
    cells = [cell(seed=i) for i in range(3)]
    if victim.name not in [run.name for run in found]:
        assert name == schema.RUN
        with pytest.raises(DamagedFile, match=f"{path} .*; move its directory away"):
            launch(cells, root)
        shutil.move(victim.path, root.parent)
    launch(cells, root)
    assert len(find_runs(root)) == 3
    for run in find_runs(root):
        assert run.result is not None or run.config() == dict(cells[0].config) | {
            "seed": run.run["seed"]
        }


def launch(cells, root):
    """What a launch reads and writes before it trains."""
    survey(cells, root, {}, {"cost": {"warm_up": 1}})
    for one in cells:
        evaluations.want(one.create(root, "table", "again"), {"cost": {"warm_up": 1}})


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_plan_is_a_problem(root, capsys, damage):
    path = plan_path(root, "table")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    code, out, err = looks(root, capsys)
    if damage != "odd":
        assert str(path) in err
        assert main(["retry", "table", "--root", str(root)]) == 1
        assert main(["cancel", "table", "--root", str(root)]) == 1
        assert str(path) in capsys.readouterr().err
    assert code == 0
    assert all(run.name in out for run in find_runs(root))
    with pytest.raises(ValueError, match="how it was launched"):
        retry_command({"cells": [], "argv": 3}, root)


@pytest.mark.parametrize("hidden", [".", *DOCUMENTS, schema.SEGMENTS, schema.JOURNAL])
def test_a_file_that_may_not_be_read_is_a_problem_and_the_rest_goes_on(root, capsys, hidden):
    victim = find_runs(root)[0]
    (victim.path / hidden).chmod(0)
    others = [run.name for run in find_runs(root) if run.name != victim.name]
    root_user = os.geteuid() == 0
    if root_user:
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        code, out, err = looks(root, capsys)
        found = find_runs(root)
    finally:
        if root_user:
            os.seteuid(0)
        (victim.path / hidden).chmod(0o755)
    assert code == 0
    assert all(other in out for other in others)
    assert str((victim.path / hidden) if hidden != "." else victim.path) in err
    assert "Permission denied" in err
    assert (victim.name in [run.name for run in found]) == (hidden not in (".", schema.RUN))


def test_a_finished_run_without_a_model_in_its_science_costs_nobody_an_estimate(root, capsys):
    path = find_runs(root)[0].path / schema.RUN
    odd = ({"model": "x"}, {}, {"model": {}, "engine": {"steps": 0}}, {"model": {"_target_": 3}})
    for science in odd:
        write_atomic(path, dumps(read_json(path) | {"science": science}))
        assert looks(root, capsys)[0] == 0
        survey([cell(seed=1)], root, {})
