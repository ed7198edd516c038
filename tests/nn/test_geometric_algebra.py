"""Against matrices: e1, e2 and e3 are Pauli's, and the product of multivectors is theirs."""

import numpy as np
import torch

from atomsweep.nn.geometric_algebra import (
    SMOOTH,
    invariants,
    inverse_length,
    magnitude,
    multivector,
    product_table,
)
from atomsweep.nn.geometric_algebra import geometric_product as product_with

PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
E1, E2, E3 = PAULI
BASIS = np.array([np.eye(2), E1, E2, E3, E1 @ E2, E1 @ E3, E2 @ E3, E1 @ E2 @ E3])


def geometric_product(a, b):
    return product_with(a, b, product_table())


def matrices(x):
    return np.einsum("...a,aij->...ij", x.numpy(), BASIS)


def test_products_are_those_of_paulis_matrices():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, n, 8, dtype=torch.double, generator=generator) for n in (3, 4))
    expected = matrices(a)[:, :, None] @ matrices(b)[:, None]
    np.testing.assert_allclose(matrices(geometric_product(a, b)), expected, atol=1e-12)


def test_product_of_two_vectors_is_dot_and_wedge():
    a, b = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[-1.0, 0.5, 2.0]]])
    product = geometric_product(multivector(a), multivector(b))[0, 0, 0]
    cross = torch.linalg.cross(a[0, 0], b[0, 0])
    expected = [(a * b).sum(), 0, 0, 0, cross[2], -cross[1], cross[0], 0]
    torch.testing.assert_close(product, torch.tensor(expected))


def test_rotations_keep_the_invariants_and_reflections_turn_the_trivector():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(3, 3, dtype=torch.double, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.double, generator=generator))[0]

    def of(vectors):
        x, y, z = (multivector(v[None, None]) for v in vectors)
        volume = geometric_product(geometric_product(x, y)[:, 0], z)
        return invariants(volume.flatten(0, 2) + multivector(vectors[:1]))[0]

    before, after = of(vectors), of(vectors @ rotation.T)
    sign = torch.linalg.det(rotation)
    torch.testing.assert_close(after[:3], before[:3])
    torch.testing.assert_close(after[3], sign * before[3])
    torch.testing.assert_close(of(-vectors)[3], -before[3])
    torch.testing.assert_close(before[3].abs(), torch.linalg.det(vectors).abs())


def test_lengths_are_right_away_from_zero_and_smooth_at_it():
    x = torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.double)
    assert abs(float(magnitude(x)) - (5 - SMOOTH)) < 1e-4
    assert abs(float(inverse_length(x)) - 0.2) < 1e-6
    assert float(magnitude(torch.zeros(1, 3, dtype=torch.double))) == 0
    for at in (x, torch.zeros_like(x)):
        at = at.clone().requires_grad_()
        assert torch.autograd.gradcheck(magnitude, at)
        assert torch.autograd.gradgradcheck(magnitude, at)
    near_zero = torch.zeros(2, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(invariants, near_zero)
