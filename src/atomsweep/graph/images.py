"""Which periodic image of an atom is the nearest, for many pairs at once, in any cell."""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from atomsweep.transfers import sent

TIE = 1e-3  # Å: images within this of the nearest are as near, and the first in a fixed order wins
_SWEEPS = 8  # of the reduction; a cell of OC20 needs none
_WORTH = 1e-3  # Å: a lattice vector is replaced by one that is shorter by more than this
_NEIGHBOURS = [(0, 0, 0), *(n for n in product((0, -1, 1), repeat=3) if any(n))]


class Lattice(NamedTuple):
    """Cells of B structures, reduced as `nearest_images` wants them; found on the CPU.

    Attributes:
        reduced: (B, 3, 3) Å float64, zero rows along axes that are not periodic.
        change: (B, 3, 3), integers H with `reduced = H @ cell`.
        inverse: (B, 3, 3): coordinates of a vector's projection on the periodic axes.
        pbc: (B, 3).
    """

    reduced: Tensor
    change: Tensor
    inverse: Tensor
    pbc: Tensor


def lattice_of(cell: Tensor, pbc: Tensor) -> Lattice:
    """Reduced cells. Takes hundreds of kernels, and a GPU would be waited for.

    Args:
        cell: Å, rows are lattice vectors; those of axes that are not periodic are not read.
        pbc: periodic axes.

    Shape: (B, 3, 3), (B, 3).
    """
    with torch.no_grad():
        reduced, change = reduced_cell(cell.double() * pbc[..., None], pbc)
        fill = torch.diag_embed((~pbc).double())
        # coordinates of the projection on the periodic axes: f = d Lᵀ (L Lᵀ)⁻¹
        inverse = torch.linalg.solve(reduced @ reduced.mT + fill, reduced).mT  # (B, 3, 3)
    return Lattice(reduced, change, inverse, pbc)


def nearest_images(difference: Tensor, lattice: Lattice, structure: Tensor) -> Tensor:
    """Cell offsets S for which `difference + S @ cell` is shortest, along periodic axes.

    The cell is reduced first, as in Nguyen and Stehlé (ACM Trans. Algorithms 5, 46, 2009): in a
    Minkowski-reduced cell the nearest image is among the 27 around the wrapped one, however skewed
    the cell that was given. Where several images are equally near, as for two atoms half a cell
    apart, the choice is the same for a shifted, wrapped or turned copy. Nothing waits for a GPU.

    Args:
        difference: from one atom to another, Å, both anywhere.
        lattice: of the cells.
        structure: structure of each pair.

    Shape: (P, 3), (P,) -> (P, 3), in the dtype of `difference`.
    """
    with torch.no_grad():
        wrapped = torch.einsum("pi,pij->pj", difference.double(), lattice.inverse[structure])
        base = -torch.floor(wrapped + 0.5 + TIE / 10)  # (P, 3); a tie goes one way, not by rounding
        images = sent(torch.tensor(_NEIGHBOURS, dtype=torch.double), difference.device)  # (27, 3)
        by_pair = lattice.reduced[structure]
        vector = difference.double() + torch.einsum("pi,pij->pj", base, by_pair)
        candidates = vector[:, None] + (images @ lattice.reduced)[structure]  # (P, 27, 3)
        length = torch.linalg.vector_norm(candidates, dim=-1)
        near = length <= length.min(dim=1, keepdim=True).values + TIE
        offset = base + images[near.to(torch.uint8).argmax(dim=1)]  # the first of them
        offset = torch.einsum("pi,pij->pj", offset, lattice.change[structure])
        return torch.where(lattice.pbc[structure], offset, 0.0).to(difference.dtype)


def reduced_cell(cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """A Minkowski-reduced basis of each lattice, and the integers H with `reduced = H @ cell`.

    Sweeps over the axes: from each row the nearest multiples of the others are taken, then sums and
    differences of the two others are tried. A row changes only where that makes it shorter, so that
    a cell that is reduced stays, and its turned copy too.

    Args:
        cell: rows of axes that are not periodic are zero.
        pbc: periodic axes.

    Shape: (B, 3, 3), (B, 3) -> (B, 3, 3), (B, 3, 3).
    """
    change = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(cell.shape).clone()
    trials = torch.tensor(list(product((0, -1, 1), repeat=2)), dtype=cell.dtype, device=cell.device)
    for _ in range(_SWEEPS):
        for axis in range(3):
            others = [k for k in range(3) if k != axis]
            rows = change @ cell
            square = rows.square().sum(-1)[:, others]  # (B, 2)
            dot = torch.einsum("bkj,bj->bk", rows[:, others], rows[:, axis])
            nearest = torch.where(square > 0, torch.round(dot / square.clamp(min=1e-12)), 0.0)
            steps = trials - nearest[:, None]  # (B, 9, 2)
            steps = torch.cat([torch.zeros_like(steps[:, :1]), steps, *_single(nearest)], dim=1)
            tried = rows[:, axis, None] + steps @ rows[:, others]  # (B, T, 3)
            length = torch.linalg.vector_norm(tried, dim=-1)
            best = torch.where(length < length[:, :1] - _WORTH, length, length[:, :1]).argmin(1)
            step = steps[torch.arange(len(best), device=best.device), best]  # (B, 2)
            gain = torch.einsum("bk,bkj->bj", step, change[:, others])
            change[:, axis] += torch.where(pbc[:, axis, None], gain, 0.0)
    return change @ cell, change


def _single(nearest: Tensor) -> list[Tensor]:
    """Steps that take away a multiple of one other row alone."""
    zero = torch.zeros_like(nearest[:, 0])
    return [
        torch.stack([-nearest[:, 0], zero], dim=1)[:, None],
        torch.stack([zero, -nearest[:, 1]], dim=1)[:, None],
    ]
