"""Runs that older code made are found, loaded and continued; see kept/README.md."""

import inspect
import json
import pydoc
import shutil
from pathlib import Path

import pytest
import torch

import atomsweep
from atomsweep import classes
from atomsweep.build import build
from atomsweep.engine import checkpoint
from atomsweep.launch.compose import cell_of
from atomsweep.launch.costs import Costs
from atomsweep.launch.plan import Plan
from atomsweep.launch.survey import survey
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import code, schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.train import train
from tests.contracts.compose import compose_with_choices
from tests.places import SOURCE

KEPT = Path(__file__).parent / "kept"
SHARED = [
    "data=mini_oc_tiny",
    "engine.checkpoint_every=10",
    "model.hidden_channels=8",
    "model.decoder_channels=8",
    "model.num_layers=2",
    "model.edge_init_scale=null",  # there was no other way then
    "task.squared_until=null",  # likewise
    "tracking=none",
]
FINISHED = ["engine.steps=20", "engine.eval_every=10", *SHARED]
STOPPED = ["engine.steps=100", "engine.eval_every=20", *SHARED]
WHOLE = {"val_id/forces_mae": 0.34856299, "val_ood_both/forces_mae": 0.34339428}
"""What version 1 got for the stopped run when nothing stopped it."""


def cell(*overrides):
    cfg, choices = compose_with_choices(list(overrides))
    return cell_of(cfg, choices, overrides)


@pytest.fixture(params=sorted(path.parent.name for path in KEPT.glob("*/runs")))
def root(request, tmp_path):
    return Path(shutil.copytree(KEPT / request.param / "runs", tmp_path / "runs"))


def test_finished_runs_are_found_and_not_made_again(root):
    cells = [cell("basis=sine", f"act={act}", *FINISHED) for act in ("swish", "relu", "softplus")]
    entries = survey(cells, root, {})
    done = (schema.FINISHED, schema.STALE)  # stale from the first edit of their science on
    assert [e.state in done for e in entries] == [True, True, False]
    assert entries[2].state == schema.MISSING
    assert [e.wanted("failed") for e in entries] == [False, False, True]
    claimed = [one.create(root, "again", "run.py") for one in cells[:2]]
    assert [run.path for run in claimed] == [entry.run.path for entry in entries[:2]]
    assert len(find_runs(root)) == 3


def test_a_sweep_keeps_its_name_and_its_plan_the_identities_of_its_runs(root):
    cells = [cell("basis=sine", f"act={act}", *FINISHED) for act in ("swish", "relu")]
    (known,) = (path.stem for path in (root / schema.PLANS).glob("*.json"))
    plan = Plan.of(cells, Grid({"act": ["swish", "relu"]}, []), ["run.py"], root)
    assert plan.sweep == known
    text = plan.save(root, [one.find(root) for one in plan.cells], {}).read_text()
    for run in find_runs(root)[:2]:
        assert run.identity in text
        assert run.name in text


def test_a_guess_of_cost_knows_the_old_runs(root):
    costs = Costs.of(find_runs(root))
    wanted = cell("basis=sine", "act=swish", "engine.steps=40", "engine.eval_every=10", *SHARED)
    assert costs.seconds(wanted.science, "cpu", None) > 0


def test_its_checkpoint_loads_and_its_parts_are_built_where_they_lie_now(root):
    run = next(run for run in find_runs(root) if "swish" in run.name)
    model = atomsweep.load(run.path)
    state = torch.load(run.path / schema.CHECKPOINTS / "best.pt", weights_only=True)["model"]
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert build(run.config()["data"], "data").fingerprint() == run.run["data"]["fingerprint"]


@pytest.mark.slow
def test_a_stopped_run_continues_to_what_an_undisturbed_one_gave(root):
    one = cell("basis=sine", "act=tanh", *STOPPED)
    run = one.find(root)
    assert run.state() == schema.INTERRUPTED
    run = one.create(root, None, "run.py")
    train(run, lambda update: None)
    assert len(find_runs(root)) == 3
    assert "continuing from step" in (run.path / schema.LOG).read_text()
    for name, value in WHOLE.items():
        assert run.result["metrics"][name] == pytest.approx(value, rel=1e-3), name


def test_checkpoints_are_upgraded_to_the_present_version_and_later_ones_refused(tmp_path):
    assert {path.name for path in KEPT.iterdir() if path.is_dir()} == {
        f"version_{n}" for n in checkpoint.UPGRADES
    }
    for path in KEPT.rglob("*.pt"):
        found = checkpoint.load_of(checkpoint.load(path)["identity"], path)  # with all it must hold
        assert found["version"] == checkpoint.VERSION
    later = tmp_path / "later.pt"
    torch.save({"model": {}, "version": checkpoint.VERSION + 1}, later)
    with pytest.raises(ValueError, match="update atomsweep"):
        checkpoint.load(later)


def test_a_copy_under_another_identity_is_refused(root):
    run = RunDirectory(find_runs(root)[0].path)
    with pytest.raises(ValueError, match="belongs to run"):
        RunDirectory.create(run.path, "seed: 0\n", {"identity": "0" * 12}, ["1" * 12])


def test_every_former_path_leads_to_a_class_that_is_there():
    assert len(classes.FORMER) > 10
    for present, formers in classes.FORMER.items():
        assert inspect.isclass(pydoc.locate(present)), present
        for former in formers:
            assert classes.present_path(former) == present


def test_files_that_runs_of_version_1_recorded_are_known_by_what_they_are_now():
    """Rows were made once the files had moved; a later edit makes old runs stale, as it must."""
    rows = json.loads((SOURCE / "atomsweep" / "tracking" / code.VERSION_1).read_text())
    assert {"models/forcenet.py", "data/base.py", "engine/loop.py"} <= set(rows)
    for row in rows.values():
        for path in row["now"]:
            assert code.hash_of(path) is not None, path
