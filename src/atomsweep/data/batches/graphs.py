"""Batches by gather: flat arrays of a whole split, from which a batch is cut by index arithmetic.

No Python object or loop for each structure, so making a batch costs far less than a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.batches.arrays import (
    BYTES_PER_ATOM,
    BYTES_PER_EDGE,
    BYTES_PER_STRUCTURE,
    Wanted,
    in_memory,
    mapped,
)
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
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph

if TYPE_CHECKING:
    from ase import Atoms

BUDGET = 4 << 30  # bytes
_RUNS, _RUN = 16, 4096  # structures whose sizes tell those of all

log = logging.getLogger(__name__)


class GraphDataset:
    """A split as graphs: reads it, keeps each structure's edges, and cuts batches out by gather.

    Sets that fit `budget` become arrays once, in files beside the data that all processes map.
    Larger sets are read for each batch, and their edges found where the store has none.

    Args:
        dataset: the structures.
        graph: builds the edges; None makes batches without edges.
        on_error: "skip" drops, counts and logs structures that are unusable or have no edges.
        budget: bytes that the arrays may take.
        unsupported: atomic numbers that the model has no data for; such a structure is unusable.
        kinds: of frames, by the first frame id of each, as `DataSource` has them.

    Attributes:
        in_memory: whether there are such arrays.
        skipped: messages about dropped structures.

    Raises:
        DataError: a structure is unusable, or has no edges though a graph is asked for; names it.
    """

    def __init__(
        self,
        dataset: StructureDataset,
        graph: RadiusGraph | None,
        on_error: OnError = "raise",
        budget: float = BUDGET,
        unsupported: frozenset[int] = frozenset(),
        kinds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.dataset, self.graph = dataset, graph
        self.kinds = kinds
        self._wanted = Wanted(dataset, graph, check_on_error(on_error), unsupported)
        self.skipped: list[str] = []
        self._kept: Array | None = None
        self.device = torch.device("cpu")
        self._tensors: FlatTensors | None = None
        self._num_edges: Array | None = None
        size = _size(dataset, graph)
        self.in_memory = size <= budget
        if self.in_memory:
            self._read_all()
        elif graph is not None and stored_num_edges(dataset, graph) is None:
            _tell_of_finding(dataset.name, graph, size, budget)

    def _read_all(self) -> None:
        arrays = mapped(self._wanted)
        if arrays is None:
            arrays = in_memory(self._wanted, np.arange(len(self.dataset)))
        if arrays.faults:
            report_skipped(self.dataset.name, arrays.faults, len(self.dataset))
            self.skipped, self._kept = arrays.faults, arrays.kept
        self._tensors = FlatTensors(arrays.values)
        self._num_edges = arrays.values.get("num_edges")  # a number, wherever tensors have none

    @property
    def indices(self) -> Array:
        """(len,) places in `dataset` of the structures that are kept."""
        return np.arange(len(self.dataset)) if self._kept is None else self._kept

    def __len__(self) -> int:
        return len(self.dataset) if self._kept is None else len(self._kept)

    @property
    def natoms(self) -> Array:
        """(len,) int64 number of atoms."""
        return self.dataset.natoms if self._kept is None else self.dataset.natoms[self._kept]

    @property
    def num_edges(self) -> Array | None:
        """(len,) int64 number of edges; None where they are neither in memory nor stored."""
        if self._tensors is None:
            return stored_num_edges(self.dataset, self.graph)
        return self._num_edges

    def elements(self) -> frozenset[int] | None:
        """Atomic numbers of all structures; None where they are not in memory."""
        if self._tensors is None:
            return None
        return frozenset(torch.unique(self._tensors.atomic_numbers).tolist())

    def label_statistics(self) -> dict[str, Any]:
        """`LabelStatistics.result` of its structures, of which no graph is made."""
        dataset = self.dataset
        if self._kept is not None:
            dataset = Subset(dataset, self._kept)
        return label_statistics(dataset, self._wanted.on_error, self._wanted.unsupported)

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
            DataError: a structure of a set that is not in memory is unusable; names it.

        Shape: (B,).
        """
        chosen = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        if chosen.ndim != 1 or not len(chosen):
            raise ValueError(f"indices must be a non-empty vector, got shape {tuple(chosen.shape)}")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            raise IndexError(f"indices must be in [0, {len(self)}), got {chosen.tolist()}")
        if self._tensors is not None:
            return self._tensors.gather(chosen)
        return self._read(chosen.numpy())

    def _read(self, places: Array) -> Batch:
        found = in_memory(self._wanted, places)
        if found.faults:
            self.skipped += found.faults
            report_skipped(self.dataset.name, found.faults, len(places))
        if not len(found.kept):
            raise DataError(f"no structure of this batch is usable; first: {found.faults[0]}")
        batch = FlatTensors(found.values).to(self.device).gather(torch.arange(len(found.kept)))
        if len(found.kept) < len(places):
            batch.kept = torch.from_numpy(np.flatnonzero(np.isin(places, found.kept)))
        return batch


def _size(dataset: StructureDataset, graph: RadiusGraph | None) -> float:
    """Bytes that the arrays of a split take, about; of a large one some sizes stand for all."""
    atoms = _mean(dataset.natoms) * len(dataset)
    degree = 0 if graph is None else (graph.max_neighbors or 100)
    return BYTES_PER_STRUCTURE * len(dataset) + atoms * (BYTES_PER_ATOM + BYTES_PER_EDGE * degree)


def _mean(sizes: Array) -> float:
    """Mean, of many by runs of neighbours: a page of a mapped array is read if one of it is.

    Shape: (S,).
    """
    if len(sizes) > _RUNS * _RUN:
        starts = np.linspace(0, len(sizes) - _RUN, _RUNS).astype(int).tolist()
        sizes = np.concatenate([sizes[start : start + _RUN] for start in starts])
    return float(sizes.sum()) / max(1, len(sizes))


def _tell_of_finding(name: str, graph: RadiusGraph, size: float, budget: float) -> None:
    log.warning(
        "%s: arrays with its neighbours would take %.3g GiB, more than engine.cache_gib=%.3g, so "
        "they are found anew for each batch, which is several times slower; store them by "
        "`atomsweep data convert <files> <store> --neighbors %g --max-neighbors %d` and train on "
        "data=store, or raise engine.cache_gib",
        name,
        size / (1 << 30),
        budget / (1 << 30),
        graph.cutoff,
        graph.max_neighbors or 0,
    )


def eval_batches(dataset: GraphDataset, batch_size: int) -> Iterator[Batch]:
    """All structures in order, the last batch as small as it comes."""
    for start in range(0, len(dataset), batch_size):
        yield dataset.batch(np.arange(start, min(start + batch_size, len(dataset))))


def atoms_to_batch(atoms: Iterable[Atoms], graph: RadiusGraph | None) -> Batch:
    """A batch from ASE atoms, sid from 0; labels only where every one already carries them."""
    items = [structure_from_atoms(one, sid=number) for number, one in enumerate(atoms)]
    return GraphDataset(InMemoryDataset(items, "atoms"), graph).batch(np.arange(len(items)))
