"""SO(2) convolution: in the frame of an edge, rotations about it only turn ±m into one another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.layout import num_degrees


class SO2Convolution(nn.Module):
    """All degrees of one |m| are mixed: dense for m = 0, a complex matrix for the pairs ±m.

    y₊ = W_r x₊ - W_i x₋ and y₋ = W_r x₋ + W_i x₊ (eSCN, arXiv:2302.03655, Sec. 4), here as one
    product with [[W_r, -W_i], [W_i, W_r]], or on a CPU as three of a quarter of its size. Weights
    of an edge multiply the inputs, the same for +m and -m (EquiformerV2, arXiv:2306.12059).

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
        pairs = [
            nn.Linear(size * in_channels, 2 * size * out_channels, bias=False)
            for size in self.sizes[1:]
        ]
        for layer in pairs:
            with torch.no_grad():
                layer.weight.mul_(2**-0.5)
        self.pairs = nn.ModuleList(pairs)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coefficients and extra scalars."""
        first, pairs = self._weighted(x, weights)
        scalars = self.m0(first.flatten(1))  # (E, extra + (L + 1) D)
        extra, rows = scalars.split([self.extra_scalars, self.sizes[0] * self.out_channels], 1)
        outputs = [rows]
        for (plus, minus), layer in zip(pairs, self.pairs, strict=True):
            real, imag = _halves(layer)
            outputs += _complex_linear(plus.flatten(1), minus.flatten(1), real, imag)
        outputs = [out.unflatten(1, (-1, self.out_channels)) for out in outputs]
        return torch.cat(outputs, 1), extra

    def vectors(self, x: Tensor) -> Tensor:
        """Only the rows of l = 1, as (x, y, z), and without weights. Shape: (E, 3, D)."""
        first, pairs = self._weighted(x, None)
        channels = self.out_channels
        one = slice(self.extra_scalars + channels, self.extra_scalars + 2 * channels)
        middle = F.linear(first.flatten(1), self.m0.weight[one], self.m0.bias[one])
        real, imag = (half[:channels] for half in _halves(self.pairs[0]))
        plus, minus = (part.flatten(1) for part in pairs[0])
        plus, minus = _complex_linear(plus, minus, real, imag)
        return torch.stack([minus, middle, plus], 1)

    def _weighted(
        self, x: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The m = 0 part, and both parts of each pair, times the weights of the edge."""
        doubled = [size for size in self.sizes[1:] for _ in range(2)]
        first, *rest = x.split([self.sizes[0], *doubled], 1)
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        if weights is None:
            return first, pairs
        factor, *factors = weights.unflatten(1, (-1, x.shape[2])).split(self.sizes, 1)
        both = zip(pairs, factors, strict=True)
        return first * factor, [(plus * w, minus * w) for (plus, minus), w in both]


def _halves(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Real and imaginary matrix of a pair ±m."""
    assert isinstance(layer, nn.Linear)
    real, imag = layer.weight.chunk(2)
    return real, imag


def _complex_linear(
    plus: Tensor, minus: Tensor, real: Tensor, imag: Tensor
) -> tuple[Tensor, Tensor]:
    """(W_r + i W_i)(x₊ + i x₋), both parts. Shape: (E, C) twice -> (E, D) twice."""
    if plus.device.type == "cpu":  # three products for four: arithmetic is what costs here
        first, second = F.linear(plus, real), F.linear(minus, imag)
        both = F.linear(plus + minus, real + imag)
        return first - second, both - first - second
    block = torch.cat([torch.cat([real, -imag], 1), torch.cat([imag, real], 1)])
    out_plus, out_minus = F.linear(torch.cat([plus, minus], 1), block).chunk(2, 1)
    return out_plus, out_minus
