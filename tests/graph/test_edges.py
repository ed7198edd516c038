import numpy as np
import torch

from atomsweep.data.base import Structure
from atomsweep.data.batching import structures_to_batch
from atomsweep.graph.edges import edge_vectors
from atomsweep.graph.neighbors import RadiusGraph


def batch_of_two(cutoff=4.0):
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

    return structures_to_batch([structure(5, 5.0), structure(7, 6.0)], RadiusGraph(cutoff, None))


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
