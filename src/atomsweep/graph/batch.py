"""Radius graphs of all structures of a batch, for positions that change from call to call."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.graph.neighbors import RadiusGraph


def attach_edges(batch: Batch, graph: RadiusGraph, threads: int = 1) -> dict[int, str]:
    """Give a batch `edge_index`, `cell_offsets` and `num_edges_per_structure` for its positions.

    vesin finds the pairs of one structure after the other, on the CPU and in float64; it lets go of
    Python meanwhile, so threads find those of several structures at once.

    Args:
        batch: structures; edges that it has are replaced.
        graph: what an edge is.
        threads: of the CPU.

    Returns:
        What is wrong with a structure, by its place in the batch; such a structure has no edges.
    """
    pos = batch.pos.detach().cpu().numpy()
    cell, pbc = batch.cell.cpu().numpy(), batch.pbc.cpu().numpy()
    bounds = list(pairwise(batch.ptr.tolist()))

    def edges(number: int) -> tuple[NDArray[Any], NDArray[Any], str | None]:
        start, end = bounds[number]
        try:
            index, shift = graph(pos[start:end], cell[number], pbc[number])
        except ValueError as error:
            return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32), str(error)
        fault = None if index.shape[1] else f"it has no edges within {graph.cutoff} Å"
        return index + start, shift, fault

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(edges, range(len(bounds))))
    else:
        found = [edges(number) for number in range(len(bounds))]
    device = batch.pos.device
    index = np.concatenate([index for index, _, _ in found], axis=1)
    shifts = np.concatenate([shift for _, shift, _ in found])
    counts = [index.shape[1] for index, _, _ in found]
    batch.edge_index = torch.from_numpy(index).to(device)
    batch.cell_offsets = torch.from_numpy(shifts).to(device, torch.int16)
    batch.num_edges_per_structure = torch.tensor(counts, device=device)
    return {number: fault for number, (_, _, fault) in enumerate(found) if fault is not None}


def rebuild_edges(batch: Batch, graph: RadiusGraph, chosen: Tensor) -> None:
    """Give the structures `chosen` (B,) the graph of their present positions, in place.

    vesin finds the pairs, on the CPU: on a GPU this waits for the positions. A structure whose
    atoms came to coincide keeps its edges.
    """
    numbers = chosen.nonzero().flatten().tolist()
    if not numbers:
        return
    device, ptr = batch.pos.device, batch.ptr.tolist()
    pos, cell, pbc = (batch[name].detach().cpu().numpy() for name in ("pos", "cell", "pbc"))
    counts = torch.bincount(batch.batch[batch.edge_index[1]], minlength=len(batch.cell)).tolist()
    index = list(batch.edge_index.split(counts, dim=1))  # edges lie structure by structure
    offsets = list(batch.cell_offsets.split(counts))
    spans = list(pairwise(ptr))
    for number in numbers:
        start, end = spans[number]
        try:
            found, shift = graph(pos[start:end], cell[number], pbc[number])
        except ValueError:  # atoms on the same spot
            continue
        index[number] = (torch.from_numpy(found) + start).to(device)
        offsets[number] = torch.from_numpy(shift).to(device, batch.cell_offsets.dtype)
        counts[number] = found.shape[1]
    batch.edge_index, batch.cell_offsets = torch.cat(index, dim=1), torch.cat(offsets)
    if "num_edges_per_structure" in batch:
        batch.num_edges_per_structure = torch.tensor(counts, device=device)
