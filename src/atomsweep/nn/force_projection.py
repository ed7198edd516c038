"""Forces for models whose atoms have no vectors: their projections on the edges."""

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys


class ForceProjection(nn.Module):
    """Inputs [f_s · n_st, f_t · n_st, σ] of an edge: DeNS for models that are not equivariant.

    arXiv:2403.09549 remarks that invariant networks could encode forces so; it trains none, and
    this form of it is ours. Without forces in the batch all are 0; σ is 0 unless it is encoded.
    """

    out_dim = 3

    def forward(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Shape: (E, 3) Å -> (E, 3)."""
        if keys.DENS_FORCES not in batch:
            return torch.zeros_like(edge_vec)
        source, target = batch.edge_index
        unit = nn.functional.normalize(edge_vec, dim=-1)
        forces = batch[keys.DENS_FORCES]
        columns = [(forces[atom] * unit).sum(-1) for atom in (source, target)]
        if keys.DENS_SIGMA in batch:
            columns.append(batch[keys.DENS_SIGMA][target])
        else:
            columns.append(torch.zeros_like(columns[0]))
        return torch.stack(columns, dim=-1)
