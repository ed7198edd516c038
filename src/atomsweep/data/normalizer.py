"""Statistics of labels: mean, spread, and an energy for each element."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.data.npz import read_npz
from atomsweep.data.structure import MAX_ATOMIC_NUMBER, Array, DataError

COARSE = 1e-3  # of the labels' spread: labels on a coarser grid are refused


def spacing_fault(step: float, spread: float) -> str | None:
    """What is wrong with energies that were rounded to steps (eV), given their spread, or None."""
    if not step > COARSE * spread > 0:
        return None
    return (
        f"energies are rounded to float32, whose steps of {step:.2g} eV are more than a thousandth "
        f"of the labels' spread of {spread:.2g} eV; take files that keep them in float64, or whose "
        "energies are referenced"
    )


class LabelStatistics:
    """Sums over labels of frames, added chunk by chunk, from which a normaliser is made.

    References c minimise sum over structures of (E - sum_i c[Z_i])²; elements that do not occur get
    0, and elements that always come together share. Forces are those of free atoms, about zero.
    """

    def __init__(self) -> None:
        size = MAX_ATOMIC_NUMBER + 1
        self._gram, self._moment = np.zeros((size, size)), np.zeros(size)
        self._counts: list[Array] = []
        self._energies: list[Array] = []
        self._squares, self._components = 0.0, 0
        self._largest, self._rounded = 0.0, True

    def add_energies(self, energy: Array, atomic_numbers: Array, natoms: Array) -> None:
        """Take energies of frames that lie one behind the other.

        Shape: (S,) eV, (N,), (S,).
        """
        energy = energy.astype(np.float64)
        self._largest = max(self._largest, float(np.abs(energy).max(initial=0.0)))
        self._rounded &= bool((energy == energy.astype(np.float32)).all())
        frame = np.repeat(np.arange(len(natoms)), natoms)
        table = np.zeros((len(natoms), len(self._moment)))
        np.add.at(table, (frame, atomic_numbers), 1.0)
        self._gram += table.T @ table
        self._moment += table.T @ energy
        self._counts.append(table.astype("u2"))
        self._energies.append(energy)

    def add_forces(self, forces: Array, fixed: Array) -> None:
        """Take forces. Shape: (N, 3) eV/Å, (N,)."""
        free = forces[~fixed].astype(np.float64)
        self._squares += float((free**2).sum())
        self._components += free.size

    @property
    def energy_spacing(self) -> float:
        """Step between neighbouring energies, eV, where all are float32 numbers; else 0."""
        return float(np.spacing(np.float32(self._largest))) if self._rounded else 0.0

    @property
    def num_structures(self) -> int:
        """Structures whose energies were taken."""
        return sum(len(energy) for energy in self._energies)

    def result(self) -> dict[str, Any]:
        """Means and standard deviations, and references; parts without labels are left out."""
        found: dict[str, Any] = {}
        if self._energies:
            energy = np.concatenate(self._energies)
            found["energy"] = {"mean": float(energy.mean()), "std": float(energy.std())}
            references, _, rank, _ = np.linalg.lstsq(self._gram, self._moment, rcond=1e-10)
            found["independent_elements"] = int(rank)
            parts = zip(self._counts, self._energies, strict=True)
            rest = np.concatenate([e - t @ references for t, e in parts])
            found["linear_references"] = references.tolist()
            found["energy_minus_references"] = {
                "mean": float(rest.mean()),
                "std": float(rest.std()),
            }
        if self._components:
            spread = float(np.sqrt(self._squares / self._components))
            found["forces"] = {"mean": 0.0, "std": spread}
        return found


def load_references(path: Path) -> Array:
    """(Z,) eV for each atomic number, of `.npz` with `coeff` or a file of `fit_normalizer`.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds no such references.
    """
    if path.suffix == ".npz":
        values = read_npz(path, ("coeff",))["coeff"]
    else:
        try:
            values = np.array(json.loads(path.read_text(encoding="utf-8"))["linear_references"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no linear_references") from error
    if values.ndim != 1 or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise DataError(f"{path}: references must be finite numbers, one for each atomic number")
    return values
