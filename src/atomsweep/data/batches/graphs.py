"""Batches by gather: flat arrays of a whole split, from which a batch is cut by index arithmetic.

No Python object or loop for each structure, so making a batch costs far less than a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.batches.edge_cache import cached_edges
from atomsweep.data.batches.reading import read_flat
from atomsweep.data.batches.statistics import label_statistics
from atomsweep.data.batches.tensors import FlatTensors
from atomsweep.data.dataset import (
    InMemoryDataset,
    OnError,
    StructureDataset,
    Subset,
    check_on_error,
    report_skipped,
)
from atomsweep.data.store.dataset import stored_num_edges
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph

if TYPE_CHECKING:
    from ase import Atoms

_BYTES_PER_ATOM = 40  # flat arrays without edges
_BYTES_PER_EDGE = 10


class GraphDataset:
    """A split as graphs: reads it, keeps each structure's edges, and cuts batches out by gather.

    Sets that fit `memory_budget` are read once into flat arrays, and their neighbour lists are
    cached beside the data, so that processes that start together build them once. Larger sets are
    read, and their edges found, for each batch.

    Args:
        dataset: the structures.
        graph: builds the edges; None makes batches without edges.
        on_error: "skip" drops, counts and logs structures that are unusable or have no edges.
        memory_budget: bytes that the flat arrays may take.
        unsupported: atomic numbers that the model has no data for; such a structure is unusable.

    Attributes:
        skipped: messages about dropped structures.
        indices: (len,) places in `dataset` of the structures that are kept.

    Raises:
        DataError: a structure is unusable, or has no edges though a graph is asked for; names it.
    """

    def __init__(
        self,
        dataset: StructureDataset,
        graph: RadiusGraph | None,
        on_error: OnError = "raise",
        memory_budget: int = 4 << 30,
        unsupported: frozenset[int] = frozenset(),
    ) -> None:
        self.dataset = dataset
        self.unsupported = unsupported
        self.graph = graph
        self.on_error = check_on_error(on_error)
        self.skipped: list[str] = []
        self.indices = np.arange(len(dataset))
        self.device = torch.device("cpu")
        degree = 0 if graph is None else (graph.max_neighbors or 100)
        atoms = int(dataset.natoms.sum())
        self.preloaded = atoms * (_BYTES_PER_ATOM + _BYTES_PER_EDGE * degree) <= memory_budget
        self._tensors: FlatTensors | None = None
        if self.preloaded:
            self._preload()

    def _preload(self) -> None:
        flat, edges, kept, faults = self._graphs(np.arange(len(self.dataset)), cached=True)
        if faults:
            report_skipped(self.dataset.name, faults, len(self.dataset))
        self.skipped, self.indices = faults, kept
        self._tensors = FlatTensors(flat, edges)

    def _graphs(
        self, places: Array, cached: bool
    ) -> tuple[FlatStructures, FlatEdges | None, Array, list[str]]:
        """Structures and edges, which places were kept, and what was wrong with the others."""
        flat, edges, kept, faults = read_flat(
            self.dataset, places, self.graph, self.on_error, self.unsupported
        )
        if self.graph is None:
            return flat, None, kept, faults

        def names() -> list[str]:
            return [self._called(i, flat, s) for s, i in enumerate(kept.tolist())]

        if edges is None and cached:
            edges = cached_edges(self.dataset, flat, self.graph, names())
        elif edges is None:
            edges = FlatEdges.build(flat, self.graph, names())
        lonely = edges.num_edges == 0
        if lonely.any():
            called = names()
            faults += self._without_edges([called[s] for s in np.flatnonzero(lonely)])
            edges, flat = edges.keep(~lonely, flat.natoms), flat.keep(~lonely)
            kept = kept[~lonely]
        return flat, edges, kept, faults

    def _called(self, index: int, flat: FlatStructures, place: int) -> str:
        return f"{self.dataset.where(index)} (sid {flat.sid[place]}, fid {flat.fid[place]})"

    def _without_edges(self, names: list[str]) -> list[str]:
        assert self.graph is not None
        faults = [f"{name} has no edges within {self.graph.cutoff} Å" for name in names]
        if self.on_error == "raise":
            raise DataError(f"{faults[0]}; enlarge the cutoff or set data.on_error=skip")
        return faults

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def natoms(self) -> Array:
        """(len,) int64 number of atoms."""
        return self.dataset.natoms[self.indices]

    @property
    def num_edges(self) -> Array | None:
        """(len,) int64 number of edges; None where they are neither in memory nor stored."""
        if self._tensors is None:
            return stored_num_edges(self.dataset, self.graph)
        return self._tensors.num_edges.numpy() if self._tensors.num_edges is not None else None

    def label_statistics(self) -> dict[str, Any]:
        """`LabelStatistics.result` of its structures, of which no graph is made."""
        dataset = self.dataset
        if len(self.indices) < len(dataset):
            dataset = Subset(dataset, self.indices)
        return label_statistics(dataset, self.on_error, self.unsupported)

    def to(self, device: torch.device | str) -> GraphDataset:
        """Keep the flat arrays, and make the batches, on a device. Returns itself."""
        self.device = torch.device(device)
        if self._tensors is not None:
            self._tensors = self._tensors.to(self.device)
        return self

    def batch(self, indices: Array | Tensor | Sequence[int]) -> Batch:
        """The batch of some structures, in the order given, with the fields of `keys.py`.

        Floats are float32, energies float64, offsets int16, everything else int64
        or bool. Energy and forces are there when the data set has them. Where a structure had to be
        skipped, `kept` has the places in `indices` of the others.

        Args:
            indices: places in this data set (not in the underlying one).

        Raises:
            IndexError: outside the data set.
            DataError: a structure of a set that is not preloaded is unusable; names it.

        Shape: (B,).
        """
        chosen = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        if chosen.ndim != 1 or not len(chosen):
            raise ValueError(f"indices must be a non-empty vector, got shape {tuple(chosen.shape)}")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            raise IndexError(f"indices must be in [0, {len(self)}), got {chosen.tolist()}")
        if self._tensors is not None:
            return self._tensors.gather(chosen)
        return self._read(self.indices[chosen.numpy()])

    def _read(self, places: Array) -> Batch:
        flat, edges, kept, faults = self._graphs(places, cached=False)
        if faults:
            self.skipped += faults
            report_skipped(self.dataset.name, faults, len(places))
        if not len(flat.natoms):
            raise DataError(f"no structure of this batch is usable; first: {faults[0]}")
        tensors = FlatTensors(flat, edges).to(self.device)
        batch = tensors.gather(torch.arange(len(flat.natoms)))
        if len(kept) < len(places):
            batch.kept = torch.from_numpy(np.flatnonzero(np.isin(places, kept)))
        return batch


def eval_batches(dataset: GraphDataset, batch_size: int) -> Iterator[Batch]:
    """All structures in order, the last batch as small as it comes."""
    for start in range(0, len(dataset), batch_size):
        yield dataset.batch(np.arange(start, min(start + batch_size, len(dataset))))


def atoms_to_batch(atoms: Iterable[Atoms], graph: RadiusGraph | None) -> Batch:
    """A batch from ASE atoms, sid from 0; labels only where every one already carries them."""
    items = [structure_from_atoms(one, sid=number) for number, one in enumerate(atoms)]
    return GraphDataset(InMemoryDataset(items, "atoms"), graph).batch(np.arange(len(items)))
