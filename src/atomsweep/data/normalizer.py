"""Statistics of labels: mean, spread, and an energy for each element."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
        "energies were referenced before they were rounded"
    )


class LabelStatistics:
    """Sums over labels of frames, added chunk by chunk, from which a normaliser is made.

    References c minimise sum over structures of (E - sum_i c[Z_i])²; elements that do not occur get
    0, and elements that always come together share. Forces are those of free atoms, about zero.

    What is held does not grow with the number of frames, and two parts merge. The spread of what
    references leave comes from the triangle R of a QR decomposition of [counts | energies]: totals
    of 10⁴ eV whose squares are summed would lose it.
    """

    def __init__(self) -> None:
        size = MAX_ATOMIC_NUMBER + 1
        self._sums: dict[str, Array] = {
            "structures": np.zeros((), dtype=np.int64),
            "mean": np.zeros(()),
            "squared_deviations": np.zeros(()),
            "atoms": np.zeros(size),  # of each element
            "gram": np.zeros((size, size)),
            "moment": np.zeros(size),
            "triangle": np.zeros((0, size + 1)),
            "largest": np.zeros(()),
            "rounded": np.ones((), dtype=bool),
            "squared_forces": np.zeros(()),
            "components": np.zeros((), dtype=np.int64),
        }

    def add_energies(self, energy: Array, atomic_numbers: Array, natoms: Array) -> None:
        """Take energies of frames that lie one behind the other.

        Shape: (S,) eV, (N,), (S,).
        """
        if not len(energy):
            return
        energy, size = energy.astype(np.float64), MAX_ATOMIC_NUMBER + 1
        cell = np.repeat(np.arange(len(natoms)), natoms) * size + atomic_numbers
        table = np.bincount(cell, minlength=len(natoms) * size).reshape(-1, size)
        there = np.flatnonzero(table.any(0))  # few of all elements
        counts = table[:, there].astype(np.float64)
        other = LabelStatistics()
        sums = other._sums
        sums["structures"] += len(energy)
        sums["mean"] += energy.mean()
        sums["squared_deviations"] += ((energy - energy.mean()) ** 2).sum()
        sums["atoms"][there] = counts.sum(0)
        sums["gram"][np.ix_(there, there)] = counts.T @ counts
        sums["moment"][there] = counts.T @ energy
        sums["triangle"] = _triangle(np.column_stack([counts, energy]), [*there, size])
        sums["largest"] += np.abs(energy).max()
        sums["rounded"] &= (energy == energy.astype(np.float32)).all()
        self.merge(other)

    def add_forces(self, forces: Array, fixed: Array) -> None:
        """Take forces. Shape: (N, 3) eV/Å, (N,)."""
        free = forces[~fixed].astype(np.float64)
        self._sums["squared_forces"] += (free**2).sum()
        self._sums["components"] += free.size

    def merge(self, other: LabelStatistics) -> None:
        """Add what another has seen."""
        mine, its = self._sums, other._sums
        if its["structures"]:
            both = mine["structures"] + its["structures"]
            step, share = its["mean"] - mine["mean"], its["structures"] / both
            mine["squared_deviations"] += (
                its["squared_deviations"] + step**2 * mine["structures"] * share
            )
            mine["mean"] += step * share
            mine["triangle"] = _triangle(np.concatenate([mine["triangle"], its["triangle"]]))
        for name in ("structures", "atoms", "gram", "moment", "squared_forces", "components"):
            mine[name] += its[name]
        mine["largest"] = np.maximum(mine["largest"], its["largest"])
        mine["rounded"] &= its["rounded"]

    def state(self) -> dict[str, Array]:
        """All that is held, to go on from."""
        return dict(self._sums)

    @classmethod
    def of_state(cls, state: Mapping[str, Array]) -> LabelStatistics:
        """From a `state`, exactly.

        Raises:
            ValueError: it is none.
        """
        made = cls()
        for name, value in made._sums.items():
            if name not in state or state[name].dtype != value.dtype:
                raise ValueError(f"no sums of labels: {name} is missing")
        made._sums = {name: np.array(state[name]) for name in made._sums}
        return made

    def result(self) -> dict[str, Any]:
        """Means, standard deviations, references; parts without labels are left out. Plain JSON.

        `energy_spacing` is the step between neighbouring energies, eV, where all are float32
        numbers; else 0.
        """
        found: dict[str, Any] = {}
        sums, count = self._sums, int(self._sums["structures"])
        if count:
            mean, spread = float(sums["mean"]), np.sqrt(sums["squared_deviations"] / count)
            found["energy"] = {"mean": mean, "std": float(spread)}
            references, _, rank, _ = np.linalg.lstsq(sums["gram"], sums["moment"], rcond=1e-10)
            found["structures"], found["independent_elements"] = count, int(rank)
            found["linear_references"] = references.tolist()
            rest = float(mean - sums["atoms"] @ references / count)
            squares = ((sums["triangle"] @ [*-references, 1.0]) ** 2).sum() / count
            found["energy_minus_references"] = {
                "mean": rest,
                "std": float(np.sqrt(max(0.0, squares - rest**2))),
            }
            spacing = np.spacing(np.float32(sums["largest"])) if sums["rounded"] else 0.0
            found["energy_spacing"] = float(spacing)
        if sums["components"]:
            spread = np.sqrt(sums["squared_forces"] / sums["components"])
            found["forces"] = {"mean": 0.0, "std": float(spread)}
        return found


def _triangle(rows: Array, columns: Sequence[int] = ()) -> Array:
    """R of the QR decomposition of rows, those of some columns written into all."""
    r = np.asarray(np.linalg.qr(rows, mode="r"))
    if not len(columns):
        return r
    whole = np.zeros((len(r), MAX_ATOMIC_NUMBER + 2))
    whole[:, columns] = r
    return whole


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
