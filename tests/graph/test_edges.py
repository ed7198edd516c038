import numpy as np
import pytest
import torch

from atomsweep.data.structure import Structure
from atomsweep.graph.edges import edge_vectors, pairs_of_edges, reverse_edges
from atomsweep.graph.neighbors import RadiusGraph
from tests.contracts.graphs import make_batch, random_atoms
from tests.data.batches.collated import structures_to_batch


def batch_of_two(cutoff=4.0, max_neighbors=None):
    rng = np.random.default_rng(0)

    def structure(natoms, length):
        cell = length * np.eye(3) + rng.uniform(-1, 1, (3, 3))
        return Structure(
            atomic_numbers=np.full(natoms, 29),
            pos=rng.uniform(-0.5, 1.5, (natoms, 3)) @ cell,
            cell=cell,
            pbc=np.ones(3, dtype=bool),
            tags=np.ones(natoms, dtype=int),
            fixed=np.zeros(natoms, dtype=bool),
        )

    graph = RadiusGraph(cutoff, max_neighbors)
    return structures_to_batch([structure(5, 5.0), structure(7, 6.0)], graph)


def test_edge_vectors_point_from_centre_to_neighbour_image():
    batch = batch_of_two()
    vec = edge_vectors(batch)
    for e in range(batch.edge_index.shape[1]):
        source, target = batch.edge_index[:, e]
        cell = batch.cell[batch.batch[target]]
        expected = batch.pos[source] + batch.cell_offsets[e].float() @ cell - batch.pos[target]
        assert torch.allclose(vec[e], expected, atol=1e-5)
    assert (vec.norm(dim=1) < 4.0 + 1e-5).all()


def test_edge_vectors_differentiate_in_positions_and_cell():
    batch = batch_of_two(cutoff=3.0)
    batch.pos = batch.pos.double().requires_grad_()
    batch.cell = batch.cell.double().requires_grad_()

    def vectors(pos, cell):
        batch.pos, batch.cell = pos, cell
        return edge_vectors(batch)

    assert torch.autograd.gradcheck(vectors, (batch.pos, batch.cell))


def test_moving_an_atom_by_a_lattice_vector_moves_only_its_own_edges():
    batch = batch_of_two()
    before = edge_vectors(batch)
    batch.pos[0] += batch.cell[0, 1]
    moved = ~torch.isclose(edge_vectors(batch), before, atol=1e-5).all(1)
    touches = (batch.edge_index == 0).any(0) & (batch.edge_index[0] != batch.edge_index[1])
    assert torch.equal(moved, touches)


@pytest.mark.parametrize("max_neighbors", [None, 6])
def test_reverse_edge_leads_back_between_the_same_images(max_neighbors):
    batch = batch_of_two(max_neighbors=max_neighbors)
    edges, offsets = batch.edge_index.T.tolist(), batch.cell_offsets.tolist()
    reverse, exists = reverse_edges(batch.edge_index, batch.cell_offsets, len(batch.pos))
    place = {(*pair, *shift): e for e, (pair, shift) in enumerate(zip(edges, offsets, strict=True))}
    wanted = [
        place.get((target, source, *(-n for n in shift)))
        for (source, target), shift in zip(edges, offsets, strict=True)
    ]
    assert exists.tolist() == [edge is not None for edge in wanted]
    assert all(r == w for r, w in zip(reverse.tolist(), wanted, strict=True) if w is not None)
    assert exists.all() == (max_neighbors is None)


def test_offset_of_hundreds_of_cells_is_refused():
    pairs, offsets = torch.tensor([[0], [0]]), torch.tensor([[0, 600, 0]])
    with pytest.raises(ValueError, match="within ±511 cells, got 600; wrap"):
        reverse_edges(pairs, offsets, 1)
    with pytest.raises(ValueError, match="at most 92681 atoms"):  # keys of edges would overflow
        reverse_edges(pairs, torch.zeros_like(offsets), 92_682)


def test_no_edges_have_no_reverse():
    reverse, exists = reverse_edges(torch.zeros(2, 0).long(), torch.zeros(0, 3), 3)
    assert reverse.shape == exists.shape == (0,)


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
    first, pair = pairs_of_edges(batch.edge_index, batch.cell_offsets, len(batch.pos))
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
    first, pair = pairs_of_edges(index, offsets, len(batch.pos))
    assert (first.tolist(), pair.tolist()) == by_loops(index, offsets)
    first, pair = pairs_of_edges(index[:, :0], offsets[:0], len(batch.pos))
    assert first.shape == pair.shape == (0,)
