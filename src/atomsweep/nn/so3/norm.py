"""Norms of coefficients that commute with rotations."""

import torch
from torch import Tensor, nn

from atomsweep.nn.precision import full_precision
from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.layout import degrees


class SeparableLayerNorm(ConstantModule):
    """LayerNorm for l = 0; l > 0 over one root mean square of all of them, degrees weighted alike.

    "layer_norm_sh" of EquiformerV2's public code, arXiv:2306.12059, Sec. 4.3; eps inside the root.
    In full precision under autocast.

    Args:
        channels: C.
        l_max: highest degree L.
        eps: added to the mean square.

    Shape: (N, (L + 1)², C) -> the same.
    """

    def __init__(self, channels: int, l_max: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scalar = nn.LayerNorm(channels, eps)
        self.gain = nn.Parameter(torch.ones(l_max, channels))
        degree = degrees(l_max)[1:]
        self.add_table("balance", 1 / ((2 * degree + 1) * l_max * channels))
        self.add_table("gain_of_row", degree - 1)
        self.balance: Tensor
        self.gain_of_row: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each atom."""
        with full_precision(x):
            x = x.to(self.gain.dtype)
            scalar, vector = x[:, :1], x[:, 1:]
            mean_square = torch.einsum("nkc,k->n", vector * vector, self.balance)
            scale = (mean_square + self.eps).rsqrt()[:, None, None]
            vector = vector * scale * self.gain.index_select(0, self.gain_of_row)
            return torch.cat([self.scalar(scalar), vector], 1)


class RMSNorm(ConstantModule):
    """All degrees over one root mean square, degrees weighted alike; the l = 0 mean is taken off.

    "rms_norm_sh" of EquiformerV2's public code; eSEN and EquiformerV3 use the like.

    Args:
        channels: C.
        l_max: highest degree L.
        eps: added to the mean square.

    Shape: (N, (L + 1)², C) -> the same.
    """

    def __init__(self, channels: int, l_max: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(l_max + 1, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        degree = degrees(l_max)
        self.add_table("balance", 1 / ((2 * degree + 1) * (l_max + 1) * channels))
        self.add_table("gain_of_row", degree)
        self.balance: Tensor
        self.gain_of_row: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each atom."""
        with full_precision(x):
            x = x.to(self.gain.dtype)
            x = torch.cat([x[:, :1] - x[:, :1].mean(-1, keepdim=True), x[:, 1:]], 1)
            mean_square = torch.einsum("nkc,k->n", x * x, self.balance)
            scale = (mean_square + self.eps).rsqrt()[:, None, None]
            x = x * scale * self.gain.index_select(0, self.gain_of_row)
            return torch.cat([x[:, :1] + self.bias, x[:, 1:]], 1)


class DegreesNorm(nn.Module):
    """Each degree over its own root mean square; the mean of l = 0 is taken off before.

    The equivariant layer norm of Equiformer, arXiv:2206.11990, with a gain for each channel and a
    bias for l = 0.

    Args:
        channels: of each degree, on a list over l of (N, 2l + 1, C_l).
        eps: added to the mean square.
    """

    def __init__(self, channels: list[int], eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(sum(channels)))
        self.bias = nn.Parameter(torch.zeros(channels[0]))

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Normalise each atom."""
        outputs = []
        for degree, (part, gain) in enumerate(zip(x, self.gain.split(self.channels), strict=False)):
            if degree == 0:
                part = part - part.mean(2, keepdim=True)
            scale = (part.square().mean((1, 2), keepdim=True) + self.eps).rsqrt()
            outputs.append(part * scale * gain + (self.bias if degree == 0 else 0.0))
        return outputs
