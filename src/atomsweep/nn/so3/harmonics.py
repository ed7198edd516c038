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
    x, y, z = vec.unsqueeze(-1).unbind(-2)  # (..., 1)
    square = (vec * vec).sum(-1, keepdim=True)
    real, imag = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(l_max):
        real.append(real[-1] * z - imag[-1] * x)
        imag.append(imag[-1] * z + real[-2] * x)
    cos, sin = torch.cat(real, -1), torch.cat(imag, -1)  # (..., L + 1)

    columns: list[Tensor] = []
    before, legendre = vec.new_zeros(0), torch.ones_like(y)  # (..., l + 1): m = 0 ... l
    for degree in range(l_max + 1):
        if degree > 0:
            m = torch.arange(degree, device=vec.device)
            top = (2 * degree - 1) * legendre[..., -1:]  # (2l-1)!!
            lower = (2 * degree - 1) * y * legendre
            if degree > 1:
                shrink = ((degree + m[:-1] - 1) * square) * before
                lower = torch.cat([lower[..., :-1] - shrink, lower[..., -1:]], -1)
            before, legendre = legendre, torch.cat([lower / (degree - m), top], -1)
        norm = vec.new_tensor(_norms(degree))
        scaled = legendre * norm
        columns.append((scaled[..., 1:] * sin[..., 1 : degree + 1]).flip(-1))
        columns.append(scaled * cos[..., : degree + 1])
    return torch.cat(columns, -1)


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
