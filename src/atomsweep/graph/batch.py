"""Radius graphs of all structures of a batch, for positions that change from call to call."""

from itertools import pairwise

import numpy as np
import torch
from torch_geometric.data import Batch

from atomsweep.graph.neighbors import RadiusGraph


def attach_edges(batch: Batch, graph: RadiusGraph) -> dict[int, str]:
    """Give a batch `edge_index`, `cell_offsets` and `num_edges_per_structure` for its positions.

    vesin finds the pairs of one structure after the other, on the CPU and in float64.

    Returns:
        What is wrong with a structure, by its place in the batch; such a structure has no edges.
    """
    pos = batch.pos.detach().cpu().numpy()
    cell, pbc = batch.cell.cpu().numpy(), batch.pbc.cpu().numpy()
    ptr = batch.ptr.tolist()
    pairs, offsets, counts = [], [], []
    faults = {}
    for number, (start, end) in enumerate(pairwise(ptr)):
        index, shift = np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32)
        try:
            index, shift = graph(pos[start:end], cell[number], pbc[number])
            if not index.shape[1]:
                faults[number] = f"it has no edges within {graph.cutoff} Å"
        except ValueError as error:
            faults[number] = str(error)
        pairs.append(index + start)
        offsets.append(shift)
        counts.append(index.shape[1])
    device = batch.pos.device
    batch.edge_index = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device)
    batch.cell_offsets = torch.from_numpy(np.concatenate(offsets)).to(device, torch.int16)
    batch.num_edges_per_structure = torch.tensor(counts, device=device)
    return faults
