"""Pairs of edges, held against loops over a dictionary."""

import pytest
import torch

from atomsweep.graph.pairs import pairs_of
from tests.contracts.graphs import make_batch, random_atoms


def by_loops(edge_index, cell_offsets):
    """Pairs numbered as they come, the way back looked up."""
    known, first, pair = {}, [], []
    for edge, (s, t) in enumerate(edge_index.T.tolist()):
        offset = tuple(cell_offsets[edge].tolist())
        there, back = (s, t, *offset), (t, s, *(-x for x in offset))
        if back in known:
            pair.append(known[back])
            continue
        known[there] = len(first)
        pair.append(len(first))
        first.append(edge)
    return first, pair


@pytest.mark.parametrize("max_neighbors", [None, 4])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_pairs_are_those_of_a_loop(pbc, max_neighbors):
    """Atoms that are their own neighbours, images beyond the next cell, edges whose way back a
    limit cut off; two structures, so equal offsets between other atoms."""
    structures = [random_atoms(seed, (1, 2, 3), pbc) for seed in (1, 2)]
    batch = make_batch(structures, 7.0, max_neighbors)
    first, pair = pairs_of(batch.edge_index, batch.cell_offsets)
    wanted = by_loops(batch.edge_index, batch.cell_offsets)
    assert (first.tolist(), pair.tolist()) == wanted
    edges = batch.edge_index.shape[1]
    if max_neighbors is None:
        assert 2 * len(first) == edges
    else:
        assert edges / 2 < len(first) < edges


def test_edges_in_any_order_and_none_at_all():
    batch = make_batch([random_atoms(3)], 5.0, None)
    order = torch.randperm(batch.edge_index.shape[1])
    index, offsets = batch.edge_index[:, order], batch.cell_offsets[order]
    first, pair = pairs_of(index, offsets)
    assert (first.tolist(), pair.tolist()) == by_loops(index, offsets)
    first, pair = pairs_of(index[:, :0], offsets[:0])
    assert first.shape == pair.shape == (0,)


def test_what_64_bits_cannot_tell_apart_is_refused():
    index = torch.tensor([[1_000_000], [0]])
    with pytest.raises(ValueError, match="use smaller batches"):
        pairs_of(index, torch.tensor([[100_000, 0, 0]]))
