"""One function decides the state of a cell: plan, status, info, report and watch agree."""

import json
import re

import pytest

from atomsweep.cli import live
from atomsweep.cli.live import Site
from atomsweep.cli.main import main
from atomsweep.launch.plan import Plan
from atomsweep.launch.survey import survey
from atomsweep.report.read.directories import read_directories
from atomsweep.report.read.tidy import shown_state
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.code import hash_of
from atomsweep.tracking.files import dumps, write_atomic
from atomsweep.tracking.run import RunDirectory
from tests.launch.test_survey import cell, finish

STATES = (*schema.FURTHEST, schema.MISSING)
TWINS = ("queued beside failed", "stale beside finished", "failed beside running")


@pytest.fixture
def stand(tmp_path):
    """Cells of a planned sweep in every state; of three there are two directories each."""
    root = tmp_path / "runs"
    names = [*STATES, *TWINS]
    cells = dict(zip(names, (cell(seed=i) for i in range(len(names))), strict=True))
    runs = {n: c.create(root, "table", "") for n, c in cells.items() if n != schema.MISSING}
    plan = Plan.of(list(cells.values()), Grid({"seed": []}, [], name="table"), ["run.py"], root)
    plan.save(root, [one.find(root) for one in plan.cells], {})
    runs[schema.FAILED].fail("ValueError: bad")
    runs[schema.INTERRUPTED].interrupt("stopped")
    runs[schema.PRUNED].ask_to_stop(why="slow")
    finish(runs[schema.FINISHED])
    for name in (schema.STALE, "stale beside finished"):
        finish(runs[name])
        made_with = runs[name].path / schema.ENVIRONMENT
        made_with.write_text(made_with.read_text().replace(hash_of("engine/loop.py"), "0" * 12))
    twins = {name: twin(runs[name]) for name in TWINS}
    twins["queued beside failed"].fail("ValueError: bad")
    finish(twins["stale beside finished"])
    runs["failed beside running"].fail("ValueError: bad")
    expected = {name: name for name in STATES}
    expected |= {name: name.rpartition(" ")[2] for name in TWINS}
    expected["queued beside failed"] = schema.FAILED
    with runs[schema.RUNNING].lock(), twins["failed beside running"].lock():
        yield root, cells, {cells[name].identity: state for name, state in expected.items()}


def twin(run):
    """Another directory of the same identity, as two machines may make them."""
    path = run.path.with_name(f"again-{run.identity}")
    path.mkdir()
    (path / schema.CONFIG).write_bytes((run.path / schema.CONFIG).read_bytes())
    write_atomic(path / schema.RUN, dumps(run.run | {"created": run.run["created"] + 9}))
    write_atomic(path / schema.STATUS, dumps({"state": schema.QUEUED}))
    return RunDirectory(path)


def of_plan(root, cells):
    return {e.cell.identity: e.state for e in survey(list(cells.values()), root, {})}


def of_status(root, capsys):
    assert main(["status", "table", "--json", "--root", str(root)]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    return {run["identity"]: run["state"] for run in runs}


def of_report(root):
    frame = read_directories(root).sweep("table")
    return {row["identity"]: shown_state(row) for row in frame.to_dict("records")}


def of_watch(root, identities):
    text = Site(root).page("/sweep/table")
    found = re.findall(r'seed=(\d+).*?class="state (\w+)"', text, re.DOTALL)
    return {identities[int(seed)]: state for seed, state in found}


def test_plan_status_report_and_watch_agree_over_every_state(stand, capsys, monkeypatch):
    root, cells, expected = stand
    monkeypatch.setattr(live, "MOST", len(cells))
    identities = [one.identity for one in cells.values()]
    assert set(expected.values()) == set(STATES)
    assert of_plan(root, cells) == expected
    assert of_status(root, capsys) == expected
    assert of_report(root) == expected
    assert of_watch(root, identities) == expected


def test_info_says_the_same_of_every_run(stand, capsys, monkeypatch, tmp_path):
    root, _, expected = stand
    monkeypatch.chdir(tmp_path)
    for identity, state in expected.items():
        if state == schema.MISSING:
            continue
        assert main(["info", identity, "--root", str(root)]) == 0
        rows = dict(re.findall(r"^(\w+)  +(.*)$", capsys.readouterr().out, re.MULTILINE))
        assert rows["state"] == state
        page = (tmp_path / rows["page"]).read_text(encoding="utf-8")
        assert f"<dt>state</dt><dd>{state}</dd>" in page
