"""Graphs of a batch against those of its structures one by one."""

import numpy as np
import pytest
import torch

from atomsweep.graph.batch import attach_edges
from atomsweep.graph.neighbors import RadiusGraph
from tests.contracts.graphs import make_batch, random_atoms


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_has_the_edges_of_its_structures(threads):
    structures = [random_atoms(seed) for seed in range(5)]
    graph = RadiusGraph(5.0, 12)
    batch = make_batch(structures, cutoff=None)
    assert attach_edges(batch, graph, threads) == {}
    first = 0
    for number, atoms in enumerate(structures):
        index, offsets = graph(atoms.pos, atoms.cell, atoms.pbc)
        mine = slice(first, first + index.shape[1])
        start = int(batch.ptr[number])
        assert np.array_equal(batch.edge_index[:, mine].numpy(), index + start)
        assert np.array_equal(batch.cell_offsets[mine].numpy(), offsets)
        assert int(batch.num_edges_per_structure[number]) == index.shape[1]
        first = mine.stop
    assert batch.edge_index.shape[1] == first


def test_a_structure_that_has_no_graph_is_named_and_the_others_keep_theirs():
    structures = [random_atoms(seed) for seed in range(3)]
    batch = make_batch(structures, cutoff=None)
    batch.pos[batch.ptr[1] + 1] = batch.pos[batch.ptr[1]]
    faults = attach_edges(batch, RadiusGraph(5.0, None))
    assert list(faults) == [1]
    assert "apart; remove the duplicate" in faults[1]
    assert batch.num_edges_per_structure[1] == 0
    of_edges = batch.batch[batch.edge_index[1]]
    assert torch.equal(of_edges.unique(), torch.tensor([0, 2]))
    alone = attach_edges(batch, RadiusGraph(0.1, None))
    assert all("no edges within 0.1 Å" in alone[number] for number in (0, 2))
