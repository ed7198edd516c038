"""Evaluations and relaxations as commands, after trainings, and again only when that is due."""

import json
import os
import re
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms

import atomsweep
from atomsweep.build import UserError
from atomsweep.cli.evaluate import parsed
from atomsweep.cli.main import main
from atomsweep.data.atoms import structure_to_atoms
from atomsweep.launch.outcome import outcome_of
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.restart import restart
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.evaluate.runner import evaluate
from atomsweep.worker.train import job
from tests.places import REPOSITORY

SMALL = {"structures": 3, "rotations": 2}
FULL = {"split": "val_id", "about": "z", "seed": 0, "batch_size": 32}


@pytest.fixture
def run(tiny_run, tmp_path):
    """A finished run that a test may change."""
    shutil.copytree(tiny_run.path, tmp_path / "runs" / tiny_run.name)
    return RunDirectory(tmp_path / "runs" / tiny_run.name)


def stamp(run, kind="rotation"):
    return evaluations.path_of(run, kind).stat().st_mtime_ns


def test_the_command_writes_a_result_and_finds_it_the_next_time(run, capsys, monkeypatch):
    monkeypatch.chdir(run.path.parents[1])
    command = ["evaluate", run.identity, "rotation", "structures=3", "rotations=2"]
    assert main(command) == 0
    assert "rotation/forces_std " in capsys.readouterr().out
    content = json.loads((run.path / "evaluations" / "rotation.json").read_text())
    assert set(content) == {
        "metrics",
        "notes",
        "settings",
        "device",
        "seconds",
        "checkpoint_step",
        "created",
    }
    assert content["settings"] == FULL | SMALL
    assert content["checkpoint_step"] == run.result["checkpoint_step"]
    assert all(name.startswith("rotation/") for name in content["metrics"])
    assert content["device"].startswith("cpu")
    before = stamp(run)
    assert main(command) == 0
    assert main([*command, "batch_size=1"]) == 0  # makes no difference to the result
    assert stamp(run) == before
    assert main([*command, "--again"]) == 0
    assert stamp(run) > before
    before = stamp(run)
    assert main([*command[:-1], "rotations=3"]) == 0
    assert stamp(run) > before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "rotation"], "there is no run nowhere"),
        (["RUN", "roation"], "there is no evaluation roation; there are rotation, cost, relax"),
        (["RUN", "relax", "fmax=-1"], "relax.fmax: input should be greater than or equal to 0"),
        (["RUN", "relax", "fmx=1"], "relax has no setting fmx; it has splits"),
        (["RUN", "relax", "fmax"], "settings are written key=value, got 'fmax'"),
        (["RUN", "rotation", "about=x"], "rotation.about: input should be 'z' or 'any', got 'x'"),
    ],
)
def test_a_wrong_word_is_a_sentence(tiny_run, words, sentence, capsys):
    words = [str(tiny_run.path) if word == "RUN" else word for word in words]
    assert main(["evaluate", *words]) == 1
    assert sentence in capsys.readouterr().err


def test_settings_are_read_as_yaml_and_dots_go_deeper():
    words = ["fmax=0.1", "splits=[val_id]", "paths.a=x.lmdb", "paths.b=y", "systems=null"]
    assert parsed(words) == {
        "fmax": 0.1,
        "splits": ["val_id"],
        "paths": {"a": "x.lmdb", "b": "y"},
        "systems": None,
    }
    with pytest.raises(UserError, match="twice"):
        parsed(["paths=x", "paths.a=y"])


def test_an_unfinished_run_is_left_out(run, capsys):
    (run.path / schema.RESULT).unlink()
    with pytest.raises(UserError, match="only finished runs are evaluated"):
        evaluate(run, "rotation", SMALL)
    assert main(["evaluate", str(run.path), "rotation"]) == 0
    assert not (run.path / "evaluations").exists()


def test_an_evaluation_that_fails_says_why_and_leaves_nothing_half_done(run, capsys):
    assert main(["evaluate", str(run.path), "rotation", "split=tset"]) == 1
    assert "val_id" in capsys.readouterr().err
    assert evaluations.result(run, "rotation") is None
    assert run.state() == schema.FINISHED


