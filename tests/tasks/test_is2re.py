"""IS2RE: values by hand, no gradient where none is read, data that do not fit are refused."""

from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Batch

from atomsweep.data.dataset import InMemoryDataset, RelaxedEnergies
from atomsweep.engine.optim import Exponential
from atomsweep.models.base import Prediction, energy_and_forces
from atomsweep.tasks.is2re import IS2RE
from atomsweep.tasks.normalize import NormalizedModel, Normalizer
from atomsweep.tasks.s2ef import S2EF
from atomsweep.tracking import schema
from tests.contracts.compose import build_model
from tests.data.store.test_dataset import random_structure

BATCH = Batch(
    pos=torch.zeros(3, 3),
    cell=torch.zeros(2, 3, 3),
    batch=torch.tensor([0, 0, 1]),
    natoms=torch.tensor([2, 1]),
    energy=torch.tensor([1.0, 3.0]),
    forces=torch.tensor([[3.0, 4, 0], [9, 9, 9], [0, 0, 2]]),
    fixed=torch.tensor([False, True, False]),
)


def test_loss_and_metrics_by_hand():
    task = IS2RE(Normalizer(0.0, 2.0, "energy"))
    prediction = Prediction(torch.tensor([1.01, 0.0]))
    total, count = task.totals(prediction, BATCH)["energy"], task.counts(BATCH)["energy"]
    assert float(total / count) == pytest.approx(3.01 / 4)
    found = {name: mean.value() for name, mean in task.metrics(prediction, BATCH).items()}
    assert tuple(found) == task.metric_names
    assert found[schema.ENERGY_MAE] == pytest.approx(3.01 / 2)
    assert found[schema.EWT] == 0.5
    assert found[schema.NORMALISED_L1] == pytest.approx(3.01 / 4)


def test_joint_loss_of_s2ef_counts_every_atom_and_merges_over_unequal_parts():
    task = S2EF(Normalizer(0.0, 2.0, 4.0), 1.0, 1.0)
    zero = Prediction(torch.zeros(2), torch.zeros(3, 3))
    whole = task.metrics(zero, BATCH)
    assert tuple(sorted(whole)) == tuple(sorted(task.metric_names))
    mean = whole[schema.NORMALISED_L1]
    assert mean.value() == pytest.approx((1 + 3) / 2 / 2 + (7 + 27 + 2) / 9 / 4)
    assert (mean + mean).value() == pytest.approx(mean.value())


def test_a_gradient_that_nobody_reads_is_not_taken():
    def energy(vectors):
        assert not vectors.requires_grad
        return vectors.square().sum()[None]

    ends = torch.zeros(1, dtype=torch.int64)
    found = energy_and_forces(energy, torch.ones(1, 3), ends, ends, 1, forces_wanted=False)
    assert found.forces is None
    assert found.energy is not None
    assert float(found.energy) == 3.0


def test_initial_structures_carry_the_energy_of_the_relaxed_ones():
    ends = [replace(random_structure(seed), sid=seed // 2) for seed in range(4)]
    view = RelaxedEnergies(InMemoryDataset(ends), "pairs")
    assert len(view) == 2
    assert view[1].pos is ends[2].pos
    assert view[1].energy == ends[3].energy
    assert view[1].forces is None
    assert view.natoms.tolist() == [ends[0].natoms, ends[2].natoms]
    with pytest.raises(IndexError, match="2 structures"):
        view[2]


def test_a_wrapped_model_says_that_nobody_wants_forces():
    inner = build_model(["model=egnn_72k"])
    assert NormalizedModel(inner, Normalizer(0.0, 2.0, "energy")).forces_wanted
    assert not IS2RE(Normalizer(0.0, 2.0, "energy")).adapt(inner).forces_wanted


def test_rate_falls_once_an_epoch():
    schedule = Exponential(gamma=0.5, epochs=4)
    assert [schedule(step / 40) for step in (0, 9, 10, 19, 20, 40)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        1 / 16,
    ]
