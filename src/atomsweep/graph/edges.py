"""Edge vectors of a batch."""

import torch
from torch import Tensor
from torch_geometric.data import Batch


def edge_vectors(batch: Batch) -> Tensor:
    """Vectors from centre to neighbour, `pos[source] - pos[target] + cell_offsets @ cell`, in Å.

    Differentiable in `batch.pos` and `batch.cell`.

    Shape: (E, 3).
    """
    source, target = batch.edge_index
    shift = torch.einsum(
        "ei,eij->ej", batch.cell_offsets.to(batch.cell.dtype), batch.cell[batch.batch[target]]
    )  # (E, 3)
    return batch.pos[source] - batch.pos[target] + shift
