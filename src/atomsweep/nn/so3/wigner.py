"""Wigner-D matrices of edges and of any rotation, without angles and therefore without poles.

The rotation of an edge is the shortest one that takes its direction n to +y, in the half space
n_y >= 0, and a half turn about x before it elsewhere. In the stereographic coordinate
u = w / (1 + n_y), w = n_z - i n_x, every entry of D^l is a polynomial: the factorised form
d^l_mm'(β) ∝ cos(β/2)^|m+m'| sin(β/2)^|m-m'| P(cos β) (Varshalovich et al., Quantum Theory of
Angular Momentum, 4.3.4) has sin(β/2)^k e^{ikα} ∝ w^k, and cos(β/2)² = (1 + n_y)/2 turns the rest
into powers of u. So D is one matrix product of features u^p w^j T_i(n_y), j = p or p + 1,
i + j <= L, with a table that is fitted once, exactly, to the spherical harmonics. Nothing divides
by anything smaller than 1: values and derivatives of any order are exact at both poles.

A table of Euler angles would be cheaper still, but its derivatives diverge at the poles.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.harmonics import harmonics_table
from atomsweep.nn.so3.layout import degrees, m_primary

_HALF_TURN = np.diag([1.0, -1.0, -1.0])  # about x


class EdgeWigner(ConstantModule):
    """D(R_n) with R_n n = +y for each direction n, in the rows that an edge needs.

    Args:
        l_max: highest degree L.
        m_max: rows with |m| > m_max are left out; None keeps all.

    Shape: (E, 3) -> (E, R, (L + 1)²); rows m-primary, columns l-primary; unit vectors expected.
    """

    def __init__(self, l_max: int, m_max: int | None = None) -> None:
        super().__init__()
        self.l_max = l_max
        rows = m_primary(l_max, l_max if m_max is None else m_max)
        self.shape = (len(rows), (l_max + 1) ** 2)
        degree, table = _edge_table(l_max), degrees(l_max)
        row, column = np.nonzero(table[rows][:, None] == table[None, :])
        values = degree[:, rows[row], column]  # (F, n)
        self.add_table("table", values)
        self.add_table("slot", row * self.shape[1] + column)
        self.add_table("chart", np.stack([np.ones(len(column)), half_turn_signs(l_max)[column]]))
        self.table: Tensor
        self.slot: Tensor
        self.chart: Tensor

    def forward(self, direction: Tensor) -> Tensor:
        """The matrices of unit vectors."""
        south = direction[:, 1] < 0
        flip = torch.where(south, -1.0, 1.0).to(direction.dtype)
        x, y, z = direction.unbind(-1)
        features = _features(x, y * flip, z * flip, self.l_max)  # (F, E)
        entries = (features.T @ self.table) * self.chart.index_select(0, south.long())
        dense = direction.new_zeros(len(direction), self.shape[0] * self.shape[1])
        return dense.index_copy(1, self.slot, entries).unflatten(1, self.shape)


class Wigner(ConstantModule):
    """D^l(R) of any proper rotation, D^l(R) Y_l(p) = Y_l(R p).

    R is the rotation of the edge that it takes to +y, and then a turn about y.

    Args:
        degrees: which l.

    Shape: (E, 3, 3) -> for each l, (E, 2l + 1, 2l + 1).
    """

    def __init__(self, degrees: Sequence[int]) -> None:
        super().__init__()
        self.degrees = tuple(degrees)
        l_max = max(self.degrees)
        totals = _total_degrees(l_max)
        self.order = [int((totals <= degree).sum()) for degree in self.degrees]
        self.add_table("by_total", np.argsort(totals, kind="stable"))
        self.by_total: Tensor
        signs = half_turn_signs(l_max)
        for degree, size in zip(self.degrees, self.order, strict=True):
            block = slice(degree**2, (degree + 1) ** 2)
            table = _edge_table(l_max)[:, block, block].reshape(len(totals), -1)
            used = self._tables["by_total"][:size]
            assert not np.delete(table, used, axis=0).any()
            self.add_table(f"table_{degree}", table[used].T.copy())
            m = np.arange(-degree, degree + 1)
            columns = 2 * degree + 1
            self.add_table(f"abs_m_{degree}", np.abs(m))
            self.add_table(f"sign_m_{degree}", np.sign(m).astype(float)[:, None, None])
            self.add_table(f"flip_{degree}", (signs[block] < 0).astype(float)[None, :, None])
            assert len(m) == columns

    def forward(self, rotation: Tensor) -> tuple[Tensor, ...]:
        """The blocks of rotations."""
        direction = rotation[:, 1]  # R n = y means n = R^T y
        south = direction[:, 1] < 0
        sign = torch.where(south, -1.0, 1.0).to(direction.dtype)
        x, y, z = direction.unbind(-1)
        features = _features(x, y * sign, z * sign, max(self.degrees)).index_select(
            0, self.by_total
        )
        own = edge_rotation(direction)
        cos = (rotation[:, 2] * own[:, 2]).sum(-1)  # of the turn R R_n^T about y
        sin = (rotation[:, 0] * own[:, 2]).sum(-1)
        cos, sin = _powers(cos, sin, max(self.degrees))
        blocks = []
        for degree, size in zip(self.degrees, self.order, strict=True):
            block = getattr(self, f"table_{degree}") @ features[:size]
            block = block.unflatten(0, (2 * degree + 1, 2 * degree + 1))  # (row, column, E)
            turn = getattr(self, f"abs_m_{degree}")
            sine = sin.index_select(0, turn)[:, None] * getattr(self, f"sign_m_{degree}")
            block = cos.index_select(0, turn)[:, None] * block - sine * block.flip(0)
            block = torch.where(south & getattr(self, f"flip_{degree}").bool(), -block, block)
            blocks.append(block.permute(2, 0, 1))
        return tuple(blocks)


def edge_rotation(direction: Tensor) -> Tensor:
    """The 3 x 3 rotation R_n of `EdgeWigner`, R_n n = +y. Shape: (E, 3) -> (E, 3, 3)."""
    south = direction[:, 1] < 0
    flip = torch.where(south, -1.0, 1.0).to(direction.dtype)
    x, y, z = direction[:, 0], direction[:, 1] * flip, direction[:, 2] * flip
    share = 1 / (1 + y)
    rows = [
        [1 - x * x * share, -x * flip, -x * z * share * flip],
        [x, y * flip, z * flip],
        [-x * z * share, -z * flip, (1 - z * z * share) * flip],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def wigner_by_quadrature(rotation: np.ndarray, l_max: int) -> np.ndarray:
    """D(R) = ∫ Y(R p) Y(p)^T dp / 4π, exact on a product grid; slow. Shape: (..., 3, 3) -> …."""
    points, weights = sphere_quadrature(l_max)
    turned = harmonics_table(np.einsum("...ij,pj->...pi", rotation, points), l_max)
    fixed = harmonics_table(points, l_max)
    return np.einsum("...pa,p,pb->...ab", turned, weights, fixed)


def sphere_quadrature(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) and weights (P,), sum 1, exact for polynomials of degree 2 l_max."""
    y, weight = np.polynomial.legendre.leggauss(l_max + 1)
    azimuth = 2 * np.pi * np.arange(2 * l_max + 1) / (2 * l_max + 1)
    across = np.sqrt(1 - y**2)
    points = np.stack(
        np.broadcast_arrays(
            across[:, None] * np.sin(azimuth), y[:, None], across[:, None] * np.cos(azimuth)
        ),
        -1,
    )
    weights = np.broadcast_to(weight[:, None] / 2 / len(azimuth), points.shape[:2])
    return points.reshape(-1, 3), weights.reshape(-1)


