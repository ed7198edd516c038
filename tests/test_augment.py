import pytest
import torch

from atomsweep.augment import RotateSO3, RotateZ, StepRandom
from atomsweep.graph.edges import edge_vectors
from tests.contracts.graphs import make_batch, random_atoms

ROTATIONS = [RotateZ(), RotateSO3()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(seed=0, num=3):
    return StepRandom.alone(seed, num)


@pytest.fixture
def batch():
    return make_batch([random_atoms(1), random_atoms(2), random_atoms(3)], cutoff=5.0)


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_edges_forces_and_cells_turn_with_one_rotation_for_each_structure(rotate, batch):
    rotated = rotate(batch, whole())
    rotation = rotate.draw(3, seeded())
    by_edge = rotation[batch.batch[batch.edge_index[1]]]
    expected = torch.einsum("eij,ej->ei", by_edge, edge_vectors(batch))
    torch.testing.assert_close(edge_vectors(rotated), expected)
    for structure in range(3):
        atoms = batch.batch == structure
        turned = batch.forces[atoms] @ rotation[structure].T
        torch.testing.assert_close(rotated.forces[atoms], turned)
        turned = batch.cell[structure] @ rotation[structure].T
        torch.testing.assert_close(rotated.cell[structure], turned)
    assert not torch.allclose(rotation[0], rotation[1])


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_distances_lengths_and_angles_of_the_cell_are_kept(rotate, batch):
    rotated = rotate(batch, whole())
    lengths = [torch.linalg.vector_norm(edge_vectors(b), dim=1) for b in (batch, rotated)]
    torch.testing.assert_close(*lengths)
    torch.testing.assert_close(
        rotated.cell @ rotated.cell.transpose(1, 2), batch.cell @ batch.cell.transpose(1, 2)
    )


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_input_and_graph_are_untouched(rotate, batch):
    before = batch.clone()
    rotated = rotate(batch, whole())
    for name in before.keys():  # noqa: SIM118
        assert torch.equal(batch[name], before[name]), name
    assert rotated.edge_index is batch.edge_index
    assert rotated.cell_offsets is batch.cell_offsets


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_generator_decides_the_rotation(rotate, batch):
    first, again, other = (rotate(batch, whole(seed)).pos for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_rotations_are_proper(rotate):
    rotation = rotate.draw(100, seeded())
    unit = torch.eye(3, dtype=torch.float64).expand(100, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), unit)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(100, dtype=torch.float64))


def test_rotation_about_z_leaves_heights_and_spreads_angles_evenly():
    rotation = RotateZ().draw(20_000, seeded())
    assert torch.equal(rotation[:, :, 2], torch.tensor([0.0, 0.0, 1.0]).expand(20_000, 3).double())
    angle = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    for order in (1, 2, 3):  # a uniform angle has no Fourier component
        assert torch.exp(1j * order * angle).mean().abs() < 0.03


def test_rotations_in_space_have_the_haar_moments():
    rotation = RotateSO3().draw(20_000, seeded())
    assert rotation.mean(dim=0).abs().max() < 0.02
    torch.testing.assert_close(  # <R_ij R_kl> = delta_ik delta_jl / 3
        torch.einsum("nij,nkl->ijkl", rotation, rotation) / 20_000,
        torch.einsum("ik,jl->ijkl", torch.eye(3), torch.eye(3)).double() / 3,
        atol=0.02,
        rtol=0,
    )
    trace = rotation.diagonal(dim1=1, dim2=2).sum(1)
    cos = (trace - 1) / 2  # density of the angle is (1 - cos) / pi, so <cos> = -1/2
    assert abs(cos.mean() + 0.5) < 0.02


def test_forces_may_be_absent(batch):
    del batch.forces
    assert "forces" not in RotateZ()(batch, whole())
