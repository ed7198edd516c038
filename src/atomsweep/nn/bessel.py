"""Radial functions that solve the Schrödinger equation of a free particle in a sphere."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn
from torch_geometric.nn.models.dimenet import Envelope


class SphericalBesselBasis(nn.Module):
    """u(x) sqrt(2) j_l(z_ln x) / |j_{l+1}(z_ln)|, x = d / c, z_ln the n-th zero of j_l.

    DimeNet, arXiv:2003.03123, Eq. 6, with its envelope u as torch_geometric has it, which includes
    a factor 1/x. The recursion j_{l+1} = (2l+1)/x j_l - j_{l-1} loses all digits of a small j_6 in
    single precision, so it runs in double precision: on edges, not on triplets.

    Args:
        num_spherical: degrees l = 0 ... L - 1.
        num_radial: zeros of each.
        cutoff: c, Å.
        envelope_exponent: of the polynomial u.

    Shape: (E,) Å -> (L, E, num_radial).
    """

    needs_double = True

    def __init__(
        self, num_spherical: int, num_radial: int, cutoff: float, envelope_exponent: int
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.envelope = Envelope(envelope_exponent)
        zeros = _zeros(num_spherical, num_radial)
        degree = np.arange(num_spherical)[:, None]
        norm = np.sqrt(2.0) / np.abs(spherical_jn(degree + 1, zeros))
        self.register_buffer("zeros", torch.tensor(zeros)[:, None], persistent=False)  # (L, 1, K)
        self.register_buffer("norm", torch.tensor(norm)[:, None], persistent=False)
        self.zeros: Tensor
        self.norm: Tensor

    def forward(self, dist: Tensor) -> Tensor:
        """Shape: (E,) -> (L, E, num_radial), in the precision of `dist`."""
        scaled = dist.double()[:, None] / self.cutoff  # (E, 1)
        x = self.zeros.double() * scaled  # (L, E, K)
        inverse = 1.0 / x
        before = x.sin() * inverse  # j_0
        current = ((before - x.cos()) * inverse)[1:]  # j_1, for the rows from 1 on
        rows = [before[:1], current[:1]]
        for degree in range(2, len(x)):
            following = (2 * degree - 1) * inverse[degree:] * current[1:] - before[2:]
            before, current = current, following
            rows.append(current[:1])
        bessel = torch.cat(rows) * self.norm.double() * self.envelope(scaled)
        return bessel.to(dist.dtype)


@cache
def _zeros(num_spherical: int, num_radial: int) -> np.ndarray:
    """First zeros of j_l; those of j_l lie between those of j_{l-1}. Shape: (L, num_radial)."""
    between = np.pi * np.arange(1, num_radial + num_spherical)
    rows = [between[:num_radial]]
    for degree in range(1, num_spherical):
        between = np.array(
            [
                brentq(lambda x, n=degree: spherical_jn(n, x), low, high, xtol=1e-14)
                for low, high in pairwise(between)
            ]
        )
        rows.append(between[:num_radial])
    return np.stack(rows)
