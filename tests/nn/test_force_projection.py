import torch
from torch_geometric.data import Batch

from atomsweep.nn.force_projection import ForceProjection

EDGES = torch.tensor([[1, 0], [0, 1]])  # source, target
VEC = torch.tensor([[0.0, 0, 2], [0, 0, -2]])
FORCES = torch.tensor([[1.0, 2, 3], [4, 5, 6]])


def test_forces_of_both_atoms_are_projected_on_the_edge():
    batch = Batch(edge_index=EDGES, dens_forces=FORCES)
    assert ForceProjection()(batch, VEC).tolist() == [[6.0, 3.0, 0.0], [-3.0, -6.0, 0.0]]


def test_the_scale_of_the_noise_is_that_of_the_target_where_it_is_told():
    batch = Batch(edge_index=EDGES, dens_forces=FORCES, dens_sigma=torch.tensor([0.1, 0.2]))
    found = ForceProjection()(batch, VEC)[:, 2]
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2]))


def test_without_forces_there_is_nothing():
    assert (ForceProjection()(Batch(edge_index=EDGES), VEC) == 0).all()
