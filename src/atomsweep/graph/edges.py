"""Vectors along the edges of a periodic graph."""

import torch
from torch import Tensor
from torch_geometric.data import Batch


def edge_vectors(batch: Batch) -> Tensor:
    """Vector from centre to neighbour: pos[source] - pos[target] + cell_offsets @ cell.

    Args:
        batch: structures with `edge_index` and `cell_offsets`.

    Shape: (E, 3), Å.
    """
    source, target = batch.edge_index
    cell = batch.cell[batch.batch[target]]  # (E, 3, 3)
    shift = torch.einsum("ei,eij->ej", batch.cell_offsets.to(cell.dtype), cell)
    return batch.pos[source] - batch.pos[target] + shift
