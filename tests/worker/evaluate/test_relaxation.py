"""IS2RS of a real tiny model: metrics by hand, files for DFT, trajectories."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch

from atomsweep.build import UserError
from atomsweep.data.source import DataSource
from atomsweep.sweep.evaluation_settings import Relax
from atomsweep.tasks.relax import metrics
from atomsweep.tasks.relax.loop import Relaxed, relax
from atomsweep.worker.evaluate.relaxation import (
    NEEDS_DFT,
    energy_metrics,
    relaxation,
    split_metrics,
)
from atomsweep.worker.trained import load
from tests.data.formats.pyg_records import as_pyg_2, is2re_fields, write_lmdb
from tests.tasks.oracle import OraclePotential


def evaluated(model, **settings):
    return relaxation(model, Relax(**settings), lambda done, total: None)


@pytest.fixture
def model(tiny_run):
    return load(tiny_run.path, device="cpu")


def test_splits_are_relaxed_and_averaged(model, mini_oc_tiny):
    found = evaluated(model, steps=5, systems=2)
    for name in ("adwt", "afbt", "fbt"):
        four = [found[f"{split}/{name}"] for split in Relax().splits]
        assert found[f"val_avg/{name}"] == pytest.approx(np.mean(four))
    assert found["val_id/systems"] == 2
    assert found["val_id/failed"] == 0.0
    ends = mini_oc_tiny.relaxations("val_id")
    (first,) = relax([ends[0]], model.potential(), fmax=0.01, steps=5)
    (second,) = relax([ends[2]], model.potential(), fmax=0.01, steps=5)
    far = [
        metrics.mean_distance(one.structure, ends[index])
        for one, index in ((first, 1), (second, 3))
    ]
    assert found["val_id/distance"] == pytest.approx(np.mean(far), abs=1e-4)
    assert found["val_id/adwt"] == pytest.approx(metrics.adwt(far), abs=5e-3)
    assert found["seconds_per_system"] > 0
    assert evaluated(model, steps=5, systems=1, splits=["val_id"]).keys() == {
        *(key for key in found if key.startswith("val_id/")),
        "seconds_per_system",
    }


def test_the_oracle_relaxes_to_structures_that_it_finds_relaxed(mini_oc_tiny):
    """What a perfect model scores: the reference positions came from another optimiser."""
    ends = mini_oc_tiny.relaxations("val_id")
    oracle = mini_oc_tiny.oracle()
    results = list(
        relax([ends[0], ends[2], ends[4]], OraclePotential(oracle), fmax=0.03, steps=200)
    )
    references = [ends[2 * one.index + 1] for one in results]
    found = split_metrics(results, references, oracle)
    converged = [one for one in results if one.converged]
    assert converged
    assert found["fbt"] == pytest.approx(np.mean([one.fmax <= 0.05 for one in results]))
    assert found["afbt"] > 0.5
    perfect = [
        replace(one, structure=reference)
        for one, reference in zip(results, references, strict=True)
    ]
    assert split_metrics(perfect, references, oracle)["adwt"] == 1.0


def test_relaxed_energies_are_held_against_the_reference(mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("val_id")
    shifts = (0.0, 0.01, -0.5)
    results = [
        Relaxed(i, replace(ends[2 * i + 1], energy=ends[2 * i + 1].energy + shift), True, 1, 0.0)
        for i, shift in enumerate(shifts)
    ]
    references = [ends[2 * i + 1] for i in range(3)]
    found = energy_metrics(results, references)
    assert found["energy_mae"] == pytest.approx(0.51 / 3)
    assert found["ewt"] == pytest.approx(2 / 3)
    failed = [replace(results[0], fault="as asked"), *results[1:]]
    assert energy_metrics(failed, references)["ewt"] == pytest.approx(1 / 3)
    assert energy_metrics(failed, references)["energy_mae"] == pytest.approx(0.51 / 2)
    none_ended = energy_metrics([failed[0]], references[:1])
    assert np.isnan(none_ended["energy_mae"])
    assert none_ended["ewt"] == 0.0


def test_a_failed_system_counts_against_the_model(mini_oc_tiny):
    ends = mini_oc_tiny.relaxations("val_id")
    good = Relaxed(0, ends[1], True, 1, 0.0)
    bad = Relaxed(1, ends[2], False, 0, float("nan"), fault="as asked")
    found = split_metrics([good, bad], [ends[1], ends[3]], mini_oc_tiny.oracle())
    assert found["adwt"] == 0.5
    assert found["fbt"] == 0.5
    assert found["failed"] == 0.5
    assert found["converged"] == 0.5


def test_without_an_oracle_structures_are_written_for_dft(
    model, mini_oc_tiny, monkeypatch, tmp_path
):
    monkeypatch.setattr(type(model.source()), "oracle", lambda source: None)
    monkeypatch.setattr(model.run, "path", tmp_path)
    found = evaluated(model, steps=3, systems=2)
    assert found["val_id/afbt"] == found["val_avg/fbt"] == NEEDS_DFT
    assert isinstance(found["val_avg/adwt"], float)
    ends = mini_oc_tiny.relaxations("val_id")
    files = sorted((tmp_path / "evaluations" / "relax" / "val_id").iterdir())
    assert [file.name for file in files] == sorted(f"{ends[i].sid}.extxyz" for i in (0, 2))
    start = next(ends[i] for i in (0, 2) if f"{ends[i].sid}.extxyz" == files[0].name)
    atoms = ase.io.read(files[0])
    assert np.array_equal(atoms.numbers, start.atomic_numbers)
    assert np.allclose(atoms.cell.array, start.cell, atol=1e-5)
    assert np.array_equal(np.flatnonzero(start.fixed), np.sort(atoms.constraints[0].index))
    assert np.allclose(atoms.positions[start.fixed], start.pos[start.fixed], atol=1e-5)
    assert atoms.info["sid"] == start.sid
    assert np.array_equal(atoms.get_tags(), start.tags)
    assert atoms.get_forces(apply_constraint=False).shape == (len(atoms), 3)


def test_trajectories_hold_every_step(model, mini_oc_tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(model.run, "path", tmp_path)
    evaluated(model, steps=4, systems=1, splits=["val_id"], trajectories=True)
    start = mini_oc_tiny.relaxations("val_id")[0]
    (file,) = (tmp_path / "evaluations" / "relax" / "val_id").iterdir()
    frames = ase.io.read(file, ":")
    assert len(frames) == 5
    assert np.allclose(frames[0].positions, start.pos, atol=1e-6)
    assert frames[-1].get_forces(apply_constraint=False).shape == (len(frames[0]), 3)


def test_relaxations_may_come_from_is2re_files(model, monkeypatch, tmp_path):
    """Then nobody knows the true forces, even where the model's own data have an oracle."""
    monkeypatch.setattr(model.run, "path", tmp_path)
    monkeypatch.chdir(tmp_path)  # what is read from the files is kept here
    records = [as_pyg_2(is2re_fields(seed, pos=spread(seed))) for seed in range(3)]
    write_lmdb(tmp_path / "data.lmdb", records)
    settings = {"splits": ["val_id"], "paths": {"val_id": str(tmp_path / "data.lmdb")}}
    found = evaluated(model, steps=2, **settings)
    assert found["val_id/systems"] == 3
    assert found["val_id/failed"] == 0.0
    assert found["val_id/afbt"] == NEEDS_DFT
    assert len(list((tmp_path / "evaluations" / "relax" / "val_id").iterdir())) == 3


def spread(seed):
    """Four atoms that do not touch."""
    grid = 2.0 * torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return grid + 0.1 * torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))


def test_data_without_relaxations_name_the_remedy(model, monkeypatch):
    monkeypatch.setattr(type(model.source()), "relaxations", DataSource.relaxations)
    with pytest.raises(UserError, match=r"no relaxed structures; .* paths.val_id=<file>.lmdb"):
        evaluated(model, splits=["val_id"])
