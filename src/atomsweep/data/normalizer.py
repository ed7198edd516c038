"""Statistics of a training split: mean, spread, and an energy for each element."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.data.base import MAX_ATOMIC_NUMBER, Array, DataError
from atomsweep.data.npz import read_npz
from atomsweep.data.store import StoreDataset

_CHUNK = 2048  # structures held at once


def fit_normalizer(store: StoreDataset, indices: Array) -> dict[str, Any]:
    """Mean and standard deviation of the labels, and linear references, as plain JSON.

    References c minimise sum over structures of (E - sum_i c[Z_i])²; elements that do not occur get
    0, and elements that always come together share. Forces are those of free atoms, about zero.

    Args:
        store: the frames.
        indices: places of the training frames.

    Raises:
        DataError: there is no frame, or no label.
    """
    if not len(indices):
        raise DataError(f"{store.path} has no frame to fit a normaliser to")
    if not (store.has_energy or store.has_forces):
        raise DataError(f"{store.path} carries neither energies nor forces")
    size = MAX_ATOMIC_NUMBER + 1
    gram, moment = np.zeros((size, size)), np.zeros(size)
    counts, energies = [], []
    squares, components = 0.0, 0
    for start in range(0, len(indices), _CHUNK):
        flat, _ = store.flat(indices[start : start + _CHUNK].tolist(), edges=False)
        if flat.energy is not None:
            frame = np.repeat(np.arange(len(flat.natoms)), flat.natoms)
            table = np.zeros((len(flat.natoms), size))
            np.add.at(table, (frame, flat.atomic_numbers), 1.0)
            gram += table.T @ table
            moment += table.T @ flat.energy
            counts.append(table.astype("u2"))
            energies.append(flat.energy)
        if flat.forces is not None:
            free = flat.forces[~flat.fixed].astype(np.float64)
            squares += float((free**2).sum())
            components += free.size
    found: dict[str, Any] = {"frames": len(indices), "store": store.path.name}
    if energies:
        energy = np.concatenate(energies)
        found["energy"] = {"mean": float(energy.mean()), "std": float(energy.std())}
        references = np.linalg.lstsq(gram, moment, rcond=1e-10)[0]
        rest = np.concatenate([e - t @ references for t, e in zip(counts, energies, strict=True)])
        found["linear_references"] = references.tolist()
        found["energy_minus_references"] = {"mean": float(rest.mean()), "std": float(rest.std())}
    if components:
        found["forces"] = {"mean": 0.0, "std": float(np.sqrt(squares / components))}
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
