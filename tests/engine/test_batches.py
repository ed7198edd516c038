"""What is random or searched is made by the loader, and is the same whoever makes it, and when."""

import dataclasses
from contextlib import closing

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from atomsweep import keys
from atomsweep.augment import RotateSO3
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.engine.batches import StepBatches, eval_shares
from atomsweep.engine.distributed import ALONE, World
from atomsweep.graph.clouds import adsorbate_clouds
from atomsweep.graph.neighbors import RadiusGraph
from tests.contracts.compose import build_model
from tests.dens.toys import Toy, dens, s2ef
from tests.engine.fake_gpu_cases import structures

CPU = torch.device("cpu")
GRAPH = RadiusGraph(4.0, None)


@pytest.fixture(scope="module")
def data():
    return GraphDataset(InMemoryDataset(structures(8), "slabs"), GRAPH)


def made(data, steps, workers=0, world=ALONE, accumulate=1, model=None, start=0):
    task = dens(prob=0.7, sigma_high=0.3).around(s2ef())
    task.adapt(Toy())
    model = Toy() if model is None else model
    batches = StepBatches(data, task, model, 4, accumulate, RotateSO3(), 5, world, CPU, workers)
    with closing(batches.start(start)) as found:
        return [next(found) for _ in range(steps)]


def assert_same(one, two):
    assert set(one.keys()) == set(two.keys())
    for name in one.keys():  # noqa: SIM118
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_make_the_bits_that_the_loop_would(data, workers):
    for one, two in zip(made(data, 5), made(data, 5, workers), strict=True):
        assert_same(one[0], two[0])


def test_a_batch_comes_turned_then_corrupted_and_with_its_graph(data):
    (batch,) = made(data, 1)[0]
    moved = batch[keys.DENS_MOVED]
    assert moved.any()
    assert not torch.equal(batch.cell, data.batch(np.arange(4)).cell)  # turned
    noise = batch[keys.DENS_NOISE] * 0.3
    clean = dataclasses.replace(GRAPH)
    for number in range(4):
        atoms = slice(int(batch.ptr[number]), int(batch.ptr[number + 1]))
        expected, _ = clean(batch.pos[atoms], batch.cell[number], batch.pbc[number])
        inside = batch.batch[batch.edge_index[1]] == number
        if batch[keys.DENS_STRUCTURES][number]:
            found = batch.edge_index[:, inside] - int(batch.ptr[number])
            assert found.tolist() == expected.tolist()
    assert torch.equal(noise[~moved], torch.zeros_like(noise[~moved]))


def test_ranks_and_micro_batches_have_the_bits_of_the_whole(data):
    (whole,) = made(data, 1)[0]
    by_id = {int(sid): number for number, sid in enumerate(whole.sid)}
    parts = [made(data, 1, world=World(rank, 2))[0][0] for rank in range(2)]
    parts += made(data, 1, accumulate=2)[0]
    for part in parts:
        for number, sid in enumerate(part.sid.tolist()):
            mine = part.pos[part.batch == number]
            assert torch.equal(mine, whole.pos[whole.batch == by_id[sid]])


def test_galas_clouds_come_with_the_batch_and_change_no_bit(data):
    model = build_model(["model=gala", "size=small"]).eval()
    flat = GraphDataset(data.dataset, None)
    plain = flat.batch(np.arange(4))
    (ready,) = eval_shares(flat, model, 8, ALONE, CPU, 1, lambda: None)
    expected = adsorbate_clouds(flat.batch(np.arange(8)), model.sample_size, model.sample_seed)
    for one, two in zip(tree_leaves(ready[keys.CLOUDS]), tree_leaves(expected), strict=True):
        assert torch.equal(one, two)
    prepared = model.prepare(plain)
    assert keys.CLOUDS not in plain
    for one, two in zip(model(prepared)[:2], model(plain)[:2], strict=True):
        assert torch.equal(one, two)