def half_turn_signs(l_max: int) -> np.ndarray:
    """D of the half turn about x is diagonal; its signs. Shape: ((L + 1)²,)."""
    return np.round(np.diag(wigner_by_quadrature(_HALF_TURN, l_max)))


def _powers(real: Tensor, imag: Tensor, highest: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of (real + i imag)^k. Shape: (E,) -> (highest + 1, E)."""
    re, im = [torch.ones_like(real)], [torch.zeros_like(real)]
    for _ in range(highest):
        re.append(re[-1] * real - im[-1] * imag)
        im.append(im[-1] * real + re[-2] * imag)
    return torch.stack(re), torch.stack(im)


def _features(x: Tensor, y: Tensor, z: Tensor, l_max: int) -> Tensor:
    """Re and Im of u^p w^j T_i(y). Shape: (E,) -> (F, E)."""
    w_re, w_im = _powers(z, -x, l_max)
    share = 1 / (1 + y)
    u_re, u_im = _powers(z * share, -x * share, l_max)
    chebyshev = [torch.ones_like(y), y]
    for _ in range(l_max - 1):
        chebyshev.append(2 * y * chebyshev[-1] - chebyshev[-2])
    polynomial = torch.stack(chebyshev)  # (L + 1 or more, E)
    blocks = []
    for p, j in _exponents(l_max):
        parts = [u_re[p] * w_re[j] - u_im[p] * w_im[j]]
        if j > 0:
            parts.append(u_re[p] * w_im[j] + u_im[p] * w_re[j])
        both = torch.stack(parts)
        blocks.append((both[:, None] * polynomial[None, : l_max - j + 1]).flatten(0, 1))
    return torch.cat(blocks)


def _exponents(l_max: int) -> list[tuple[int, int]]:
    """(p, j) for each phase k = p + j: larger differences of p and j are sums of these."""
    return [(k // 2, k - k // 2) for k in range(2 * l_max + 1)]


def _total_degrees(l_max: int) -> np.ndarray:
    """I + j of each of `_features`: D^l needs those up to l. Shape: (F,)."""
    totals = []
    for _, j in _exponents(l_max):
        totals += (1 if j == 0 else 2) * list(range(j, l_max + 1))
    return np.array(totals)


@cache
def _edge_table(l_max: int) -> np.ndarray:
    """Coefficients of D on `_features`, fitted on the northern half sphere.

    Shape: (F, (L + 1)², (L + 1)²), l-primary.
    """
    rng = np.random.default_rng(0)
    vec = rng.normal(size=(16 * (l_max + 1) ** 2, 3))
    with torch.device("cpu"):
        direction = torch.as_tensor(vec / np.linalg.norm(vec, axis=1, keepdims=True))
        direction[:, 1] = direction[:, 1].abs()
        x, y, z = direction.unbind(-1)
        features = _features(x, y, z, l_max).T.numpy()
        target = wigner_by_quadrature(edge_rotation(direction).numpy(), l_max)
    flat = target.reshape(len(target), -1)
    table = np.linalg.lstsq(features, flat, rcond=None)[0]
    assert np.abs(features @ table - flat).max() < 1e-10
    table[np.abs(table) < 1e-11] = 0.0
    return table.reshape(-1, *target.shape[1:])
