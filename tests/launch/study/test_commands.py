"""A study as a user launches it: real training, pruning, kills, the best configuration used."""

import shutil
import signal
import time

import pytest
import yaml

from atomsweep.launch.study import storage as study_store
from atomsweep.sweep.study import read_statement
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json
from tests.contracts.commands import Place
from tests.places import REPOSITORY
from tests.test_commands import SMALL, science_of

STUDY = f"""
title: Tiny
objectives: {{val_id/forces_mae: minimize}}
constraints: [parameters <= 4000]
overrides: [{", ".join(SMALL)}, engine.steps=120]
space:
  basis: [identity, linact]
  optim.optimizer.lr: {{low: 1e-5, high: 1e-2, log: true}}
  model.hidden_channels: [8, 16]
pruner: {{name: asha, first: 30, factor: 2}}
trials: 4
enqueue:
- {{basis: identity, optim.optimizer.lr: 5e-3, model.hidden_channels: 8}}
- {{basis: identity, optim.optimizer.lr: 1e-5, model.hidden_channels: 8}}
- {{basis: linact, optim.optimizer.lr: 1e-2, model.hidden_channels: 16}}
"""
LONG = ["engine.steps=1500", "search.trials=2", "cluster.parallel=2"]


@pytest.fixture
def project(place, tmp_path):
    """A copy of what a user edits, with a study in it."""
    for name in ("conf", "sweeps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copyfile(REPOSITORY / "run.py", tmp_path / "run.py")
    (tmp_path / "sweeps" / "hpo" / "tiny.yaml").write_text(STUDY)
    copy = Place(tmp_path, place.env)
    copy.script = tmp_path / "run.py"
    return copy


def plan_of(project):
    (path,) = (project.path / "runs" / schema.PLANS / "hpo").glob("tiny*.json")
    return read_json(path)


def test_a_study_prunes_finds_its_best_and_is_done(project):
    code, output = project.run("sweeps=hpo/tiny", "cluster.parallel=1")
    assert code == 0, output
    trials = plan_of(project)["study"]["trials"]
    states = [trial["state"] for trial in trials]
    assert states[:3] == ["complete", "pruned", "pruned"], output
    assert trials[2]["message"].startswith("parameters <= 4000 does not hold")
    runs = {run.identity: run for run in project.runs()}
    pruned, infeasible = (runs[trials[i]["identities"][0]] for i in (1, 2))
    assert pruned.state() == schema.PRUNED
    assert 30 <= pruned.journal()[-1]["step"] < 120
    assert (pruned.path / "checkpoints" / "last.pt").exists()
    assert infeasible.segments() == []

    best = min((t for t in trials if t["values"]), key=lambda t: t["values"][0])
    options = project.path / "runs" / schema.PLANS / schema.OPTIONS
    written = options / "experiment" / "hpo_tiny_best.yaml"
    assert f"trial {best['number']}, val_id/forces_mae" in written.read_text()
    assert yaml.safe_load(written.read_text())["model"]["hidden_channels"] == 8
    code, output = project.run("experiment=hpo_tiny_best", "tracking=none")
    assert code == 0, output
    assert "already finished, not run again" in output
    assert best["identities"][0] in output


@pytest.mark.long
def test_a_study_that_is_done_trains_nothing_and_a_pruned_run_ends_in_the_same_bits(project):
    assert project.run("sweeps=hpo/tiny", "cluster.parallel=1")[0] == 0
    before = {run.path: run.segments() for run in project.runs()}
    code, output = project.run("sweeps=hpo/tiny")
    assert code == 0, output
    assert "4 of 4 trials" in output
    assert {run.path: run.segments() for run in project.runs()} == before
    cells = plan_of(project)["cells"]
    overrides = next(cell for cell in cells if cell["trial"] == 1)["overrides"]
    assert project.run(*overrides)[0] == 0
    assert project.run(*overrides, root="whole")[0] == 0
    (whole,) = project.runs("whole")
    (pruned,) = [run for run in project.runs() if run.identity == whole.identity]
    assert len(pruned.segments()) == 2
    assert science_of(pruned) == science_of(whole)


@pytest.mark.long
def test_a_killed_driver_is_followed_by_another_that_waits_for_its_runs(project):
    process = project.start("sweeps=hpo/tiny", *LONG)
    deadline = time.monotonic() + 120
    while not any(run.state() == schema.RUNNING for run in project.runs()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = project.start("sweeps=hpo/tiny", *LONG)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"is driven by process {process.pid}" in output
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, output = project.run("sweeps=hpo/tiny", *LONG)
    assert code == 0, output
    trials = plan_of(project)["study"]["trials"]
    assert len(trials) == 3  # the file enqueues three
    assert [len(run.segments()) for run in project.runs() if run.result] == [1]


@pytest.mark.long
def test_ctrl_c_leaves_trials_that_the_same_command_continues(project):
    process = project.start("sweeps=hpo/tiny", *LONG)
    deadline = time.monotonic() + 120
    while not any(run.journal() for run in project.runs()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert schema.RUNNING not in {run.state() for run in project.runs()}
    assert "running" in {trial["state"] for trial in plan_of(project)["study"]["trials"]}
    assert project.run("sweeps=hpo/tiny", *LONG)[0] == 0
    assert "running" not in {trial["state"] for trial in plan_of(project)["study"]["trials"]}


def test_a_plan_of_a_study_writes_nothing(project):
    code, output = project.run("sweeps=hpo/tiny", "plan=true")
    assert code == 0, output
    assert "no trials; a launch adds 4 trials of 1 runs" in output
    assert not (project.path / "runs").exists()
    statement = read_statement(project.path / "sweeps" / "hpo" / "tiny.yaml")
    assert study_store.read_study(statement, project.path / "runs", "hpo/tiny") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "sentence"),
    [("search.trials=0", "error: search.trials: "), ("engine.wings=2", "engine.wings")],
)
def test_a_wrong_word_is_a_sentence(project, argument, sentence):
    code, output = project.run("sweeps=hpo/tiny", argument)
    assert code != 0
    assert sentence in output
    assert "Traceback" not in output
    assert not list(project.runs())
