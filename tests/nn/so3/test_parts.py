"""Harmonics, grids, tensor products, convolutions and norms against e3nn and against rotations."""

import numpy as np
import pytest
import torch
from e3nn import o3
from e3nn.math import normalize2mom

from atomsweep.nn.so3.activation import (
    LEAKY,
    SIGMOID,
    SILU,
    GateActivation,
    SeparableGridActivation,
    SmoothLeakyReLU,
)
from atomsweep.nn.so3.grid import SphereGrid, product_grid
from atomsweep.nn.so3.harmonics import spherical_harmonics
from atomsweep.nn.so3.linear import DegreeLinear, ForceEncoding, force_harmonics
from atomsweep.nn.so3.norm import DegreesNorm, RMSNorm, SeparableLayerNorm
from atomsweep.nn.so3.radial import EdgeRadial, ExpNormalSmearing, GaussianSmearing
from atomsweep.nn.so3.rotations import EdgeRotations
from atomsweep.nn.so3.so2 import SO2Convolution
from atomsweep.nn.so3.tensor_product import DepthwiseProduct, EdgeProduct, wigner_3j
from atomsweep.nn.so3.wigner import wigner_by_quadrature


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation():
    return o3.angles_to_matrix(*torch.tensor([0.3, 1.1, -2.0], dtype=torch.float64))


def wigner(l_max):
    return torch.as_tensor(wigner_by_quadrature(rotation().numpy(), l_max))


def test_harmonics_are_those_of_e3nn():
    vec = normal(20, 3)
    expected = o3.spherical_harmonics(list(range(9)), vec, False, "component")
    torch.testing.assert_close(spherical_harmonics(vec, 8), expected, rtol=1e-12, atol=1e-10)


def test_harmonics_have_component_norm_and_begin_with_the_vector():
    n = normal(20, 3)
    n = n / n.norm(dim=1, keepdim=True)
    harmonics = spherical_harmonics(n, 6)
    for degree in range(7):
        square = harmonics[:, degree**2 : (degree + 1) ** 2].square().sum(1)
        torch.testing.assert_close(square, torch.full_like(square, 2 * degree + 1))
    torch.testing.assert_close(harmonics[:, 1:4], 3**0.5 * n)


def test_harmonics_are_differentiable_twice_everywhere():
    vec = torch.cat([normal(2, 3), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).double()])
    vec.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, 4), vec)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, 3), vec)


@pytest.mark.parametrize("shape", [(18, 18), (14, 15)])
@pytest.mark.parametrize("normalization", ["component", "integral"])
def test_grid_is_that_of_e3nn(shape, normalization):
    grid = SphereGrid(6, None, shape, normalization).double()
    there = o3.ToS2Grid(6, shape, normalization=normalization, dtype=torch.float64)
    back = o3.FromS2Grid(shape, 6, normalization=normalization, dtype=torch.float64)
    x, values = normal(3, 49), normal(3, *shape)
    torch.testing.assert_close(x @ grid.to_grid.T, there(x).flatten(1), rtol=1e-10, atol=1e-10)
    expected = back(values)  # e3nn rounds its weights to single precision
    torch.testing.assert_close(values.flatten(1) @ grid.from_grid.T, expected, rtol=0, atol=1e-5)


def test_grid_and_back_is_the_identity():
    for m_max, resolution in ((None, 14), (2, 14)):
        grid = SphereGrid(6, m_max, resolution, rescale=False).double()
        eye = torch.eye(len(grid.from_grid), dtype=torch.float64)
        torch.testing.assert_close(grid.from_grid @ grid.to_grid, eye, rtol=0, atol=1e-12)


def test_grid_weights_sum_to_one():
    points, weights = product_grid(18, 9)
    assert weights.sum() == pytest.approx(1)
    assert np.linalg.norm(points, axis=1) == pytest.approx(1)


def test_too_coarse_a_grid_is_refused():
    with pytest.raises(ValueError, match="at least 14 polar and 5 azimuthal points"):
        SphereGrid(6, 2, (12, 5))


