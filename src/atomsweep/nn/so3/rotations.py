"""Coefficients of atoms, rotated until their edge lies along +y, and back."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from atomsweep.nn.scatter import segment_sum
from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.layout import truncation_rescale
from atomsweep.nn.so3.wigner import EdgeWigner, edge_rotation
from atomsweep.tracing import is_traced


class Rotations(NamedTuple):
    """Rotations of the edges of one batch.

    Attributes:
        there: (E, R, (L + 1)²), from an atom's coefficients to the rows of the edge.
        there_back: its transpose, for the backward; both are contiguous, which is faster.
        home: (E, (L + 1)², R), back, with the rescaling of truncated degrees.
        home_back: the transpose of that.
        vector_home: (E, 3, 3), the same for l = 1 as (x, y, z).
    """

    there: Tensor
    there_back: Tensor
    home: Tensor
    home_back: Tensor
    vector_home: Tensor

    def into_pairs(self, x: Tensor, pairs: Tensor) -> Tensor:
        """Coefficients of source and target side by side, aligned with the edge.

        Shape: (N, (L + 1)², C), (2, E) -> (E, R, 2C).
        """
        return _rotate(self.there, self.there_back, _gather_pairs(x, pairs))

    def into(self, x: Tensor, atom: Tensor) -> Tensor:
        """Coefficients of one atom of each edge, aligned with it.

        Shape: (N, (L + 1)², C), (E,) -> (E, R, C).
        """
        gathered = x.flatten(1).index_select(0, atom).unflatten(1, x.shape[1:])
        return _rotate(self.there, self.there_back, gathered)

    def back(self, message: Tensor) -> Tensor:
        """Turned back; fewer rows than R are the first ones. Shape: (E, r, C) -> (E, …, C)."""
        rows = message.shape[1]
        return _rotate(self.home[:, :, :rows], self.home_back[:, :rows], message)

    def vectors_back(self, message: Tensor) -> Tensor:
        """Vectors (x, y, z) turned back. Shape: (E, 3, C) -> (E, 3, C)."""
        return torch.bmm(self.vector_home.to(message.dtype), message)


class AlignedEdges(NamedTuple):
    """Pairs (2, E), their elements, radial basis (E, K), and rotations to the edges and back."""

    pairs: Tensor
    elements: tuple[Tensor, ...]
    radial: Tensor
    rotations: Rotations

    def part(self, numbers: Tensor) -> "AlignedEdges":
        """The edges of these numbers."""
        pairs, *elements = (x.index_select(-1, numbers) for x in (self.pairs, *self.elements))
        radial, *rotations = (x.index_select(0, numbers) for x in (self.radial, *self.rotations))
        return AlignedEdges(pairs, tuple(elements), radial, Rotations(*rotations))


class EdgeRotations(ConstantModule):
    """Makes `Rotations` from directions.

    Args:
        l_max: highest degree.
        m_max: highest order kept.
        rescale: scale truncated degrees on the way back, as EquiformerV2 does and eSCN does not.

    Shape: unit vectors (E, 3).
    """

    def __init__(self, l_max: int, m_max: int, rescale: bool = True) -> None:
        super().__init__()
        self.l_max = l_max
        self.wigner = EdgeWigner(l_max, m_max)
        self.scaled = rescale and m_max < l_max
        if self.scaled:
            self.add_table("scale", truncation_rescale(l_max, m_max))
            self.scale: Tensor

    def forward(self, direction: Tensor) -> Rotations:
        """Rotations of unit vectors."""
        there = self.wigner(direction)
        home = there * self.scale if self.scaled else there
        vectors = edge_rotation(direction) * (self.scale[1] if self.scaled else 1.0)
        transposed = there.transpose(1, 2).contiguous()
        home_back = home
        home = home.transpose(1, 2).contiguous() if self.scaled else transposed
        return Rotations(there, transposed, home, home_back, vectors.transpose(1, 2))


def _rotate(matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
    """Matrix @ x of every edge."""
    if matrix.requires_grad or is_traced():
        return torch.bmm(matrix.to(x.dtype), x)
    return _Rotate.apply(x, matrix.to(x.dtype), transposed.to(x.dtype))


class _Rotate(torch.autograd.Function):
    """A batch of products with constant matrices, whose transposes are at hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, transposed)
        return torch.bmm(matrix, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        matrix, transposed = ctx.saved_tensors
        matrix, transposed = matrix.to(grad.dtype), transposed.to(grad.dtype)  # autocast
        return _Rotate.apply(grad, transposed, matrix), None, None


def _gather_pairs(x: Tensor, pairs: Tensor) -> Tensor:
    if is_traced():
        return torch.cat([x.index_select(0, atom) for atom in pairs], 2)
    return _GatherPairs.apply(x, pairs)


class _GatherPairs(torch.autograd.Function):
    """[x_source, x_target] of every edge, in one pass; the backward sums whole atoms.

    Shape: (N, K, C), (2, E) -> (E, K, 2C).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(pairs)
        ctx.num_atoms = len(x)
        _, rows, channels = x.shape
        row = torch.arange(rows, device=x.device)
        index = pairs.T[:, None, :] * rows + row[:, None]  # (E, K, 2)
        both = x.reshape(-1, channels).index_select(0, index.flatten())
        return both.reshape(-1, rows, 2 * channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (pairs,) = ctx.saved_tensors
        source, target = (
            segment_sum(part.flatten(1), atom, ctx.num_atoms)
            for part, atom in zip(grad.chunk(2, 2), pairs, strict=True)
        )
        total = source + target
        return total.unflatten(1, (grad.shape[1], -1)), None
