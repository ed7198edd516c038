"""Batches by gather: flat arrays of a whole split, from which a batch is cut by index arithmetic.

No Python object or loop for each structure, so making a batch costs far less than a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.store.flat import FlatEdges, FlatStructures, cached_edges, read_all
from atomsweep.data.store.native import read_at_once, stored_num_edges
from atomsweep.data.structure import (
    Array,
    DataError,
    InMemoryDataset,
    OnError,
    Structure,
    StructureDataset,
    check_on_error,
    report_skipped,
)
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
        self._tensors: _FlatTensors | None = None
        if self.preloaded:
            self._preload()

    def _preload(self) -> None:
        flat, edges, kept, faults = self._graphs(np.arange(len(self.dataset)), cached=True)
        if faults:
            report_skipped(self.dataset.name, faults, len(self.dataset))
        self.skipped, self.indices = faults, kept
        self._tensors = _FlatTensors(flat, edges)

    def _graphs(
        self, places: Array, cached: bool
    ) -> tuple[FlatStructures, FlatEdges | None, Array, list[str]]:
        """Structures and edges, which places were kept, and what was wrong with the others."""
        flat, edges, kept, faults = self._flat(places)
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

    def _flat(self, places: Array) -> tuple[FlatStructures, FlatEdges | None, Array, list[str]]:
        """Structures, their edges if those are stored, which were kept, and what was wrong."""
        if (found := read_at_once(self.dataset, places, self.graph)) is not None:
            flat, edges = found
            if not self.unsupported.intersection(np.unique(flat.atomic_numbers).tolist()):
                return flat, edges, places, []
        structures, kept, faults = read_all(
            self.dataset, places.tolist(), self.on_error, self.unsupported
        )
        energy, forces = self.dataset.has_energy, self.dataset.has_forces
        return FlatStructures.collect(structures, energy, forces), None, kept, faults

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

    @property
    def energies(self) -> Array | None:
        """(len,) float64, eV, for statistics; None without labels or if not preloaded."""
        if self._tensors is None or self._tensors.energy is None:
            return None
        return self._tensors.energy.cpu().numpy()

    def to(self, device: torch.device | str) -> GraphDataset:
        """Keep the flat arrays, and make the batches, on a device. Returns itself."""
        self.device = torch.device(device)
        if self._tensors is not None:
            self._tensors = self._tensors.to(self.device)
        return self

    def batch(self, indices: Array | Tensor | Sequence[int]) -> Batch:
        """The batch of some structures, in the order given, with the fields of `keys.py`.

        Floats are float32 (energies are float64 until here), offsets int16, everything else int64
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
        tensors = _FlatTensors(flat, edges).to(self.device)
        batch = tensors.gather(torch.arange(len(flat.natoms)))
        if len(kept) < len(places):
            batch.kept = torch.from_numpy(np.flatnonzero(np.isin(places, kept)))
        return batch


_ON_HOST = ("natoms", "first_atom", "num_edges", "first_edge")


class _FlatTensors:
    """`FlatStructures` and `FlatEdges` as tensors, with first atom and edge of each structure."""

    def __init__(self, flat: FlatStructures, edges: FlatEdges | None) -> None:
        def tensor(array: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        def optional(array: Array | None) -> Tensor | None:
            return tensor(array) if array is not None else None

        self.natoms = tensor(flat.natoms)
        self.first_atom = torch.cumsum(self.natoms, 0) - self.natoms
        self.atomic_numbers, self.tags = tensor(flat.atomic_numbers), tensor(flat.tags)
        self.pos, self.fixed = tensor(flat.pos), tensor(flat.fixed)
        self.cell, self.pbc = tensor(flat.cell.astype(np.float32)), tensor(flat.pbc)
        self.sid, self.fid = tensor(flat.sid), tensor(flat.fid)
        self.energy, self.forces = optional(flat.energy), optional(flat.forces)
        self.num_edges = optional(edges.num_edges if edges is not None else None)
        if edges is not None:
            assert self.num_edges is not None
            self.first_edge = torch.cumsum(self.num_edges, 0) - self.num_edges
            self.degree, self.source = tensor(edges.degree), tensor(edges.source)
            self.offsets = tensor(edges.offsets)

    def to(self, device: torch.device) -> _FlatTensors:
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name not in _ON_HOST:
                setattr(self, name, value.to(device))
        return self

    def gather(self, chosen: Tensor) -> Batch:
        """Batch of the structures `chosen` (B,), a host tensor; sizes stay there: nothing waits."""
        device = self.pos.device
        natoms = self.natoms[chosen]
        ptr = _pointer(natoms)
        total = int(ptr[-1])
        there, counts, starts = chosen.to(device), natoms.to(device), ptr.to(device)
        atoms = _places(self.first_atom[chosen].to(device), counts, starts, total)
        values: dict[str, Tensor] = {
            "pos": self.pos[atoms],
            "atomic_numbers": self.atomic_numbers[atoms].long(),
            "tags": self.tags[atoms].long(),
            "fixed": self.fixed[atoms],
            "cell": self.cell[there],
            "pbc": self.pbc[there],
            "natoms": counts,
            "sid": self.sid[there],
            "fid": self.fid[there],
        }
        if self.forces is not None:
            values["forces"] = self.forces[atoms]
        if self.energy is not None:
            values["energy"] = self.energy[there].float()
        edge_ptr = None
        if self.num_edges is not None:
            num_edges = self.num_edges[chosen]
            edge_ptr = _pointer(num_edges)
            total_edges = int(edge_ptr[-1])
            edge_counts = num_edges.to(device)
            edges = _places(
                self.first_edge[chosen].to(device), edge_counts, edge_ptr.to(device), total_edges
            )
            start = torch.repeat_interleave(starts[:-1], edge_counts, output_size=total_edges)
            target = torch.repeat_interleave(self.degree[atoms], output_size=total_edges)
            values["edge_index"] = torch.stack([self.source[edges] + start, target])
            values["cell_offsets"] = self.offsets[edges]
            values["num_edges_per_structure"] = edge_counts
        structure = torch.repeat_interleave(counts, output_size=total)  # (N,)
        return _as_batch(values, structure, starts, ptr, edge_ptr)


def _pointer(counts: Tensor) -> Tensor:
    """(B + 1,) exclusive sums of counts (B,), total last."""
    return torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])