def test_grid_activation_in_pieces_has_the_values_and_derivatives_of_one_product():
    grid = SphereGrid(3, 2, 8).double()
    x = normal(70, 14, 40).requires_grad_()  # more than one piece

    def plain(x):
        return grid.from_grid @ torch.nn.functional.silu(grid.to_grid @ x)

    weights = normal(70, 14, 40, seed=1)
    results = []
    for function in (grid.silu, plain):
        out = function(x)
        (slope,) = torch.autograd.grad((out * weights).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((slope * weights).sum(), x)
        results.append((out, slope, second))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_invariants_are_those_of_e3nn():
    for l1, l2, l3 in ((1, 1, 1), (1, 1, 2), (2, 1, 2), (2, 2, 2), (3, 2, 2), (3, 3, 3), (1, 3, 2)):
        expected = o3.wigner_3j(l1, l2, l3).double().numpy()
        assert np.abs(wigner_3j(l1, l2, l3) - expected).max() < 1e-6


def test_depthwise_product_is_that_of_e3nn():
    channels = [3, 2, 2]
    product = DepthwiseProduct(2, channels).double()
    instructions, muls = [], []
    for l1, paths in enumerate(product.paths.by_input):
        for l2, l3 in paths:
            instructions.append((l1, l2, len(muls), "uvu", True))
            muls.append((channels[l1], (l3, 1)))
    reference = o3.TensorProduct(
        "3x0e+2x1e+2x2e",
        "1x0e+1x1e+1x2e",
        o3.Irreps(muls),
        instructions,
        path_normalization="none",
        internal_weights=False,
        shared_weights=False,
    ).double()
    edges = 5
    x = [normal(edges, 2 * k + 1, c, seed=k) for k, c in enumerate(channels)]
    harmonics = normal(edges, 9, seed=7)
    weights = normal(edges, product.num_weights, seed=8)
    found = product(x, EdgeProduct(2).double()(harmonics), weights)
    flat = torch.cat([part.transpose(1, 2).flatten(1) for part in x], 1)
    expected = reference(flat, harmonics, weights)
    blocks = [[], [], []]
    for (count, irrep), part in zip(
        reference.irreps_out, expected.split([m.dim for m in reference.irreps_out], 1), strict=True
    ):
        blocks[irrep.l].append(part.unflatten(1, (count, irrep.dim)).transpose(1, 2))
    for part, wanted in zip(found, blocks, strict=True):
        torch.testing.assert_close(part, torch.cat(wanted, 2), rtol=1e-6, atol=1e-6)


def turned_rotations(l_max, m_max, turn):
    """Rotations of one direction and of the turned direction."""
    rotations = EdgeRotations(l_max, m_max, rescale=False).double()
    n = normal(4, 3)
    n = n / n.norm(dim=1, keepdim=True)
    return rotations(n), rotations(n @ turn.T)


@pytest.mark.parametrize("act", ["gate", "none"])
def test_convolution_aligned_with_an_edge_commutes_with_rotations(act):
    l_max, m_max = 4, 2
    torch.manual_seed(0)
    convolution = SO2Convolution(6, 5, l_max, m_max, extra_scalars=l_max * 5).double()
    gate = GateActivation(l_max, m_max)
    weights = normal(4, convolution.num_weights)
    x = normal(2, 25, 3)
    pairs = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]])

    def messages(rotations, x):
        out, extra = convolution(rotations.into_pairs(x, pairs), weights)
        return rotations.back(gate(out, extra) if act == "gate" else out)

    here, there = turned_rotations(l_max, m_max, rotation())
    matrix = wigner(l_max)
    torch.testing.assert_close(messages(there, matrix @ x), matrix @ messages(here, x))


def test_vectors_of_a_convolution_are_its_rows_of_degree_one():
    convolution = SO2Convolution(6, 5, 4, 2).double()
    x = normal(3, 19, 6)
    full, _ = convolution(x)
    rows = [10, 1, 6]  # m = -1, 0, +1 of l = 1
    torch.testing.assert_close(convolution.vectors(x), full[:, [rows[0] - 1, rows[1], rows[2] - 1]])


def test_products_for_gpus_and_cpus_are_the_same():
    convolution = SO2Convolution(6, 5, 4, 2).double()
    x = normal(3, 19, 6)
    full, _ = convolution(x)
    plus, minus = x[:, 5:9].flatten(1), x[:, 9:13].flatten(1)
    real, imag = convolution.pairs[0].weight.chunk(2)
    torch.testing.assert_close(full[:, 5:9].flatten(1), plus @ real.T - minus @ imag.T)
    torch.testing.assert_close(full[:, 9:13].flatten(1), minus @ real.T + plus @ imag.T)


def test_gathered_pairs_have_the_gradient_of_plain_indexing():
    rotations, _ = turned_rotations(3, 1, rotation())
    pairs = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 0]])
    x = normal(3, 16, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotations.into_pairs(x, pairs), x)
    both = torch.cat([rotations.into(x, pairs[0]), rotations.into(x, pairs[1])], 2)
    torch.testing.assert_close(rotations.into_pairs(x, pairs), both)


