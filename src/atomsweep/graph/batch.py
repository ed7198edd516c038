"""Radius graphs of some structures of a batch, whose positions have changed."""

from itertools import pairwise

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.graph.neighbors import RadiusGraph


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