def _places(first: Tensor, counts: Tensor, ptr: Tensor, total: int) -> Tensor:
    """(total,) positions in the flat array of the rows of each chosen structure, in order."""
    shift = torch.repeat_interleave(first - ptr[:-1], counts, output_size=total)
    return shift + torch.arange(total, device=first.device)


_PER_ATOM = ("pos", "atomic_numbers", "tags", "fixed", "forces")
_PER_EDGE = ("edge_index", "cell_offsets")


def _as_batch(
    values: dict[str, Tensor],
    structure: Tensor,
    ptr: Tensor,
    atom_slices: Tensor,
    edge_slices: Tensor | None,
) -> Batch:
    """A PyG batch that also knows how to separate itself again (`to_data_list`)."""
    num = len(ptr) - 1
    every = torch.arange(num + 1)
    zeros = torch.zeros(num, dtype=torch.int64)
    batch = Batch(_base_cls=Data, batch=structure, ptr=ptr, **values)
    batch._num_graphs = num
    batch._slice_dict = {
        key: atom_slices if key in _PER_ATOM else edge_slices if key in _PER_EDGE else every
        for key in values
    }
    batch._inc_dict = {key: atom_slices[:-1] if key == "edge_index" else zeros for key in values}
    return batch


class EpochSampler:
    """The order of training as a pure function of (seed, step), so that a run can resume anywhere.

    Every epoch is a new permutation, cut into batches of `batch_size`; what is left over at its end
    is dropped (other structures in every epoch), so all batches are equal. A set smaller than
    `batch_size` makes one batch of all.

    Args:
        num: number of structures.
        batch_size: structures in a batch.
        seed: of the permutations.
    """

    def __init__(self, num: int, batch_size: int, seed: int) -> None:
        if num < 1 or batch_size < 1:
            raise ValueError(f"num and batch_size must be at least 1, got {num} and {batch_size}")
        self.num = num
        self.batch_size = min(batch_size, num)
        self.seed = seed
        self.steps_per_epoch = num // self.batch_size
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def indices(self, step: int) -> Array:
        """Structures of the batch of a step, counted from 0 over all epochs.

        Shape: (batch_size,).
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num)
            self._epoch = epoch
        return self._order[within * self.batch_size : (within + 1) * self.batch_size]


def eval_batches(dataset: GraphDataset, batch_size: int) -> Iterator[Batch]:
    """All structures in order, the last batch as small as it comes."""
    for start in range(0, len(dataset), batch_size):
        yield dataset.batch(np.arange(start, min(start + batch_size, len(dataset))))


def atoms_to_batch(atoms: Iterable[Atoms], graph: RadiusGraph | None) -> Batch:
    """A batch from ASE atoms, sid from 0; labels only where every one already carries them."""
    items = [structure_from_atoms(one, sid=number) for number, one in enumerate(atoms)]
    return GraphDataset(InMemoryDataset(items, "atoms"), graph).batch(np.arange(len(items)))


def structures_to_batch(structures: Sequence[Structure], graph: RadiusGraph | None) -> Batch:
    """A batch by PyG's own collation, a `Data` for each structure: slow, the oracle of `batch`."""
    has_energy = all(s.energy is not None for s in structures)
    has_forces = all(s.forces is not None for s in structures)

    def row(value: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.array(value), dtype=dtype)[None]

    items = []
    for s in structures:
        data = Data(
            pos=torch.as_tensor(s.pos.astype(np.float32)),
            atomic_numbers=torch.as_tensor(s.atomic_numbers.astype(np.int64)),
            tags=torch.as_tensor(s.tags.astype(np.int64)),
            fixed=torch.as_tensor(np.array(s.fixed, dtype=bool)),
            cell=row(s.cell, torch.float32),
            pbc=row(s.pbc, torch.bool),
            natoms=row(s.natoms, torch.int64),
            sid=row(s.sid, torch.int64),
            fid=row(s.fid, torch.int64),
        )
        if has_forces:
            assert s.forces is not None
            data.forces = torch.as_tensor(s.forces.astype(np.float32))
        if has_energy:
            data.energy = row(s.energy, torch.float32)
        if graph is not None:
            index, offsets = graph(s.pos.astype(np.float32), s.cell, s.pbc)
            data.edge_index = torch.as_tensor(index)
            data.cell_offsets = torch.as_tensor(offsets.astype(np.int16))
            data.num_edges_per_structure = row(index.shape[1], torch.int64)
        items.append(data)
    return Batch.from_data_list(items)
