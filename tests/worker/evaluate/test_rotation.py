"""Stability under rotation against closed forms and a slow loop."""

import numpy as np
import pytest
import torch

from atomsweep.augment import RotateSO3, RotateZ
from atomsweep.models.base import Prediction
from atomsweep.sweep.evaluation_settings import Rotation
from atomsweep.worker.evaluate.rotation import force_variance, rotation
from atomsweep.worker.trained import load
from tests.contracts.graphs import make_batch, random_atoms


def matrices(kind, structures, rotations, seed=0):
    drawn = kind().draw(structures * rotations, torch.Generator().manual_seed(seed))
    return drawn.view(structures, rotations, 3, 3)


def batch_of_three():
    return make_batch([random_atoms(seed) for seed in range(3)], cutoff=None)


@pytest.mark.parametrize("kind", [RotateZ, RotateSO3])
def test_an_equivariant_model_is_stable(kind):
    def inward(batch):
        return Prediction(forces=-1e3 * batch.pos)

    found = force_variance(inward, batch_of_three(), matrices(kind, 3, 7))
    assert found.sqrt().max() < 1e-9


def test_a_force_that_stays_behind_about_z_has_the_spread_of_a_turning_vector():
    """A constant (a, b, c), turned back: x and y spread like (a² + b²)/2, z not at all."""
    constant = torch.tensor([3.0, 4.0, 7.0], dtype=torch.float64)

    def stubborn(batch):
        return Prediction(forces=constant.expand(len(batch.pos), 3))

    batch = batch_of_three()
    variance = force_variance(stubborn, batch, matrices(RotateZ, 3, 2000)).mean(0)
    assert variance[:2].tolist() == pytest.approx([12.5, 12.5], rel=0.05)
    assert variance[2] < 1e-12


def test_it_is_the_variance_of_numpy_and_leaves_the_batch_as_it_was():
    def odd(batch):
        cell = batch.cell[batch.batch]
        return Prediction(forces=batch.pos**2 + cell[:, 0] * cell[:, 1])

    batch, turns = batch_of_three(), matrices(RotateSO3, 3, 5)
    before = batch.pos.clone(), batch.cell.clone()
    found = force_variance(odd, batch, turns)
    assert torch.equal(batch.pos, before[0])
    assert torch.equal(batch.cell, before[1])
    for atom in range(len(batch.pos)):
        b = int(batch.batch[atom])
        forces = []
        for turn in turns[b].numpy():
            cell = batch.cell[b].numpy() @ turn.T
            force = (turn @ batch.pos[atom].numpy()) ** 2 + cell[0] * cell[1]
            forces.append(turn.T @ force)
        assert np.allclose(found[atom].numpy(), np.var(forces, axis=0), rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def model(tiny_run):
    return load(tiny_run.path, device="cpu")


def evaluated(model, **settings):
    return rotation(model, Rotation(**settings), lambda done, total: None)


def test_batch_size_changes_nothing_and_a_seed_makes_it(model):
    base = {"structures": 9, "rotations": 4}
    first = evaluated(model, **base)
    assert first["structures"] == 9
    assert first["forces_std"] > 1e-5
    other = evaluated(model, **base, batch_size=4)
    assert other["forces_std"] == pytest.approx(first["forces_std"], rel=1e-5)
    assert evaluated(model, **base) == first
    assert evaluated(model, **base, seed=1)["forces_std"] != first["forces_std"]
    assert evaluated(model, **base, about="any")["forces_std"] != first["forces_std"]
    assert first["forces_std_norm"] >= first["forces_std"]


def test_a_small_split_is_taken_whole(model, mini_oc_tiny):
    found = evaluated(model, structures=10**6, rotations=2)
    assert found["structures"] == len(mini_oc_tiny.split("val_id"))


def test_a_model_without_forces_is_a_sentence():
    with pytest.raises(ValueError, match="rotation needs a model that predicts forces"):
        force_variance(lambda batch: Prediction(), batch_of_three(), matrices(RotateZ, 3, 2))


def test_a_split_that_does_not_exist_lists_those_that_do(model):
    with pytest.raises(ValueError, match="val_id"):
        evaluated(model, split="validation")
