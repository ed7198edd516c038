import numpy as np
import pytest
import torch
from e3nn import o3

from atomsweep.nn.so3.harmonics import spherical_harmonics
from atomsweep.nn.so3.layout import degrees, m_primary
from atomsweep.nn.so3.wigner import EdgeWigner, Wigner, edge_rotation, wigner_by_quadrature

L = 6
AXES = torch.tensor(
    [[0, 1, 0], [0, -1, 0], [1, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 0, -1]], dtype=torch.float64
)


def unit(vec):
    return vec / vec.norm(dim=-1, keepdim=True)


def near_poles(distance):
    """Directions at `distance` of ±y, all around."""
    azimuth = torch.arange(8, dtype=torch.float64) * 0.7
    around = torch.stack([azimuth.sin(), torch.zeros(8), azimuth.cos()], 1) * distance
    return torch.cat([unit(AXES[:1] + around), unit(AXES[1:2] + around)])


def directions():
    vec = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    equator = torch.tensor([[1.0, -1e-30, 0.0], [1.0, 1e-30, 0.0]], dtype=torch.float64)
    return torch.cat([unit(vec), AXES, near_poles(1e-3), near_poles(1e-6), equator])


def rotations(count=20):
    q = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    half_turns = [torch.diag(torch.tensor(d)).double() for d in ([1, -1, -1], [-1, -1, 1])]
    eye = torch.eye(3, dtype=torch.float64)
    return torch.cat([o3.quaternion_to_matrix(unit(q)), torch.stack([eye, *half_turns])])


def test_rotation_of_an_edge_is_proper_and_takes_it_to_y():
    n = directions()
    matrix = edge_rotation(n)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(len(n), 3)
    torch.testing.assert_close((matrix @ n[..., None]).squeeze(-1), up)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(len(n), dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64).expand(len(n), 3, 3)
    torch.testing.assert_close(matrix @ matrix.mT, eye)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_matrix_of_an_edge_is_that_of_its_rotation(dtype, tolerance):
    n = directions().to(dtype)
    expected = wigner_by_quadrature(edge_rotation(n.double()).numpy(), L)[:, m_primary(L, 2)]
    found = EdgeWigner(L, 2).to(dtype)(n).double().numpy()
    assert np.abs(found - expected).max() < tolerance


def test_matrix_of_an_edge_leaves_only_m_zero_of_its_own_harmonics():
    n = directions()
    turned = (EdgeWigner(L).double()(n) @ spherical_harmonics(n, L)[..., None]).squeeze(-1)
    expected = torch.zeros_like(turned)
    expected[:, : L + 1] = torch.sqrt(2 * torch.arange(L + 1.0, dtype=torch.float64) + 1)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-11)


def test_matrices_are_those_of_e3nn():
    matrix = rotations()[:20]
    angles = o3.matrix_to_angles(matrix)
    for degree, block in enumerate(Wigner(range(L + 1)).double()(matrix)):
        # e3nn's generators are rounded to single precision
        torch.testing.assert_close(block, o3.wigner_D(degree, *angles), rtol=0, atol=2e-5)


def test_matrices_rotate_harmonics_also_at_half_turns():
    matrix, n = rotations(), directions()[:9]
    before = spherical_harmonics(n, L)
    after = spherical_harmonics(torch.einsum("rij,pj->rpi", matrix, n), L)
    for degree, block in enumerate(Wigner(range(L + 1)).double()(matrix)):
        part = slice(degree**2, (degree + 1) ** 2)
        expected = torch.einsum("rab,pb->rpa", block, before[:, part])
        torch.testing.assert_close(after[..., part], expected, rtol=0, atol=1e-11)


def test_one_degree_alone_is_the_same():
    matrix = rotations()
    torch.testing.assert_close(
        Wigner([4]).double()(matrix)[0], Wigner(range(L + 1)).double()(matrix)[4]
    )


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3])
def test_first_and_second_derivatives_are_exact_at_the_poles(distance):
    wigner = EdgeWigner(4, 2).double()
    mix = torch.arange(2 * 19 * 25, dtype=torch.float64).sin().reshape(-1, 2)

    def two_sums(n):
        return wigner(n).flatten(1) @ mix

    n = near_poles(distance)[[0, 5, 8, 11]].requires_grad_()
    assert torch.autograd.gradcheck(two_sums, n)
    assert torch.autograd.gradgradcheck(two_sums, n)


def test_derivatives_in_single_precision_are_right_at_the_poles():
    def gradient(n, wigner):
        n = n.clone().requires_grad_()
        weights = torch.arange(wigner.shape[0] * wigner.shape[1], dtype=n.dtype).sin()
        (slope,) = torch.autograd.grad(wigner(n).flatten(1) @ weights, n, torch.ones_like(n[:, 0]))
        return slope.double()

    n = torch.cat([AXES[:2], near_poles(1e-6)])
    exact = gradient(n, EdgeWigner(L).double())
    rough = gradient(n.float(), EdgeWigner(L))
    assert (rough - exact).abs().max() < 1e-5 * exact.abs().max()


def test_tables_stay_exact_when_a_model_is_cast():
    there_and_back = EdgeWigner(L).double().float().double()
    assert torch.equal(there_and_back.table, EdgeWigner(L).double().table)


def test_same_edge_has_the_same_bits():
    n = directions().float()
    wigner = EdgeWigner(L)
    assert torch.equal(wigner(n), wigner(n))


@pytest.mark.parametrize("m_max", [0, 2, 6])
def test_layout_lists_each_kept_row_once(m_max):
    rows = m_primary(L, m_max)
    degree = degrees(L)
    m = np.arange((L + 1) ** 2) - degree * (degree + 1)
    assert sorted(rows) == list(np.flatnonzero(np.abs(m) <= m_max))
    assert (np.diff(np.abs(m[rows])) >= 0).all()


def test_layout_refuses_orders_beyond_the_degree():
    with pytest.raises(ValueError, match="m_max must lie in"):
        m_primary(2, 3)
