"""Which sweeps a run belongs to, and the runs of a sweep; plans are read when they change."""

import json

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, write_atomic
from atomsweep.tracking.mlflow import plans as module
from atomsweep.tracking.mlflow.plans import Plans
from atomsweep.tracking.run import RunDirectory

IDENTITY = "0123456789ab"


def run_of(root, identity=IDENTITY, sweep="one"):
    about = {"identity": identity, "science": {}, "sweep": sweep}
    return RunDirectory.create(root / f"sph-{identity}", "seed: 3\n", about)


def write(root, name, *cells):
    path = root / schema.PLANS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dumps({"cells": list(cells)}))


def test_a_run_belongs_to_its_own_sweep_and_to_those_that_list_it(tmp_path):
    run = run_of(tmp_path)
    write(tmp_path, "paper/table5", {"identity": IDENTITY})
    write(tmp_path, "paper/table6", {"identity": "other"})
    (tmp_path / schema.PLANS / "half.json").write_text("{")
    plans = Plans(tmp_path)
    assert plans.sweeps_of(run) == ["one", "paper/table5"]
    assert plans.trial_tags(run) == {}
    write(tmp_path, "hpo", {"identity": IDENTITY, schema.TRIAL: 7})
    plans.refresh()
    assert plans.sweeps_of(run) == ["one", "hpo", "paper/table5"]
    assert plans.trial_tags(run) == {"trial.hpo": "7"}


def test_runs_of_a_sweep_are_those_of_its_cells_and_cells_without_one_are_told(tmp_path):
    runs = [run_of(tmp_path, digit * 12) for digit in "012"]
    write(tmp_path, "two", *({"identity": digit * 12} for digit in "139"))
    found = Plans(tmp_path).runs_of("two")
    assert [run.path if run else None for run in found] == [runs[1].path, None, None]
    assert Plans(tmp_path).runs_of("none") == []


def test_a_plan_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    read = []

    def read_json(path):
        read.append(path.stem)
        return json.loads(path.read_text())

    monkeypatch.setattr(module, "read_json", read_json)
    write(tmp_path, "one", {"identity": IDENTITY})
    write(tmp_path, "two")
    plans = Plans(tmp_path)
    plans.refresh()
    assert read == ["one", "two"]
    write(tmp_path, "two", {"identity": IDENTITY}, {"identity": "b"})
    plans.refresh()
    assert read == ["one", "two", "two"]
    assert list(plans.cells_of(IDENTITY)) == ["one", "two"]
    (tmp_path / schema.PLANS / "two.json").unlink()
    plans.refresh()
    assert list(plans.cells_of(IDENTITY)) == ["one"]
