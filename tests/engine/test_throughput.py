"""Rates of epochs and ranks: values that can be counted by hand."""

import pytest
import torch
from torch_geometric.data import Batch

from atomsweep.engine.distributed import World
from atomsweep.engine.throughput import Throughput
from atomsweep.tracking import schema


def batch_of(structures, atoms, edges):
    return Batch(
        natoms=torch.zeros(structures),
        pos=torch.zeros(atoms, 3),
        edge_index=torch.zeros(2, edges, dtype=torch.int64),
    )


def told(values, name, rank=None):
    end = "" if rank is None else schema.OF_RANK.format(rank)
    return values[schema.metric_name(schema.TRAIN, name) + end]


def test_an_entry_covers_whole_epochs_and_at_least_so_many_steps():
    speed = Throughput(World(), batch_size=4, steps_per_epoch=3, step=2, at_least=5)
    assert [step for step in range(3, 13) if speed.due(step)] == [9, 12]
    for _ in range(2, 9):
        speed.count([batch_of(2, 20, 300), batch_of(2, 10, 100)])
        speed.tick(0.5)
    values = speed.of_epoch(9)
    assert told(values, schema.EPOCH) == 3
    assert told(values, schema.EPOCH_STRUCTURES_PER_S) == pytest.approx(4 / 0.5)
    assert told(values, schema.EPOCH_ATOMS_PER_S) == pytest.approx(30 / 0.5)
    assert told(values, schema.EPOCH_EDGES_PER_S) == pytest.approx(400 / 0.5)
    assert len(values) == 4  # alone, a rank is all of them
    assert not speed.due(12)
    speed.count([batch_of(4, 8, 8)])
    speed.tick(2.0)
    assert told(speed.of_epoch(15), schema.EPOCH_ATOMS_PER_S) == pytest.approx(4)


def test_rates_of_ranks_add_up_and_waiting_is_told_apart(monkeypatch):
    """The other rank did half as much in the same time, and waited for none of it."""
    world = World(0, 2)

    def all_reduce(tensor):
        if tensor.numel() > 1:
            tensor[1] = torch.tensor([2.0, 20.0, 100.0, 4.0, 0.0])

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    speed = Throughput(world, batch_size=6, steps_per_epoch=1, step=0, at_least=1)
    speed.count([batch_of(4, 40, 200)])
    world.waited += 3.0
    speed.tick(4.0)
    world.waited += 7.0  # in an evaluation
    speed.skip()
    values = speed.of_epoch(1)
    assert told(values, schema.EPOCH_STRUCTURES_PER_S) == pytest.approx(6 / 4)
    assert told(values, schema.EPOCH_EDGES_PER_S, 0) == pytest.approx(200 / 4)
    assert told(values, schema.EPOCH_EDGES_PER_S, 1) == pytest.approx(100 / 4)
    for name in (schema.EPOCH_STRUCTURES_PER_S, schema.EPOCH_ATOMS_PER_S, schema.EPOCH_EDGES_PER_S):
        assert told(values, name) == pytest.approx(sum(told(values, name, r) for r in (0, 1)))
    assert told(values, schema.EPOCH_WAIT, 0) == pytest.approx(3 / 4)
    assert told(values, schema.EPOCH_WAIT, 1) == 0
    # 200 edges in the one second of work, against 100 in four
    assert told(values, schema.EPOCH_SLOWEST) == pytest.approx(25 / 200)
