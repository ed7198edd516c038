"""The sample of predictions that a finished run leaves for the report."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.engine import samples
from atomsweep.report.read.predictions import read_predictions


class Twice(torch.nn.Module):
    """Predicts twice the reference, or nothing."""

    def prepare(self, batch):
        return batch

    def forward(self, batch):
        return SimpleNamespace(forces=2 * batch.forces if self.told else None)


def dataset(count):
    items = []
    for i in range(count):
        atoms = molecule("H2O" if i % 2 else "CO")
        atoms.calc = SinglePointCalculator(
            atoms, energy=0.0, forces=np.full((len(atoms), 3), i / 10)
        )
        items.append(structure_from_atoms(atoms, sid=i, fid=7))
    return GraphDataset(InMemoryDataset(items, "made"), None)


def write(tmp_path, count, told=True):
    model = Twice().train()
    model.told = told
    path = samples.write_sample(
        tmp_path, "val_id", model, dataset(count), 5, torch.device("cpu"), nullcontext
    )
    assert model.training
    return path


def test_a_sample_is_spread_over_the_split_and_reads_back(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE", 6)
    found = read_predictions(write(tmp_path, 11))
    assert found.arrays["sid"].tolist() == [0, 2, 4, 6, 8, 10]
    assert set(found.arrays["fid"].tolist()) == {7}
    np.testing.assert_allclose(found.structure_errors(), [0, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)


def test_a_model_without_forces_leaves_no_sample(tmp_path):
    assert write(tmp_path, 3, told=False) is None
    assert not list(tmp_path.iterdir())