def test_a_job_makes_what_is_missing_and_trains_nothing(run):
    weights = (run.path / "checkpoints" / "best.pt").read_bytes()
    evaluations.want(run, {"rotation": FULL | SMALL})
    assert evaluations.standing(run) == schema.INTERRUPTED
    assert run.state() == schema.FINISHED
    segments = len(run.segments())
    job(str(run.path))
    assert evaluations.standing(run) == schema.FINISHED
    assert evaluations.missing(run) == []
    assert len(run.segments()) == segments
    assert (run.path / "checkpoints" / "best.pt").read_bytes() == weights
    before = stamp(run)
    job(str(run.path))
    assert stamp(run) == before
    evaluations.want(run, {"rotation": FULL | SMALL | {"seed": 1}})
    assert evaluations.missing(run) == ["rotation"]


def test_of_several_evaluations_one_that_fails_takes_no_other_along(run):
    wanted = {
        "relax": {"splits": ["nowhere"]},
        "rotation": FULL | SMALL,
    }
    evaluations.want(run, wanted)
    with pytest.raises(SystemExit):
        job(str(run.path))
    assert evaluations.missing(run) == ["relax"]
    outcome = outcome_of(run, 1)
    assert outcome.state == schema.FAILED
    assert outcome.message.startswith("evaluation relax: ValueError: ")
    assert "nowhere" in outcome.message
    evaluations.forget_failures(run)
    assert outcome_of(run, -9).state == schema.INTERRUPTED


def test_what_another_sweep_wants_of_a_shared_run_is_not_this_ones_business(run):
    """A result that another sweep wanted was replaced by hand; a launch that asks for none ends."""
    evaluations.want(run, {"rotation": FULL | SMALL})
    evaluate(run, "rotation", SMALL | {"seed": 1})
    assert outcome_of(run).state == schema.INTERRUPTED
    assert outcome_of(run, asked={}).state == schema.FINISHED
    assert outcome_of(run, asked={"rotation": FULL | SMALL}).state == schema.INTERRUPTED


@pytest.mark.parametrize("device", ["xpu", "nope"])
def test_a_device_that_is_not_there_is_named_and_no_checkpoint_is_blamed(
    run, device, tmp_path, capsys
):
    ase.io.write(tmp_path / "in.extxyz", Atoms("N2", [(0, 0, 0), (0, 0, 1.2)], cell=[8] * 3))
    for words in (["evaluate", str(run.path), "rotation"], ["relax", str(run.path), "in.extxyz"]):
        words[-1] = words[-1].replace("in.extxyz", str(tmp_path / "in.extxyz"))
        assert main([*words, "--device", device]) == 1
        told = capsys.readouterr().err
        assert device in told
        assert "device" in told
        assert "checkpoint" not in told


def test_a_run_that_is_made_again_is_evaluated_again(run):
    evaluations.want(run, {"rotation": FULL | SMALL})
    job(str(run.path))
    restart(run)
    assert evaluations.result(run, "rotation") is None
    assert (run.path / schema.EARLIER / "1" / "evaluations" / "rotation.json").is_file()
    assert evaluations.wanted(run) == {"rotation": FULL | SMALL}


def test_structures_are_relaxed_from_the_command_line(run, mini_oc_tiny, tmp_path, capsys):
    ends = mini_oc_tiny.relaxations("val_id")
    images = [structure_to_atoms(ends[index]) for index in (0, 2)]
    images[0].info["name"] = "first"
    ase.io.write(tmp_path / "in.extxyz", images)
    command = ["relax", str(run.path), str(tmp_path / "in.extxyz"), "--steps", "3"]
    assert main([*command, "--trajectories", str(tmp_path / "paths")]) == 0
    paths = [ase.io.read(tmp_path / "paths" / f"{number}.traj", ":") for number in (0, 1)]
    assert [len(path) for path in paths] == [4, 4]
    assert "2 structures, 0 converged, 2 stopped after 3 steps, 0 failed" in capsys.readouterr().out
    out = ase.io.read(tmp_path / "in-relaxed.extxyz", ":")
    assert [len(one) for one in out] == [len(one) for one in images]
    assert out[0].info["name"] == "first"
    assert out[0].info["relaxation"] == "stopped"
    for before, after in zip(images, out, strict=True):
        held = before.constraints[0].index
        assert np.array_equal(after.constraints[0].index, held)
        assert np.allclose(after.positions[held], before.positions[held], atol=1e-7)
        assert np.abs(after.positions - before.positions).max() > 1e-3
    assert np.isfinite(out[0].get_forces()).all()
    assert np.allclose(paths[1][-1].positions, out[1].positions, atol=1e-7)

    images.append(Atoms("Kr2", positions=[(0, 0, 0), (0, 0, 2)], cell=[8] * 3, pbc=True))
    ase.io.write(tmp_path / "in.extxyz", images)
    assert main([*command, "--out", str(tmp_path / "out.traj")]) == 1
    told = capsys.readouterr()
    assert "1 failed" in told.out
    assert "structure 2 failed: the model has no input data for" in told.err
    assert len(ase.io.read(tmp_path / "out.traj", ":")) == 3


