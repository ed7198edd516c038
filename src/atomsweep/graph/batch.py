"""Radius graphs of all structures of a batch, for positions that change from call to call."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
