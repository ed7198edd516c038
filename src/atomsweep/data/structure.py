"""One labelled configuration of atoms, and what can be wrong with it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_ATOMIC_NUMBER = 118
MAX_TAG = 127
LARGEST = float(np.finfo("f4").max)
FLAT = 1e-6  # Å: a cell that is thinner has no volume


class DataError(ValueError):
    """A record or file that cannot be used; the message names file and index and says why."""


@dataclass
class Structure:
    """One labelled configuration of atoms, as numpy arrays.

    Attributes:
        atomic_numbers: (N,) integers, 1 to 118.
        pos: (N, 3) Å, as they are: not wrapped into the cell.
        cell: (3, 3) Å, rows are lattice vectors; zero where there is none.
        pbc: (3,) bool.
        tags: (N,) integers: 0 subsurface, 1 surface, 2 adsorbate.
        fixed: (N,) bool, held during the relaxation.
        forces: (N, 3) eV/Å as computed, fixed atoms included; None without labels.
        energy: eV; None without labels.
        sid: system (relaxation) id.
        fid: frame within the system.
    """

    atomic_numbers: Array
    pos: Array
    cell: Array
    pbc: Array
    tags: Array
    fixed: Array
    forces: Array | None = None
    energy: float | None = None
    sid: int = 0
    fid: int = 0

    @property
    def natoms(self) -> int:
        """Number of atoms N."""
        return len(self.atomic_numbers)


def structure_fault(structure: Structure) -> str | None:
    """The first thing wrong with a structure, in words, or None.

    Checks shapes, atomic numbers, NaN or Inf in positions, cell and labels as float32 has them, and
    the volume of the cell along periodic directions.
    """
    n = structure.natoms
    if n == 0:
        return "it has no atoms"
    for name in ("pos", "forces"):
        value = getattr(structure, name)
        if value is None:
            continue
        if value.shape != (n, 3):
            return f"{name} must have shape ({n}, 3) for {n} atoms, got {value.shape}"
        if not np.abs(value).max() <= LARGEST:  # NaN is not either
            return f"{name} of atom {_first_bad(value)}"
    for name in ("sid", "fid"):
        if not -(1 << 63) <= getattr(structure, name) < 1 << 63:
            return f"{name} does not fit into 64 bits"
    for name in ("tags", "fixed"):
        value = getattr(structure, name)
        if value.shape != (n,):
            return f"{name} must have shape ({n},) for {n} atoms, got {value.shape}"
    if np.abs(structure.tags).max() > MAX_TAG:
        return f"tags must be small integers, got {np.unique(structure.tags).tolist()}"
    numbers = structure.atomic_numbers
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        bad = int(np.argmax((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)))
        return f"atom {bad} has atomic number {numbers[bad]}, outside 1 to {MAX_ATOMIC_NUMBER}"
    if structure.energy is not None and not np.isfinite(structure.energy):
        return f"energy is {structure.energy}"
    if structure.energy is not None and abs(structure.energy) > LARGEST:
        return f"energy is {structure.energy}, too large for float32"
    cell = structure.cell
    if cell.shape != (3, 3) or not np.abs(cell).max() <= LARGEST:
        return f"cell must be a finite (3, 3) matrix (of float32), got {cell.tolist()}"
    if structure.pbc.any() and not _spans(cell, structure.pbc):
        return "its cell has no volume along the periodic directions"
    return None


def _first_bad(value: Array) -> str:
    """The first row (of N, 3) that float32 cannot hold, and why."""
    if not np.isfinite(value).all():
        return f"{int(np.argmax(~np.isfinite(value).all(1)))} is NaN or Inf"
    return f"{int(np.argmax((np.abs(value) > LARGEST).any(1)))} is too large for float32"


def _spans(cell: Array, pbc: Array) -> bool:
    """Whether the periodic vectors have a volume: no singular value is below `FLAT`."""
    if pbc.all():
        (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        squares = a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h + i * i
        # the least singular value is the volume over the other two, whose product is at most half
        # the sum of squares; the other half is for rounding
        if abs(volume) > FLAT * squares:
            return True
    periodic = cell[pbc]
    return int(np.linalg.matrix_rank(periodic, tol=FLAT)) == len(periodic)
