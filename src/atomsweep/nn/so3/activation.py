"""Activations of coefficients: gates are exactly equivariant, the sphere's grid nearly."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.grid import SphereGrid
from atomsweep.nn.so3.layout import degrees, m_primary

# Factors that give an activation of a normal variable unit second moment, as e3nn's normalize2mom
# samples them. Public weights were trained with these; the exact ones are 1.6765, 1.8462, 1.5291.
SILU = 1.6791767923989418
SIGMOID = 1.8467055342154763
LEAKY = 1.531320475574866  # of SmoothLeakyReLU(0.2)


class SeparableGridActivation(nn.Module):
    """SiLU on the sphere for l > 0; the l = 0 row is SiLU of scalars of its own.

    EquiformerV2, arXiv:2306.12059, "separable S2 activation".

    Args:
        grid: the transforms.

    Shape: (E, R, C), scalars (E, C) -> (E, R, C).
    """

    def __init__(self, grid: SphereGrid) -> None:
        super().__init__()
        self.grid = grid

    @staticmethod
    def num_scalars(l_max: int, channels: int) -> int:
        """Scalars that the layer in front must give."""
        return channels

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Activate coefficients."""
        return torch.cat([F.silu(scalars)[:, None], self.grid.silu(x)[:, 1:]], 1)


class GateActivation(ConstantModule):
    """SiLU for l = 0, and degree l > 0 times the sigmoid of a scalar of its own.

    Args:
        l_max: highest degree.
        m_max: highest order of m-primary rows; None for all rows, l-primary.

    Shape: (E, R, C), scalars (E, l_max C) -> (E, R, C).
    """

    def __init__(self, l_max: int, m_max: int | None) -> None:
        super().__init__()
        self.l_max = l_max
        degree = degrees(l_max)
        if m_max is not None:
            degree = degree[m_primary(l_max, m_max)]
        self.add_table("gate_of_row", degree[1:] - 1)  # row 0 is l = 0 in both orders
        self.gate_of_row: Tensor

    @staticmethod
    def num_scalars(l_max: int, channels: int) -> int:
        """Scalars that the layer in front must give."""
        return l_max * channels

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Activate coefficients."""
        gates = scalars.sigmoid().unflatten(1, (self.l_max, -1)).index_select(1, self.gate_of_row)
        return torch.cat([F.silu(x[:, :1]), x[:, 1:] * gates], 1)


class SmoothLeakyReLU(nn.Module):
    """x (1 + s) / 2 + x (1 - s) / 2 (2 σ(x) - 1), slope s far below zero, 1 far above.

    Equiformer, arXiv:2206.11990.

    Args:
        slope: s.
    """

    def __init__(self, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Shape: any -> the same."""
        return self.slope * x + (1 - self.slope) * x * x.sigmoid()


def gate_degrees(x: list[Tensor], channels: list[int]) -> list[Tensor]:
    """SiLU of the first scalars; the others are gates of the channels of l > 0, in their order.

    Both with unit second moment for normal inputs, as in e3nn's Gate (Equiformer,
    arXiv:2206.11990).

    Args:
        x: a list over l of (N, 2l + 1, C_l), with sum(channels) scalars.
        channels: of each degree of the result.
    """
    scalars, *gates = x[0].split(channels[: len(x)], 2)
    gated = [part * (gate.sigmoid() * SIGMOID) for part, gate in zip(x[1:], gates, strict=True)]
    return [F.silu(scalars) * SILU, *gated]
