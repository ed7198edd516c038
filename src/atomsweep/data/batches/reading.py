"""Structures of a data set read one by one, good ones apart from bad ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from atomsweep.data.dataset import OnError, StructureDataset
from atomsweep.data.store.dataset import read_at_once
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.structure import Array, DataError, Structure
from atomsweep.graph.neighbors import RadiusGraph


def read_flat(
    dataset: StructureDataset,
    places: Array,
    graph: RadiusGraph | None,
    on_error: OnError,
    unsupported: frozenset[int] = frozenset(),
) -> tuple[FlatStructures, FlatEdges | None, Array, list[str]]:
    """Structures as flat arrays, `graph`'s edges if those are stored, places kept, and faults.

    Raises:
        DataError: as `read_all`.
    """
    if (found := read_at_once(dataset, places, graph)) is not None:
        flat, edges = found
        if not unsupported.intersection(np.unique(flat.atomic_numbers).tolist()):
            return flat, edges, places, []
    structures, kept, faults = read_all(dataset, places.tolist(), on_error, unsupported)
    flat = FlatStructures.collect(structures, dataset.has_energy, dataset.has_forces)
    return flat, None, kept, faults


def read_all(
    dataset: StructureDataset,
    indices: Iterable[int],
    on_error: OnError,
    unsupported: frozenset[int] = frozenset(),
) -> tuple[list[Structure], Array, list[str]]:
    """Read structures; those kept, their indices, and what was wrong with the rest.

    A structure with an element of `unsupported` is unusable.

    Raises:
        DataError: a structure is unusable and `on_error` is "raise".
    """
    structures, kept, faults = [], [], []
    for index in indices:
        try:
            structure = dataset[index]
            if found := unsupported.intersection(structure.atomic_numbers.tolist()):
                raise DataError(
                    f"{dataset.where(index)} (sid {structure.sid}, fid {structure.fid}) holds "
                    f"{_symbols(found)}, for which the model has no input data; leave it out or "
                    "set data.on_error=skip"
                )
            structures.append(structure)
        except DataError as error:
            if on_error == "raise":
                raise
            faults.append(str(error))
        else:
            kept.append(index)
    return structures, np.array(kept, dtype=np.int64), faults


def _symbols(atomic_numbers: Iterable[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[number] for number in sorted(atomic_numbers))
