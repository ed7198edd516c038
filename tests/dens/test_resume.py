"""Training with DeNS: any cut of it gives the same bits, and it learns."""

import dataclasses

import numpy as np
import pytest
import torch

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.structure import Structure
from atomsweep.engine.fit import fit as fit_run
from atomsweep.engine.optim import Cosine, Recipe
from atomsweep.engine.signals import Interrupted, StopFlag
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.tasks.normalize import Normalizer
from atomsweep.tracking import schema
from tests.contracts.graphs import random_atoms
from tests.dens.toys import Toy, dens, s2ef
from tests.engine.test_trainer import TRAINER, metrics_of, new_run, weights

TRAIN = dataclasses.replace(TRAINER, steps=12, eval_every=6, checkpoint_every=4)
RECIPE = Recipe(
    optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
    schedule=Cosine(),
    batch_size=6,
    ema_decay=0.9,
    clip_norm=100.0,
)


def structures(num, seed):
    random = np.random.default_rng(seed)
    made = []
    for sid in range(num):
        atoms = random_atoms(100 * seed + sid, repeats=(1, 2, 2))
        made.append(
            Structure(
                atomic_numbers=atoms.atomic_numbers,
                pos=atoms.pos,
                cell=atoms.cell,
                pbc=np.array(atoms.pbc),
                tags=np.ones(4, int),
                fixed=random.random(4) < 0.3,
                forces=random.normal(size=(4, 3)),
                energy=float(random.normal()),
                sid=sid,
            )
        )
    return made


@pytest.fixture(scope="module")
def data():
    return {
        name: GraphDataset(InMemoryDataset(structures(20, seed), name), RadiusGraph(4.0, None))
        for seed, name in enumerate((schema.TRAIN, *schema.VAL_SPLITS))
    }


def fit(run, data, settings, recipe=RECIPE, stop_at=None, conservative=False):
    torch.manual_seed(3)
    task = settings.around(s2ef(normalizer=Normalizer()))
    model = task.adapt(Toy(conservative=conservative))
    stop = StopFlag()

    def watch(update):
        if stop_at is not None and update.step >= stop_at:
            stop.signal = "SIGTERM"

    fit_run(TRAIN, model, task, recipe, data, None, run, 3, stop, watch)
    return model


@pytest.mark.parametrize("conservative", [False, True])
def test_a_run_with_dens_stopped_and_continued_ends_with_the_same_bits(
    tmp_path, data, conservative
):
    settings = dens(sigma_low=0.01, sigma_high=0.3, num_sigmas=50, decay="linear")
    straight = fit(whole := new_run(tmp_path / "a"), data, settings, conservative=conservative)
    run = new_run(tmp_path / "b")
    with pytest.raises(Interrupted):
        fit(run, data, settings, stop_at=4, conservative=conservative)
    continued = fit(run, data, settings, conservative=conservative)
    assert torch.equal(weights(straight), weights(continued))
    assert metrics_of(run) == metrics_of(whole)


@pytest.mark.parametrize("reduction", ["joint", "separate"])
def test_micro_batches_corrupt_the_same_and_give_the_same_gradient(tmp_path, data, reduction):
    settings = dens(reduction=reduction, graph="keep")
    recipe = dataclasses.replace(
        RECIPE, optimizer=lambda p: torch.optim.SGD(p, lr=1e-4), clip_norm=None, ema_decay=None
    )
    one = fit(new_run(tmp_path / "a"), data, settings, recipe)
    three = fit(new_run(tmp_path / "b"), data, settings, dataclasses.replace(recipe, accumulate=3))
    start = fit_nothing()
    assert (weights(one) - start).abs().max() > 1e-4
    torch.testing.assert_close(weights(one), weights(three), rtol=1e-5, atol=1e-6)


def fit_nothing():
    torch.manual_seed(3)
    return weights(Toy())
