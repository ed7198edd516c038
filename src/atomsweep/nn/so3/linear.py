"""Linear maps of channels that commute with rotations."""

import torch
from torch import Tensor, nn

from atomsweep.nn.so3.harmonics import spherical_harmonics


class DegreeLinear(nn.Module):
    """One matrix for each degree l, shared by its orders; a bias for l = 0.

    EquiformerV2, arXiv:2306.12059, Sec. 3. Weights start uniform in ±1/sqrt(in_channels).

    Args:
        in_channels: input channels C.
        out_channels: output channels D.
        l_max: highest degree L.

    Shape: (N, (L + 1)², C) -> (N, (L + 1)², D).
    """

    def __init__(self, in_channels: int, out_channels: int, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.weight = nn.Parameter(torch.empty(l_max + 1, out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = in_channels**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """One product for each degree."""
        outputs = []
        for degree, block in enumerate(x.split([2 * k + 1 for k in range(self.l_max + 1)], 1)):
            bias = self.bias if degree == 0 else None
            outputs.append(nn.functional.linear(block, self.weight[degree], bias))
        return torch.cat(outputs, 1)


class ForceEncoding(nn.Module):
    """Forces as coefficients: per-degree linear of `force_harmonics`, 1 -> C channels.

    DeNS, arXiv:2403.09549, Eq. 5. The bias of l = 0 counts for every atom, as in public code.

    Args:
        channels: C.
        l_max: highest degree.
        bound: weights start uniform in ±bound: 1 in EquiformerV2's code, 0.001 in eSCN's.

    Shape: (N, 3) -> (N, (l_max + 1)², C).
    """

    def __init__(self, channels: int, l_max: int, bound: float = 1.0) -> None:
        super().__init__()
        self.l_max = l_max
        self.linear = DegreeLinear(1, channels, l_max)
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, forces: Tensor) -> Tensor:
        """Raw forces of each atom, zero where none is encoded."""
        return self.linear(force_harmonics(forces, self.l_max)[..., None])


def force_harmonics(forces: Tensor, l_max: int) -> Tensor:
    """|f|/sqrt(3) Y(f/|f|), whose l = 1 part is exactly f; zero, with its gradient, where f is.

    DeNS, arXiv:2403.09549, Eq. 5. Shape: (N, 3) -> (N, (l_max + 1)²).
    """
    square = (forces * forces).sum(-1, keepdim=True)
    zero = square == 0
    norm = torch.where(zero, 1.0, square).sqrt()
    size = torch.where(zero, 0.0, norm) * 3**-0.5
    return size * spherical_harmonics(forces / norm, l_max)
