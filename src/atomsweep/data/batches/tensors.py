"""Batches by gather: flat tensors of many structures, from which a batch is cut."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from atomsweep.data.structure import Array

_ON_HOST = ("natoms", "first_atom", "num_edges", "first_edge")


class FlatTensors:
    """`FlatStructures` and `FlatEdges` as tensors, with first atom and edge of each structure.

    Args:
        arrays: fields of both by name, integers of any size, and `first_atom`, `first_edge`; their
            memory is used as it is, mapped from a file perhaps.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        def tensor(name: str) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(arrays[name]))

        def optional(name: str) -> Tensor | None:
            return tensor(name) if name in arrays else None

        self.natoms, self.first_atom = tensor("natoms"), tensor("first_atom")
        self.atomic_numbers, self.tags = tensor("atomic_numbers"), tensor("tags")
        self.pos, self.fixed = tensor("pos"), tensor("fixed")
        self.cell, self.pbc = tensor("cell"), tensor("pbc")
        self.sid, self.fid = tensor("sid"), tensor("fid")
        self.energy, self.forces = optional("energy"), optional("forces")
        self.num_edges = optional("num_edges")
        if self.num_edges is not None:
            self.first_edge, self.degree = tensor("first_edge"), tensor("degree")
            self.source, self.offsets = tensor("source"), tensor("offsets")

    def to(self, device: torch.device) -> FlatTensors:
        """Move all that a batch is cut from; the sizes stay on the host. Returns itself."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name not in _ON_HOST:
                setattr(self, name, _known_to(device, value).to(device))
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
            values["energy"] = self.energy[there]  # float64: totals differ far behind the point
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
            values["cell_offsets"] = self.offsets[edges].to(torch.int16)
            values["num_edges_per_structure"] = edge_counts
        structure = torch.repeat_interleave(counts, output_size=total)  # (N,)
        return _as_batch(values, structure, starts, ptr, edge_ptr)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, its energies in float32 where the device has no float64."""
    if device.type == "mps" and "energy" in batch:
        batch = copy(batch)
        batch.energy = _known_to(device, batch.energy)
    return batch.to(device, non_blocking=True)


def _known_to(device: torch.device, value: Tensor) -> Tensor:
    return value.float() if device.type == "mps" and value.dtype == torch.float64 else value


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