def test_what_cannot_be_relaxed_is_a_sentence(run, tmp_path, capsys):
    (tmp_path / "bad.extxyz").write_text("3\n\nnot a structure\n")
    for file, words in (("missing.extxyz", "missing.extxyz"), ("bad.extxyz", "cannot be read as")):
        assert main(["relax", str(run.path), str(tmp_path / file)]) == 1
        assert words in capsys.readouterr().err
    ase.io.write(tmp_path / "in.extxyz", Atoms("N2", [(0, 0, 0), (0, 0, 1.2)], cell=[8] * 3))
    command = ["relax", str(run.path), str(tmp_path / "in.extxyz"), "--steps", "1"]
    assert main([*command, "--out", str(tmp_path / "relaxed.nonsense")]) == 1
    told = capsys.readouterr()
    assert "ASE writes no files that end as relaxed.nonsense" in told.err
    assert "relaxing" not in told.err
    assert not list(tmp_path.glob("*relaxed*"))


@pytest.mark.parametrize("page", ["README.md", "docs/relaxation.md"])
def test_the_documented_lines_of_python_run(page, run, mini_oc_tiny, monkeypatch):
    text = (REPOSITORY / page).read_text()
    block = re.search(r"(?m)^    import atomsweep\n(?:    .*\n|\n)+", text)[0]
    code = "\n".join(line.strip() for line in block.splitlines())
    assert "runs/<run>" in code
    code = code.replace("<run>", run.name)
    monkeypatch.chdir(run.path.parents[1])
    atoms = structure_to_atoms(mini_oc_tiny.relaxations("val_id")[0])
    names = {"atoms": atoms}
    exec(re.sub(r"fmax=0.05(, steps=200)?", "fmax=0.05, steps=3", code), names)
    assert names["forces"].shape == (len(atoms), 3)
    assert len(names["relaxed"][0]) == len(atoms)
    assert isinstance(names["model"], type(atomsweep.load(run.path)))


SWEEP = """\
title: Stability
rows: {augmentation: [rotate_z, none]}
overrides: [data=mini_oc_tiny, model.hidden_channels=8, model.decoder_channels=8,
            model.num_layers=1, engine.steps=40, engine.eval_every=20, tracking=none]
evaluations:
  rotation: {structures: 4, rotations: 3, scale: {laptop: {rotations: 2}}}
scale: {laptop: []}
"""


@pytest.mark.long
def test_a_sweep_evaluates_its_cells_and_a_relaunch_makes_only_what_is_missing(
    tmp_path, mini_oc_tiny
):
    shutil.copy(REPOSITORY / "run.py", tmp_path)
    (tmp_path / "conf").symlink_to(REPOSITORY / "conf")
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "stable.yaml"
    file.write_text(SWEEP)
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    env["ATOMSWEEP_DATA"] = str(mini_oc_tiny.directory.parent)

    def launch(*more):
        command = [sys.executable, "run.py", "sweeps=stable", *more]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.returncode, done.stderr

    code, told = launch()
    assert code == 0, told
    runs = find_runs(tmp_path / "runs")
    assert len(runs) == 2
    for run in runs:
        assert evaluations.result(run, "rotation")["settings"] == FULL | {
            "structures": 4,
            "rotations": 2,
        }
    results = [(run.path / schema.RESULT).stat().st_mtime_ns for run in runs]
    turned = [stamp(run) for run in runs]

    more = SWEEP.replace("\nscale:", "\n  relax: {steps: 1, systems: 1}\nscale:")
    file.write_text(more)
    code, told = launch("plan=true")
    assert "finished, lacks relax" in told
    assert "2 cells: 2 finished; a launch runs 0; evaluates 2 that are trained" in told
    code, told = launch()
    assert code == 0, told
    assert all("relax/val_avg/adwt" in evaluations.result(r, "relax")["metrics"] for r in runs)
    assert [(run.path / schema.RESULT).stat().st_mtime_ns for run in runs] == results
    assert [stamp(run) for run in runs] == turned
    assert all(len(run.segments()) == 1 for run in runs)

    file.write_text(more.replace("systems: 1}", "splits: [nowhere]}"))
    code, told = launch()
    assert code == 1
    assert told.count("failed       evaluation relax: ValueError: ") == 2
