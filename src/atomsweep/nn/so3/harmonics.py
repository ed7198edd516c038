"""Real spherical harmonics by recursion, as polynomials that can be differentiated anywhere."""

from math import factorial, sqrt

import numpy as np
import torch
from torch import Tensor


def spherical_harmonics(vec: Tensor, l_max: int) -> Tensor:
    """Real solid harmonics |v|^l Y_l(v / |v|) in component normalisation, |Y_l|² = 2 l + 1.

    Y_l0 = sqrt(2l+1) P_l(y) and Y_l,±m = sqrt(2 (2l+1) (l-m)!/(l+m)!) P_l^(m)(y) times the real (+)
    and imaginary (-) part of (z + ix)^m, with P_l^(m) the m-th derivative of Legendre's polynomial.
    The polar axis is y, and Y_1 = sqrt(3) (x, y, z). Pass unit vectors for harmonics on the sphere.

    Args:
        vec: vectors.
        l_max: highest degree L.

    Shape: (..., 3) -> (..., (l_max + 1)²), l-primary.
    """
    x, y, z = vec.unbind(-1)
    square = (vec * vec).sum(-1)
    cos, sin = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(l_max):
        re, im = cos[-1], sin[-1]
        cos.append(re * z - im * x)
        sin.append(im * z + re * x)

    # Numbers stay in Python: a tensor of them would have to be copied to a GPU, which waits.
    columns: list[Tensor] = []
    before: list[Tensor] = []
    legendre = [torch.ones_like(y)]  # P_l^(m)(y), m = 0 ... l, times |v|^(l - m)
    for degree in range(l_max + 1):
        if degree > 0:
            top = (2 * degree - 1) * legendre[-1]  # (2l - 1)!!
            rows = [(2 * degree - 1) / (degree - m) * y * p for m, p in enumerate(legendre)]
            for m, p in enumerate(before):
                rows[m] = rows[m] - (degree + m - 1) / (degree - m) * square * p
            before, legendre = legendre, [*rows, top]
        scaled = [norm * p for norm, p in zip(_norms(degree), legendre, strict=True)]
        columns += [scaled[m] * sin[m] for m in range(degree, 0, -1)]
        columns += [scaled[m] * cos[m] for m in range(degree + 1)]
    return torch.stack(columns, -1)


def harmonics_table(points: np.ndarray, l_max: int) -> np.ndarray:
    """`spherical_harmonics` in float64, for tables; on the CPU wherever models are built."""
    with torch.device("cpu"):
        return spherical_harmonics(torch.as_tensor(points), l_max).numpy()


def _norms(degree: int) -> list[float]:
    return [
        sqrt(
            (1 if m == 0 else 2) * (2 * degree + 1) * factorial(degree - m) / factorial(degree + m)
        )
        for m in range(degree + 1)
    ]