@pytest.mark.parametrize("layer", [SeparableLayerNorm, RMSNorm])
def test_norms_commute_with_rotations_and_normalise(layer):
    norm = layer(8, 3).double()
    x = 5 * normal(4, 16, 8)
    matrix = wigner(3)
    torch.testing.assert_close(norm(matrix @ x), matrix @ norm(x))
    torch.testing.assert_close(norm(10 * x), norm(x), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(norm(torch.zeros_like(x))).all()


def test_norm_by_degrees_gives_each_degree_unit_mean_square():
    x = [3 * normal(4, 2 * k + 1, c, seed=k) for k, c in enumerate((8, 4))]
    for part in DegreesNorm([8, 4]).double()(x):
        square = part.square().mean((1, 2))
        torch.testing.assert_close(square, torch.ones_like(square), rtol=1e-4, atol=1e-4)


def test_separable_activation_replaces_only_the_scalar():
    grid = SphereGrid(2, 2, 8).double()
    x, scalars = normal(3, 9, 4), normal(3, 4)
    out = SeparableGridActivation(grid)(x, scalars)
    torch.testing.assert_close(out[:, 0], torch.nn.functional.silu(scalars))
    torch.testing.assert_close(out[:, 1:], grid.silu(x)[:, 1:])


def test_smooth_leaky_relu_has_its_slopes():
    act = SmoothLeakyReLU(0.2)
    torch.testing.assert_close(act(torch.tensor([-50.0, 50.0])), torch.tensor([-10.0, 50.0]))


def test_moments_of_activations_are_those_of_e3nn():
    functions = (torch.nn.functional.silu, torch.sigmoid, SmoothLeakyReLU(0.2))
    for function, factor in zip(functions, (SILU, SIGMOID, LEAKY), strict=True):
        assert normalize2mom(function).cst == pytest.approx(factor, rel=1e-9)


def test_linear_by_degree_has_a_bias_only_for_scalars():
    linear = DegreeLinear(3, 5, 2)
    torch.nn.init.ones_(linear.bias)
    out = linear(torch.zeros(2, 9, 3))
    assert (out[:, 0] == 1).all()
    assert (out[:, 1:] == 0).all()
    x = torch.randn(2, 9, 3)
    expected = torch.einsum("nc,dc->nd", x[:, 5], linear.weight[2])
    torch.testing.assert_close(linear(x)[:, 5], expected)


def test_encoded_force_begins_with_the_force_and_has_the_norms_of_its_degrees():
    forces = normal(6, 3)
    encoded = force_harmonics(forces, 3)
    torch.testing.assert_close(encoded[:, 1:4], forces)
    for degree, factor in enumerate((1 / 3**0.5, 1, (5 / 3) ** 0.5, (7 / 3) ** 0.5)):
        size = encoded[:, degree**2 : (degree + 1) ** 2].norm(dim=1)
        torch.testing.assert_close(size, factor * forces.norm(dim=1))


def test_zero_force_is_encoded_as_nothing_with_zero_gradient():
    forces = torch.zeros(2, 3, requires_grad=True)
    encoded = ForceEncoding(4, 3)(forces)
    assert (encoded == 0).all()
    encoded.sum().backward()
    assert (forces.grad == 0).all()


def test_radial_perceptron_is_that_of_the_concatenated_inputs():
    radial = EdgeRadial(7, 4, 9, 10).double()
    basis, source, target = normal(5, 7), torch.arange(5), torch.arange(5) + 3
    elements = radial.elements
    inputs = torch.cat([basis, elements.source(source), elements.target(target)], 1)
    torch.testing.assert_close(radial(basis, (source, target)), radial.rest(radial.first(inputs)))


def test_gaussians_peak_at_their_centres():
    smearing = GaussianSmearing(3.0, 4, 2.0)
    torch.testing.assert_close(smearing(torch.arange(4.0)).diagonal(), torch.ones(4))
    torch.testing.assert_close(smearing(torch.zeros(1))[0, 2], torch.tensor(np.exp(-0.5)).float())


def test_exponential_basis_vanishes_at_the_cutoff():
    values = ExpNormalSmearing(5.0, 8).double()(torch.tensor([5.0 - 1e-7, 5.0, 6.0]).double())
    assert values.abs().max() < 1e-12
