"""Statistics of the labels of a store, for a normaliser."""

from __future__ import annotations

from typing import Any

from atomsweep.data.normalizer import LabelStatistics
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import Array, DataError

_CHUNK = 2048  # structures held at once


def fit_normalizer(store: StoreDataset, indices: Array) -> dict[str, Any]:
    """Statistics of the labels of a store's frames (`LabelStatistics`), as plain JSON.

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
    statistics = LabelStatistics()
    for start in range(0, len(indices), _CHUNK):
        flat, _ = store.flat(indices[start : start + _CHUNK].tolist(), edges=False)
        if flat.energy is not None:
            statistics.add_energies(flat.energy, flat.atomic_numbers, flat.natoms)
        if flat.forces is not None:
            statistics.add_forces(flat.forces, flat.fixed)
    return {"frames": len(indices), "store": store.path.name, **statistics.result()}
