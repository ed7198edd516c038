"""Predictions of a run on a sample of a split: `<run>/predictions/<split>.npz`."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

ARRAYS = {
    "pos": "(N, 3), Å",
    "atomic_numbers": "(N,)",
    "natoms": "(B,)",
    "forces": "(N, 3), eV/Å, reference",
    "forces_pred": "(N, 3), eV/Å",
    "fixed": "(N,), bool: not counted",
    "sid": "(B,), text",
    "fid": "(B,), frame of the trajectory",
}
"""Arrays of a file of predictions, no pickles: N atoms of B structures, one after another."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """A sample of one split, see `ARRAYS`; `structure` tells of each atom whose it is."""

    arrays: dict[str, Array]
    structure: Array

    @property
    def free(self) -> Array:
        """Atoms that count."""
        return ~self.arrays["fixed"].astype(bool)

    @property
    def errors(self) -> Array:
        """Mean over components of |predicted − reference| of each atom, (N,), eV/Å."""
        difference = self.arrays["forces_pred"] - self.arrays["forces"]
        return np.asarray(np.abs(difference).mean(axis=1))

    def structure_errors(self) -> Array:
        """Force MAE of each structure over its free atoms, (B,); NaN where none is free."""
        count = len(self.arrays["natoms"])
        total = np.bincount(self.structure[self.free], self.errors[self.free], count)
        number = np.bincount(self.structure[self.free], minlength=count)
        return np.divide(total, number, out=np.full(count, np.nan), where=number > 0)


def read_predictions(path: Path) -> Predictions:
    """A file of predictions.

    Raises:
        ValueError: it is damaged, or an array is missing or does not fit the others.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in ARRAYS if name not in arrays]:
        raise ValueError(f"{path} must have the arrays {', '.join(ARRAYS)}; it has no {lacking[0]}")
    atoms = int(arrays["natoms"].sum())
    shapes: dict[str, tuple[int, ...]] = {
        "pos": (atoms, 3),
        "forces": (atoms, 3),
        "forces_pred": (atoms, 3),
    }
    shapes |= dict.fromkeys(("atomic_numbers", "fixed"), (atoms,))
    shapes |= dict.fromkeys(("sid", "fid"), arrays["natoms"].shape)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            told = f"{name} must have shape {shape}, got {arrays[name].shape}"
            raise ValueError(f"{path}: {told}")
    structure = np.repeat(np.arange(len(arrays["natoms"])), arrays["natoms"])
    return Predictions(arrays, structure)
