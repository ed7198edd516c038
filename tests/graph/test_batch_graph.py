"""Graphs of a batch that moves, against those of its structures one by one."""

import numpy as np
import pytest
import torch

from atomsweep.graph import skin
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.graph.search import find_pairs
from atomsweep.graph.skin import SKIN, MovingGraph
from tests.contracts.graphs import make_batch, random_atoms


def batch_of(structures):
    return make_batch(structures, cutoff=None, dtype=torch.float64)


def assert_edges(batch, graph):
    """Those of each structure alone, in any order among the edges of an atom."""
    first = 0
    for number in range(len(batch.cell)):
        start, end = batch.ptr[number : number + 2].tolist()
        index, offsets = graph(
            batch.pos[start:end].numpy(), batch.cell[number].numpy(), batch.pbc[number].numpy()
        )
        mine = slice(first, first := first + index.shape[1])
        assert int(batch.num_edges_per_structure[number]) == index.shape[1]
        assert (batch.edge_index[1, mine].diff() >= 0).all()
        rows = [np.column_stack([index.T + start, offsets])]
        rows.append(torch.cat([batch.edge_index[:, mine].T, batch.cell_offsets[mine]], 1).numpy())
        assert np.array_equal(*(one[np.lexsort(one.T)] for one in rows))
    assert batch.edge_index.shape[1] == first
    assert batch.cell_offsets.dtype == torch.int16


@pytest.fixture
def searches(monkeypatch):
    """Sizes of the structures that were searched."""
    seen = []

    def find(pos, cell, pbc, natoms, *rest):
        seen.extend(natoms)
        return find_pairs(pos, cell, pbc, natoms, *rest)

    monkeypatch.setattr(skin, "find_pairs", find)
    return seen


@pytest.mark.parametrize("graph", [RadiusGraph(5.0, 12), RadiusGraph(4.0, None)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_has_the_edges_of_its_structures_wherever_they_move(graph, threads, searches):
    batch, moving = batch_of([random_atoms(seed) for seed in range(5)]), MovingGraph(graph, threads)
    torch.manual_seed(0)
    for _ in range(8):
        assert moving.attach(batch) == {}
        assert_edges(batch, graph)
        batch.pos = batch.pos + 0.08 * torch.randn_like(batch.pos)
    assert 5 < len(searches) < 5 * 6


def test_pairs_are_found_again_only_for_who_has_moved_far(searches):
    structures = [random_atoms(seed) for seed in range(4)]
    batch, graph = batch_of(structures), RadiusGraph(5.0, 12)
    moving = MovingGraph(graph)
    moving.attach(batch)
    searches.clear()
    batch.pos = batch.pos.clone()
    batch.pos[batch.ptr[2], 0] += 0.3 * SKIN
    moving.attach(batch)
    assert searches == []
    batch.pos[batch.ptr[2], 0] += 0.3 * SKIN
    moving.attach(batch)
    assert searches == [len(structures[2].pos)]
    assert_edges(batch, graph)
    searches.clear()  # one leaves, another enters
    others = batch_of([structures[0], *structures[2:], random_atoms(9)])
    others.pos[: batch.ptr[1]] = batch.pos[: batch.ptr[1]]
    others.pos[others.ptr[1] : others.ptr[3]] = batch.pos[batch.ptr[2] :]
    moving.attach(others)
    assert searches == [len(random_atoms(9).pos)]
    assert_edges(others, graph)
    searches.clear()
    others.cell = 1.02 * others.cell
    moving.attach(others)
    assert len(searches) == 4
    assert_edges(others, graph)


@pytest.mark.parametrize("before", [False, True])
def test_a_structure_that_has_no_graph_is_named_and_the_others_keep_theirs(before, monkeypatch):
    batch, moving = (
        batch_of([random_atoms(seed) for seed in range(3)]),
        MovingGraph(RadiusGraph(5.0, None)),
    )
    if before:  # that it comes to have none is seen with the pairs of the last call
        monkeypatch.setattr(skin, "SKIN", 1e6)
        moving.attach(batch)
    batch.pos = batch.pos.clone()
    batch.pos[batch.ptr[1] + 1] = batch.pos[batch.ptr[1]]
    for _ in range(2):
        faults = moving.attach(batch)
        assert list(faults) == [1]
        assert "apart; remove the duplicate" in faults[1]
        assert batch.num_edges_per_structure.tolist()[1] == 0
        of_edges = batch.batch[batch.edge_index[1]]
        assert torch.equal(of_edges.unique(), torch.tensor([0, 2]))
    monkeypatch.undo()
    alone = MovingGraph(RadiusGraph(0.1, None)).attach(batch)
    assert all("no edges within 0.1 Å" in alone[number] for number in (0, 2))
