import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from atomsweep.nn.basis import (
    GaussianBasis,
    IdentityBasis,
    LinearActBasis,
    NoBasis,
    SineBasis,
    SphericalBasis,
    real_harmonics,
)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def unit_vectors(count):
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_harmonics_are_real_and_imaginary_parts_of_scipys():
    unit = unit_vectors(50)
    polar = np.arccos(unit[:, 2].numpy())
    azimuth = np.arctan2(unit[:, 1].numpy(), unit[:, 0].numpy())
    complex_at = {(n, m): sph_harm_y(n, m, polar, azimuth) for n in range(3) for m in range(n + 1)}
    expected = [
        *(complex_at[n, 0].real for n in (0, 1, 2)),
        *(complex_at[nm].real for nm in ((1, 1), (2, 1), (2, 2))),
        *(complex_at[nm].imag for nm in ((1, 1), (2, 1), (2, 2))),
    ]
    np.testing.assert_allclose(real_harmonics(unit), np.stack(expected, axis=1), atol=1e-14)


@pytest.mark.parametrize("l_max", [0, 1, 3, 5])
def test_harmonics_of_any_degree_are_scipys(l_max):
    unit = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    unit = unit / unit.norm(dim=1, keepdim=True)
    polar, azimuth = torch.acos(unit[:, 2]).numpy(), torch.atan2(unit[:, 1], unit[:, 0]).numpy()
    degrees = [(n, m) for m in range(l_max + 1) for n in range(m, l_max + 1)]
    complex_at = {(n, m): sph_harm_y(n, m, polar, azimuth) for n, m in degrees}
    expected = [complex_at[at].real for at in degrees]
    expected += [complex_at[n, m].imag for n, m in degrees if m > 0]
    np.testing.assert_allclose(real_harmonics(unit, l_max), np.stack(expected, axis=1), atol=1e-13)
    basis = SphericalBasis(7, num_freqs=4, l_max=l_max)
    assert basis(torch.rand(5, 7)).shape == (5, basis.out_dim) == (5, 4 * (l_max + 1) ** 2)


def test_harmonics_are_orthogonal_over_the_sphere():
    nodes, weights = np.polynomial.legendre.leggauss(8)
    azimuth = 2 * np.pi * np.arange(16) / 16
    z, phi = (grid.ravel() for grid in np.meshgrid(nodes, azimuth, indexing="ij"))
    rho = np.sqrt(1 - z**2)
    unit = torch.tensor(np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=1))
    area = torch.tensor(np.repeat(weights, 16) * 2 * np.pi / 16)
    values = real_harmonics(unit)
    norms = torch.tensor([1.0] * 3 + [0.5] * 6)
    torch.testing.assert_close(values.T @ (area[:, None] * values), torch.diag(norms))


def test_harmonics_have_their_numerical_gradient():
    unit = unit_vectors(4).requires_grad_()
    assert torch.autograd.gradcheck(real_harmonics, unit)


def test_sine_frequencies_grow_by_a_tenth():
    x = torch.tensor([[0.3, -0.7]])
    value = SineBasis(in_dim=2, num_freqs=50)(x)
    assert value.shape == (1, 100)
    expected = [math.sin(1.1**j * x[0, d]) for j in range(50) for d in range(2)]
    np.testing.assert_allclose(value[0], expected, atol=1e-12)


def test_gaussians_peak_at_their_centres_and_overlap_by_one_width():
    basis = GaussianBasis(in_dim=1, num_gaussians=50)
    value = basis(torch.tensor([[10 / 49]]))[0]
    assert value[10] == pytest.approx(1.0)
    assert value[11] == pytest.approx(math.exp(-0.5))
    assert value[7] == pytest.approx(math.exp(-4.5))


def test_gaussian_components_of_one_centre_are_adjacent():
    value = GaussianBasis(in_dim=2, num_gaussians=3)(torch.tensor([[0.0, 1.0]]))[0]
    assert value[0] == 1.0  # component 0 at centre 0
    assert value[5] == 1.0  # component 1 at the last centre


def test_spherical_basis_is_the_outer_product_of_harmonics_and_radial_functions():
    basis = SphericalBasis(in_dim=7)
    unit, distances = unit_vectors(5), torch.rand(5, 4)
    value = basis(torch.cat([unit, distances], dim=1))
    radial = torch.stack([torch.sin(1.1**j * distances) for j in range(50)], dim=1).flatten(1)
    radial = radial @ basis.radial.weight.T + basis.radial.bias
    expected = torch.einsum("ek,es->eks", real_harmonics(unit), radial).flatten(1)
    torch.testing.assert_close(value, expected)


def test_linear_act_applies_the_activation_to_a_learned_layer():
    basis = LinearActBasis(in_dim=3, act=torch.nn.Tanh, num_functions=2)
    x = torch.randn(4, 3)
    torch.testing.assert_close(basis(x), torch.tanh(x @ basis.linear.weight.T + basis.linear.bias))


@pytest.mark.parametrize("basis", [IdentityBasis, NoBasis])
def test_raw_inputs_pass_unchanged(basis):
    x = torch.randn(4, 7)
    assert torch.equal(basis(in_dim=7)(x), x)


@pytest.mark.parametrize(
    ("make", "edge_dim", "node_class", "node_dim"),
    [
        (SphericalBasis, 36, SineBasis, 450),
        (SineBasis, 350, SineBasis, 450),
        (GaussianBasis, 350, GaussianBasis, 450),
        (lambda in_dim: LinearActBasis(in_dim, torch.nn.SiLU), 350, LinearActBasis, 450),
        (IdentityBasis, 7, IdentityBasis, 9),
        (NoBasis, 7, NoBasis, 9),
    ],
)
def test_widths_of_edges_and_atoms(make, edge_dim, node_class, node_dim):
    edges = make(in_dim=7)
    atoms = edges.for_nodes(in_dim=9)
    assert type(atoms) is node_class
    for basis, dim in ((edges, edge_dim), (atoms, node_dim)):
        value = basis(torch.rand(3, basis.in_dim))
        assert value.shape == (3, dim)
        assert basis.out_dim == dim


def test_spherical_basis_without_radii_has_one_radial_function_or_as_many_as_asked():
    assert SphericalBasis(in_dim=4).out_dim == 9
    assert SphericalBasis(in_dim=4, num_radial=4).out_dim == 36
