"""Coefficients as values on points of the sphere, and activations there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.harmonics import harmonics_table
from atomsweep.nn.so3.layout import degrees, m_primary, truncation_rescale
from atomsweep.tracing import is_traced

CHUNK_COLUMNS = 2048  # columns of values on the grid that a CPU works on at a time


class SphereGrid(ConstantModule):
    """Transforms to a product grid on the sphere and back; the grid of e3nn's ToS2Grid.

    Polar angles (k + 1/2) π / n with weights after Driscoll and Healy (Adv. Appl. Math. 15, 202,
    1994), n equal azimuths. A product of two functions of degree L is exact from n = 2 L + 1 on;
    an activation has all degrees, so what it leaves beyond n is aliased: that is the equivariance
    error of these networks (docs/models.md).

    Args:
        l_max: highest degree.
        m_max: highest order of m-primary rows; None for all rows, l-primary.
        resolution: points in both angles, or (polar, azimuthal); polar even.
        normalization: "component" keeps the variance of every degree alike (EquiformerV2),
            "integral" is plain harmonics (eSCN).
        rescale: also scale degrees above m_max by sqrt((2l + 1) / (2 m_max + 1)), both ways.
    """

    def __init__(
        self,
        l_max: int,
        m_max: int | None,
        resolution: int | tuple[int, int],
        normalization: str = "component",
        rescale: bool = True,
    ) -> None:
        super().__init__()
        polar, azimuthal = (resolution,) * 2 if isinstance(resolution, int) else resolution
        highest = l_max if m_max is None else m_max
        if polar % 2 or polar < 2 * (l_max + 1) or azimuthal < 2 * highest + 1:
            raise ValueError(
                f"the grid must have an even number of at least {2 * (l_max + 1)} polar and "
                f"{2 * highest + 1} azimuthal points for l_max={l_max}, m_max={m_max}, got "
                f"{polar} and {azimuthal}"
            )
        points, weights = product_grid(polar, azimuthal)
        values = harmonics_table(points, l_max)  # (G, K)
        degree = degrees(l_max)
        if normalization == "component":
            scale = 1 / np.sqrt((2 * degree + 1) * (l_max + 1))
        else:
            scale = np.full(len(degree), (4 * np.pi) ** -0.5)
        rows = np.arange(len(degree)) if m_max is None else m_primary(l_max, m_max)
        factor = truncation_rescale(l_max, highest) if rescale else np.ones(len(degree))
        self.add_table("to_grid", (values * scale * factor)[:, rows])
        self.add_table("from_grid", (weights[:, None] * values / scale * factor)[:, rows].T.copy())
        self.to_grid: Tensor
        self.from_grid: Tensor

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the function that the coefficients stand for. Shape: (E, R, C) -> the same."""
        return _grid_silu(x, self.to_grid.to(x.dtype), self.from_grid.to(x.dtype))

    def pointwise(self, x: Tensor, mlp: nn.Sequential) -> Tensor:
        """A perceptron of the channels at each point, between two linear layers without a bias.

        These two commute with the transforms, so they act on coefficients, of which there are a
        tenth as many as points.

        Shape: (N, R, C) -> (N, R, D).
        """
        first, *middle, last = mlp
        values = torch.matmul(self.to_grid, first(x))
        for layer in middle:
            values = layer(values)
        return last(torch.matmul(self.from_grid, values))


def default_resolution(l_max: int, m_max: int) -> tuple[int, int]:
    """Polar and azimuthal points of eSCN's public code."""
    return 2 * (l_max + 1), 2 * m_max + (3 if m_max == l_max else 1)


def product_grid(polar: int, azimuthal: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (G, 3), polar angle slowest, and weights (G,) with sum 1."""
    index = np.arange(polar)
    angle = (index + 0.5) / polar * np.pi
    odd = 2 * np.arange(polar // 2) + 1
    weight = np.sin(angle) * (np.sin(np.outer(2 * index + 1, odd) * np.pi / (2 * polar)) / odd).sum(
        1
    )
    azimuth = np.arange(azimuthal) / azimuthal * 2 * np.pi
    points = np.stack(
        [
            np.outer(np.sin(angle), np.sin(azimuth)),
            np.outer(np.cos(angle), np.ones(azimuthal)),
            np.outer(np.sin(angle), np.cos(azimuth)),
        ],
        -1,
    )
    weights = np.repeat(weight / weight.sum() / azimuthal, azimuthal)
    return points.reshape(-1, 3), weights


class _GridSiLU(torch.autograd.Function):
    """from_grid SiLU(to_grid x), with the values on the grid made again in the backward.

    They are ten times larger than x. On a CPU they are made for a few edges at a time, so that they
    stay in its cache, and by one matrix product, which is faster there than a batch of small ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, to_grid: Tensor, from_grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, to_grid, from_grid)
        return _in_chunks(_forward_chunk, to_grid, from_grid, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, to_grid, from_grid = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            values = torch.matmul(to_grid, x)
            gate = values.sigmoid()
            slope = gate * (1 + values * (1 - gate))
            return to_grid.T @ (slope * (from_grid.T @ grad)), None, None
        return _in_chunks(_backward_chunk, to_grid, from_grid, x, grad), None, None


def _forward_chunk(to_grid: Tensor, from_grid: Tensor, x: Tensor) -> Tensor:
    return torch.mm(from_grid, F.silu(torch.mm(to_grid, x), inplace=True))


def _backward_chunk(to_grid: Tensor, from_grid: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    slope = torch.ops.aten.silu_backward(torch.mm(from_grid.T, grad), torch.mm(to_grid, x))
    return torch.mm(to_grid.T, slope)


def _in_chunks(
    function: Callable[..., Tensor], to_grid: Tensor, from_grid: Tensor, *tensors: Tensor
) -> Tensor:
    """`function` on (R, e C) matrices of a few edges at a time. Shape: (E, R, C) -> the same."""
    first = tensors[0]
    size = CHUNK_COLUMNS // first.shape[2] if first.device.type == "cpu" else len(first)
    out = torch.empty_like(first)
    for start in range(0, len(first), max(size, 1)):
        parts = [tensor[start : start + size] for tensor in tensors]
        columns = [part.transpose(0, 1).reshape(part.shape[1], -1) for part in parts]
        result = function(to_grid, from_grid, *columns)
        out[start : start + size] = result.unflatten(1, parts[0].shape[::2]).transpose(0, 1)
    return out


def _grid_silu(x: Tensor, to_grid: Tensor, from_grid: Tensor) -> Tensor:
    if is_traced():  # fuses by itself
        return torch.matmul(from_grid, F.silu(torch.matmul(to_grid, x)))
    return _GridSiLU.apply(x, to_grid, from_grid)
