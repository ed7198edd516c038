"""SO(2) convolution. With an edge along +y, a rotation about it mixes only orders +m and −m."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.layout import num_degrees
from atomsweep.tracing import is_traced


class SO2Convolution(nn.Module):
    """All degrees of one |m| are mixed: dense for m = 0, a complex matrix for the pairs ±m.

    y₊ = W_r x₊ - W_i x₋ and y₋ = W_r x₋ + W_i x₊ (eSCN, arXiv:2302.03655, Sec. 4), here as one
    product with [[W_r, -W_i], [W_i, W_r]], or, on a CPU, as three products, each a quarter of the
    size. Weights of an edge multiply the inputs, the same for +m and -m (EquiformerV2,
    arXiv:2306.12059).

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
        rows = [self.sizes[0], *doubled]
        if weights is None:
            first, *rest = x.split(rows, 1)
        elif is_traced():  # fuses by itself
            first, *rest = _weigh(x, weights.unflatten(1, (-1, x.shape[2])), rows)
        else:
            weights = weights.to(x.dtype)
            first, *rest = _Weigh.apply(x, weights.unflatten(1, (-1, x.shape[2])), rows)
        return first, list(zip(rest[::2], rest[1::2], strict=True))


def _weigh(x: Tensor, weights: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
    """Blocks of rows of `x`, each times its weights; +m and -m share them."""
    factors = weights.split([rows[0], *rows[1::2]], 1)
    shared = [factors[(index + 1) // 2] for index in range(len(rows))]
    return tuple(part * w for part, w in zip(x.split(rows, 1), shared, strict=True))


class _Weigh(torch.autograd.Function):
    """`_weigh`, whose backward writes into place instead of joining pieces."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, weights)
        ctx.rows = rows
        return _weigh(x, weights, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        rows = ctx.rows
        shared = [rows[0], *rows[1::2]]
        if torch.is_grad_enabled():  # a second derivative is wanted
            factors = weights.split(shared, 1)
            pieces = [g * factors[(k + 1) // 2] for k, g in enumerate(grads)]
            parts = [g * part for g, part in zip(grads, x.split(rows, 1), strict=True)]
            pairs = zip(parts[1::2], parts[2::2], strict=True)
            joined = torch.cat([parts[0], *(plus + minus for plus, minus in pairs)], 1)
            return torch.cat(pieces, 1), joined, None
        grad_x, grad_w = torch.empty_like(x), torch.empty_like(weights)
        factors, targets = weights.split(shared, 1), grad_w.split(shared, 1)
        inputs = zip(grads, x.split(rows, 1), grad_x.split(rows, 1), strict=True)
        for index, (grad, part, out) in enumerate(inputs):
            block = (index + 1) // 2
            torch.mul(grad, factors[block], out=out)
            if index and index % 2 == 0:  # -m, after +m
                targets[block].addcmul_(grad, part)
            else:
                torch.mul(grad, part, out=targets[block])
        return grad_x, grad_w, None


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
