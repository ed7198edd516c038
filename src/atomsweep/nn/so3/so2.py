"""SO(2) convolution: in the frame of an edge, rotations about it only turn ±m into one another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.layout import num_degrees


class SO2Convolution(nn.Module):
    """All degrees of one |m| are mixed: dense for m = 0, a complex matrix for the pairs ±m.

    y₊ = W_r x₊ - W_i x₋ and y₋ = W_r x₋ + W_i x₊ (eSCN, arXiv:2302.03655, Sec. 4), here as one
    product with [[W_r, -W_i], [W_i, W_r]], or on a CPU as three of a quarter of its size. Weights of an edge multiply the inputs, the same for
    +m and -m (EquiformerV2, arXiv:2306.12059).

    Args:
        in_channels: C.
        out_channels: D.
        l_max: highest degree.
        m_max: highest order.
        extra_scalars: additional outputs of the m = 0 part.

    Shape: (E, R, C), weights (E, num_weights) or None -> (E, R, D) and (E, extra_scalars), rows
    m-primary.
    """

    def __init__(
        self, in_channels: int, out_channels: int, l_max: int, m_max: int, extra_scalars: int = 0
    ) -> None:
        super().__init__()
        self.sizes = num_degrees(l_max, m_max)
        self.out_channels = out_channels
        self.extra_scalars = extra_scalars
        self.num_weights = sum(self.sizes) * in_channels
        size = self.sizes[0]
        self.m0 = nn.Linear(size * in_channels, size * out_channels + extra_scalars)
        nn.init.zeros_(self.m0.bias)
        self.pairs = nn.ModuleList(
            nn.Linear(size * in_channels, 2 * size * out_channels, bias=False)
            for size in self.sizes[1:]
        )
        for layer in self.pairs:
            with torch.no_grad():
                layer.weight.mul_(2**-0.5)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coefficients and extra scalars."""
        rows = [size * (1 if m == 0 else 2) for m, size in enumerate(self.sizes)]
        channels = x.shape[-1]
        parts = list(x.split(rows, 1))
        if weights is not None:
            split = weights.unflatten(1, (-1, channels)).split(self.sizes, 1)
            parts = [
                parts[0] * split[0],
                *(
                    part.unflatten(1, (2, -1)) * weight[:, None]
                    for part, weight in zip(parts[1:], split[1:], strict=True)
                ),
            ]
        scalars = self.m0(parts[0].flatten(1))  # (E, extra + (L + 1) D)
        extra, first = scalars.split([self.extra_scalars, rows[0] * self.out_channels], 1)
        outputs = [first.unflatten(1, (rows[0], self.out_channels))]
        for part, layer, count in zip(parts[1:], self.pairs, rows[1:], strict=True):
            outputs.append(
                _complex_linear(
                    part.unflatten(1, (2, -1)) if part.ndim == 3 else part, layer.weight, count
                )
            )
        return torch.cat(outputs, 1), extra


def _complex_linear(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """(W_r + i W_i)(x₊ + i x₋). Shape: (E, 2, n, C) -> (E, count, D)."""
    real, imag = weight.chunk(2)
    if x.device.type == "cpu":  # three products for four: arithmetic is what costs here
        plus, minus = x.flatten(2).unbind(1)
        first, second = F.linear(plus, real), F.linear(minus, imag)
        both = F.linear(plus + minus, real + imag)
        out = torch.stack([first - second, both - first - second], 1)
    else:
        block = torch.cat([torch.cat([real, -imag], 1), torch.cat([imag, real], 1)])
        out = F.linear(x.flatten(1), block)
    return out.reshape(len(x), count, -1)
