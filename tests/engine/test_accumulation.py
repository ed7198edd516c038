"""A step in micro-batches has the gradient of the whole batch, for the tasks with energies."""

import dataclasses

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.engine.fit import fit
from atomsweep.engine.optim import Recipe
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.tracking import schema
from tests.contracts.compose import compose
from tests.engine.test_trainer import RECIPE, SEED, TRAINER, new_run, structures, weights

LABELS = ["size=small", "task.normalizer.energy_mean=0.3", "task.normalizer.energy_std=2"]
CASES = [
    ["task=is2re", "model=egnn_72k"],
    ["task=is2re", "model=megnet_986k"],
    ["task=s2ef_matsci", "model=egnn_72k"],
    pytest.param(["task=s2ef_matsci", "model=megnet_1_2m"], marks=pytest.mark.long),
]


class Doubles(GraphDataset):
    """Batches in double precision; remembers how many structures and atoms each had."""

    def batch(self, indices):
        found = super().batch(indices)
        for name in ("pos", "cell", "energy", "forces"):
            found[name] = found[name].double()
        self.sizes = [*getattr(self, "sizes", []), (len(found.natoms), len(found.pos))]
        return found


def labelled(seed):
    energies = np.random.default_rng(seed).normal(size=12).tolist()
    made = [
        dataclasses.replace(structure, energy=energy)
        for structure, energy in zip(structures(12, seed), energies, strict=True)
    ]
    return Doubles(InMemoryDataset(made), RadiusGraph(12.0, None))


def gradient(path, cfg, batch_size, accumulate):
    """Of the first step, by plain descent at rate 1; and the sizes of its micro-batches."""
    torch.manual_seed(SEED)
    task = instantiate(cfg.task)
    model = task.adapt(instantiate(cfg.model)).double()
    data = {schema.TRAIN: labelled(0), "val_id": labelled(1)}
    before = weights(model).clone()
    trainer = dataclasses.replace(TRAINER, steps=1, metric="val_id/energy_mae")
    recipe = Recipe(lambda p: torch.optim.SGD(p, lr=1.0), RECIPE.schedule, batch_size, accumulate)
    fit(trainer, model, task, recipe, data, None, new_run(path), SEED)
    checked, *steps = data[schema.TRAIN].sizes  # the task looks at a batch before training
    assert checked[0] == 12
    return before - weights(model), steps[:accumulate]


@pytest.mark.parametrize("words", CASES, ids=lambda words: " ".join(words))
def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, words):
    """Both parts of 4 have 2 structures but other numbers of atoms; those of 5 differ in both."""
    cfg = compose([*words, *LABELS])
    for size, cut in ((4, [2, 2]), (5, [3, 2])):
        one, whole = gradient(tmp_path / f"one{size}", cfg, size, 1)
        two, parts = gradient(tmp_path / f"two{size}", cfg, size, 2)
        assert [structures for structures, _ in parts] == cut
        assert whole == [(size, sum(atoms for _, atoms in parts))]
        assert parts[0][1] != parts[1][1]
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)
