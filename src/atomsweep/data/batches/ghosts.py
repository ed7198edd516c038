"""Batches filled up to a fixed shape with structures that are none, and the way back.

A ghost is an atom of the batch's first element in a cell so wide that its only neighbours, its own
images, lie beyond the cutoff. No edge joins it to a real atom, so what a model predicts for real
atoms stays the same, and `without_ghosts` gives a task the real rows alone.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys

PER_STRUCTURE = (
    keys.CELL,
    keys.PBC,
    keys.NATOMS,
    keys.ENERGY,
    keys.NUM_EDGES,
    keys.SID,
    keys.FID,
    keys.PLACES,
    keys.DENS_STRUCTURES,
)
PER_ATOM = (
    keys.POS,
    keys.ATOMIC_NUMBERS,
    keys.BATCH,
    keys.TAGS,
    keys.FIXED,
    keys.FORCES,
    keys.DENS_MASK,
    keys.DENS_FORCES,
    keys.DENS_SIGMA,
    keys.DENS_MOVED,
    keys.DENS_NOISE,
)
LISTS = (keys.DENS_MOVED_EDGES, keys.DENS_LEFT_EDGES, keys.PAIR_EDGES, keys.PAIR)
"""Of any length, so not in a fixed shape."""
BEYOND = 1.5  # cutoffs from a ghost to its image
DIRECTION = (0.48, 0.6, 0.64)  # of that image; along no axis, where frames are special


class Shape(NamedTuple):
    """Numbers of structures, atoms and edges."""

    structures: int
    atoms: int
    edges: int


def shape_of(batch: Batch) -> Shape:
    """What a batch holds."""
    return Shape(len(batch.cell), len(batch.pos), batch.edge_index.shape[1])


def with_ghosts(batch: Batch, shape: Shape, cutoff: float) -> Batch:
    """The batch with ghosts behind its structures, `shape` in all.

    Lists of edges (`LISTS`) are left out, and all edges are computed.

    Args:
        batch: on the CPU.
        shape: at least one structure more than the batch, and an atom for each of these.
        cutoff: of the graph, Å.

    Raises:
        ValueError: the batch does not fit, or has a field of unknown rows.
    """
    real = shape_of(batch)
    ghosts = Shape(*(wanted - there for wanted, there in zip(shape, real, strict=True)))
    if ghosts.structures < 1 or ghosts.atoms < ghosts.structures or ghosts.edges < 0:
        raise ValueError(f"a batch of {real} cannot be filled up to {shape}")
    natoms = torch.ones(ghosts.structures, dtype=torch.int64)
    natoms[0] += ghosts.atoms - ghosts.structures
    edges = torch.arange(ghosts.edges) * ghosts.atoms // max(1, ghosts.edges)  # sorted, spread
    filled = copy(batch)
    structure = torch.arange(ghosts.structures).repeat_interleave(natoms) + real.structures
    own = {
        keys.BATCH: structure,
        keys.ATOMIC_NUMBERS: batch.atomic_numbers[:1].expand(ghosts.atoms),
        keys.FIXED: torch.ones(ghosts.atoms, dtype=torch.bool),
        keys.NATOMS: natoms,
        keys.CELL: _cell(cutoff).to(batch.cell.dtype).expand(ghosts.structures, 3, 3),
    }
    if keys.NUM_EDGES in batch:
        own[keys.NUM_EDGES] = torch.bincount(structure[edges], minlength=shape.structures)[
            real.structures :
        ]
    for name, value in batch.to_dict().items():
        if name in own:
            filled[name] = torch.cat([value, own[name]])
        elif name in PER_STRUCTURE or name in PER_ATOM:
            count = ghosts.structures if name in PER_STRUCTURE else ghosts.atoms
            filled[name] = torch.cat([value, value.new_zeros(count, *value.shape[1:])])
        elif name in LISTS:
            del filled[name]
        elif name not in (keys.EDGE_INDEX, keys.CELL_OFFSETS, keys.PTR):
            raise ValueError(f"a batch with the field {name} cannot be filled up with ghosts")
    filled[keys.PTR] = torch.cat([batch.ptr, batch.ptr[-1] + natoms.cumsum(0)])
    loops = (edges + real.atoms).expand(2, -1)
    filled[keys.EDGE_INDEX] = torch.cat([batch.edge_index, loops], dim=1)
    step = batch.cell_offsets.new_tensor([1, 0, 0]).expand(ghosts.edges, 3)
    filled[keys.CELL_OFFSETS] = torch.cat([batch.cell_offsets, step])
    filled[keys.REAL] = torch.tensor(real)
    return filled


def _cell(cutoff: float) -> Tensor:
    """(3, 3) Å, the first row the only one that an edge goes along."""
    first = BEYOND * cutoff * torch.tensor(DIRECTION)
    return torch.stack([first, first.roll(1), first.roll(2)])


def without_ghosts(filled: Batch, real: Shape) -> Batch:
    """Views of the first rows; the whole is its field `keys.FILLED`. Nothing waits for a GPU."""
    batch = copy(filled)
    for name, value in filled.to_dict().items():
        if name in PER_STRUCTURE:
            batch[name] = value[: real.structures]
        elif name in PER_ATOM:
            batch[name] = value[: real.atoms]
        elif name == keys.PTR:
            batch[name] = value[: real.structures + 1]
        elif name == keys.EDGE_INDEX:
            batch[name] = value[:, : real.edges]
        elif name == keys.CELL_OFFSETS:
            batch[name] = value[: real.edges]
    batch[keys.FILLED] = filled
    return batch


def row_weights(filled: Batch) -> dict[int, Tensor]:
    """For each number of rows of a filled batch, 1 for each real row and 0 for each ghost's.

    Shape: -> (rows, 1) each.
    """
    shape = shape_of(filled)
    if len(set(shape)) < len(shape):
        raise ValueError(f"structures, atoms and edges of {shape} cannot be told apart")
    return {
        rows: (torch.arange(rows, device=filled.pos.device) < real)[:, None].to(filled.pos.dtype)
        for rows, real in zip(shape, filled[keys.REAL], strict=True)
    }
