"""Depth-wise tensor products with the harmonics of edges, on coefficients kept by degree.

`Degrees` is a list over l of (N, 2l + 1, C_l); degrees may differ in channels.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from atomsweep.nn.scatter import segment_sum
from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.wigner import wigner_by_quadrature

Degrees = list[Tensor]


def add_degrees(left: Degrees, right: Degrees) -> Degrees:
    """Sum; degrees that one of them lacks at the end count as zero."""
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    return [a + b for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]


def sum_degrees(x: Degrees, target: Tensor, num_atoms: int) -> Degrees:
    """Sum over the edges of each atom."""
    total = segment_sum(torch.cat([part.flatten(1) for part in x], 1), target, num_atoms)
    sizes = [part[0].numel() if len(part) else part.shape[1] * part.shape[2] for part in x]
    return [
        block.unflatten(1, part.shape[1:])
        for block, part in zip(total.split(sizes, 1), x, strict=True)
    ]


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """The invariant of three degrees, of norm 1: C with C(D1 a, D2 b, D3 c) = C(a, b, c).

    Found as the null space of two rotations. Its sign is free; as in e3nn, entry (0, 0, 0) in
    orders m is positive for even l1 + l2 + l3, and (-1, 0, 1) for odd.

    Shape: (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).
    """
    rows = []
    for matrix in _two_rotations(max(l1, l2, l3)):
        blocks = [matrix[k * k : (k + 1) ** 2, k * k : (k + 1) ** 2] for k in (l1, l2, l3)]
        product = np.kron(np.kron(blocks[0], blocks[1]), blocks[2])
        rows.append(product - np.eye(len(product)))
    _, singular, basis = np.linalg.svd(np.concatenate(rows))
    assert singular[-1] < 1e-10
    found = basis[-1].reshape(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1)
    odd = (l1 + l2 + l3) % 2
    return found * np.sign(found[l1 - odd, l2, l3 + odd])


@cache
def _two_rotations(l_max: int) -> np.ndarray:
    about_y = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, 0.28, -0.96], [0.0, 0.96, 0.28]])
    return wigner_by_quadrature(np.stack([about_y, about_x @ about_y]), l_max)


class Paths:
    """All (l1, l2) -> l3 with every degree at most L, l1 slowest.

    Args:
        l_max: L.
    """

    def __init__(self, l_max: int) -> None:
        self.by_input = [
            [
                (l2, l3)
                for l2 in range(l_max + 1)
                for l3 in range(abs(l1 - l2), min(l1 + l2, l_max) + 1)
            ]
            for l1 in range(l_max + 1)
        ]

    def num_weights(self, channels: list[int]) -> int:
        """One for each path and channel."""
        return sum(len(p) * c for p, c in zip(self.by_input, channels, strict=True))

    def out_channels(self, channels: list[int]) -> list[int]:
        """Channels of each degree of the product."""
        out = [0] * len(channels)
        for paths, count in zip(self.by_input, channels, strict=True):
            for _, l3 in paths:
                out[l3] += count
        return out


class EdgeProduct(ConstantModule):
    """The matrices of edges that a depth-wise product multiplies with, one for each l1.

    Entry (l2, l3, m3; m1) is sqrt(2 l3 + 1) sum_m2 C(m1, m2, m3) Y_l2,m2: "component"
    normalisation of every path, as in e3nn. All layers share them.

    Args:
        l_max: highest degree.

    Shape: harmonics (E, (L + 1)²) -> for each l1, (E, sum over paths of 2 l3 + 1, 2 l1 + 1).
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.paths = Paths(l_max)
        for l1, paths in enumerate(self.paths.by_input):
            columns = []
            for l2, l3 in paths:
                part = np.zeros(((l_max + 1) ** 2, 2 * l3 + 1, 2 * l1 + 1))
                tensor = wigner_3j(l1, l2, l3) * np.sqrt(2 * l3 + 1)
                part[l2 * l2 : (l2 + 1) ** 2] = tensor.transpose(1, 2, 0)
                columns.append(part)
            self.add_table(f"table_{l1}", np.concatenate(columns, 1))

    def forward(self, harmonics: Tensor) -> Degrees:
        """Matrices of edges."""
        matrices = []
        for l1 in range(len(self.paths.by_input)):
            table = getattr(self, f"table_{l1}")
            matrices.append((harmonics @ table.flatten(1)).unflatten(1, table.shape[1:]))
        return matrices


class DepthwiseProduct(ConstantModule):
    """x_l1 ⊗ Y_l2 -> l3 in each channel alone, with a weight for each path and channel.

    Args:
        l_max: highest degree.
        channels: channels of each degree of x.

    Shape: x, matrices of `EdgeProduct`, weights (E, num_weights) or (num_weights,) -> `Degrees`
    with the channels of all paths side by side.
    """

    def __init__(self, l_max: int, channels: list[int]) -> None:
        super().__init__()
        self.paths = Paths(l_max)
        self.channels = channels
        self.num_weights = self.paths.num_weights(channels)
        self.out_channels = self.paths.out_channels(channels)
        for l1, paths in enumerate(self.paths.by_input):
            sizes = [2 * l3 + 1 for _, l3 in paths]
            self.add_table(f"path_of_row_{l1}", np.repeat(np.arange(len(paths)), sizes))

    def forward(self, x: Degrees, matrices: Degrees, weights: Tensor) -> Degrees:
        """Product of each edge; missing degrees of `x` at the end are zero, and leave no channel.

        With fewer degrees than the product has, `weights` are those of the given ones.
        """
        given = list(zip(self.paths.by_input, self.channels, x, strict=False))
        split = weights.split([len(paths) * count for paths, count, _ in given], -1)
        outputs: list[list[Tensor]] = [[] for _ in self.channels]
        for l1, (paths, count, part) in enumerate(given):
            weight = split[l1].unflatten(-1, (len(paths), count))
            weight = weight.index_select(-2, getattr(self, f"path_of_row_{l1}"))
            rows = torch.bmm(matrices[l1], part) * weight
            sizes = [2 * l3 + 1 for _, l3 in paths]
            for (_, l3), block in zip(paths, rows.split(sizes, 1), strict=True):
                outputs[l3].append(block)
        return [torch.cat(blocks, 2) for blocks in outputs]


class DegreesLinear(nn.Module):
    """A matrix for each degree that has channels on both sides, and a bias for l = 0.

    Args:
        in_channels: of each degree.
        out_channels: of each degree; those without input are zero.
        bias: add a bias to l = 0.
        init: weights of variance 1 / in_channels ("normal"), or uniform within ±in_channels^-1/2.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: list[int],
        bias: bool = True,
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.weights = nn.ParameterList()
        for count_in, count_out in zip(in_channels, out_channels, strict=False):
            weight = nn.Parameter(
                torch.empty(count_out, count_in), requires_grad=count_out * count_in > 0
            )
            if weight.numel():
                bound = count_in**-0.5
                if init == "uniform":
                    nn.init.uniform_(weight, -bound, bound)
                else:
                    nn.init.normal_(weight, std=bound)
            self.weights.append(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels[0])) if bias else None

    def forward(self, x: Degrees) -> Degrees:
        """One product for each degree that has channels; the others are left out at the end."""
        outputs = []
        for degree, (part, weight) in enumerate(zip(x, self.weights, strict=False)):
            bias = self.bias if degree == 0 else None
            outputs.append(nn.functional.linear(part, weight, bias))
        return outputs
