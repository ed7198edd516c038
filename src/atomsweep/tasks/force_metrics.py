"""OC20's metrics of forces, shared by the tasks that predict them."""

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.tasks.base import Mean
from atomsweep.tracking import schema

FORCE_METRICS = (
    schema.FORCES_MAE,
    schema.FORCES_X_MAE,
    schema.FORCES_Y_MAE,
    schema.FORCES_Z_MAE,
    schema.FORCES_COS,
    schema.FORCES_MAGNITUDE,
)


def force_metrics(forces: Tensor, batch: Batch, among: Tensor | None = None) -> dict[str, Mean]:
    """MAE, its components, cosine and error of the norm over free atoms, atom-weighted.

    The norm metric is the mean absolute error of the norm. The cosine of a zero vector is 0.

    Args:
        forces: predicted, eV/Å.
        batch: has `forces` and `fixed`.
        among: structures that count; None: all.

    Shape: (N, 3), (B,).
    """
    free = (~batch.fixed).to(torch.float64)  # (N,)
    if among is not None:
        free = free * among[batch.batch]
    forces, target = forces.double(), batch.forces.double()
    error = (forces - target).abs()  # (N, 3)
    atoms = free.sum()
    by_component = (free[:, None] * error).sum(0)  # (3,)
    cosine = torch.cosine_similarity(forces, target, dim=-1, eps=1e-8)
    norm_error = (forces.norm(dim=-1) - target.norm(dim=-1)).abs()
    return {
        schema.FORCES_MAE: Mean(by_component.sum(), 3 * atoms),
        schema.FORCES_X_MAE: Mean(by_component[0], atoms),
        schema.FORCES_Y_MAE: Mean(by_component[1], atoms),
        schema.FORCES_Z_MAE: Mean(by_component[2], atoms),
        schema.FORCES_COS: Mean((free * cosine).sum(), atoms),
        schema.FORCES_MAGNITUDE: Mean((free * norm_error).sum(), atoms),
    }
