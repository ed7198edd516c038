"""How much predicted forces depend on the orientation of a structure."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.augment import RotateSO3, RotateZ
from atomsweep.models.base import Prediction
from atomsweep.sweep.evaluation_settings import Rotation
from atomsweep.worker.evaluate.sample import batch_of, sample
from atomsweep.worker.trained import TrainedModel


def rotation(model: TrainedModel, settings: Rotation, progress: Callable[[int, int], None]) -> dict:
    """Instability of forces under rotations: ForceNet, arXiv:2103.01436, Sec. 4.2 and Table 2.

    Every structure is turned, its forces are predicted and turned back; each free atom has a
    standard deviation over rotations, 0 for a model that is equivariant. The paper does not say how
    the three components count: `forces_std` is their mean (as in its force MAE; inferred),
    `forces_std_norm` the root of the summed variances. Both are means over all free atoms.

    Args:
        model: that is evaluated.
        settings: what is evaluated.
        progress: told of forwards done and in all.

    Returns:
        Metrics by name.
    """
    model.require_forces()
    data = sample(model, settings.split, settings.structures, settings.seed)
    turns = RotateZ() if settings.about == "z" else RotateSO3()
    generator = torch.Generator().manual_seed(settings.seed)
    matrices = turns.draw(len(data) * settings.rotations, generator)
    matrices = matrices.view(len(data), settings.rotations, 3, 3).to(model.device)
    by_component, by_norm, atoms = 0.0, 0.0, 0
    starts = range(0, len(data), settings.batch_size)
    for number, start in enumerate(starts):
        places = np.arange(start, min(start + settings.batch_size, len(data)))
        batch = batch_of(model, data, places)
        variance = force_variance(model.predict, batch, matrices[start : start + len(places)])
        free = variance[~batch.fixed]
        by_component += float(free.sqrt().mean(1).sum())
        by_norm += float(free.sum(1).sqrt().sum())
        atoms += len(free)
        progress(number + 1, len(starts))
    return {
        "forces_std": by_component / atoms if atoms else float("nan"),
        "forces_std_norm": by_norm / atoms if atoms else float("nan"),
        "structures": len(data),
        "free_atoms": atoms,
    }


def force_variance(
    predict: Callable[[Batch], Prediction], batch: Batch, matrices: Tensor
) -> Tensor:
    """Variance over rotations of each component of the forces, in the frame of the structure.

    Two passes' worth in one: deviations are taken from the first prediction, so that a small
    variance is not lost beside a large force.

    Args:
        predict: the model.
        batch: with its graph and what the model prepares, which a rotation does not change.
        matrices: rotations.

    Shape: (B, R, 3, 3) -> (N, 3) float64.
    """
    pos, cell = batch.pos, batch.cell
    total = torch.zeros(len(pos), 3, dtype=torch.float64, device=pos.device)
    squares, reference = total.clone(), None
    for turn in matrices.unbind(1):  # (B, 3, 3)
        by_atom = turn[batch.batch]
        batch.pos = torch.einsum("nij,nj->ni", by_atom, pos.double()).to(pos.dtype)
        batch.cell = torch.einsum("bij,bkj->bki", turn, cell.double()).to(cell.dtype)
        forces = predict(batch).forces
        if forces is None:
            raise ValueError("rotation needs a model that predicts forces; this one predicts none")
        back = torch.einsum("nji,nj->ni", by_atom, forces.detach().double())
        reference = back if reference is None else reference
        total += back - reference
        squares += (back - reference) ** 2
    batch.pos, batch.cell = pos, cell
    count = matrices.shape[1]
    return (squares / count - (total / count) ** 2).clamp(min=0.0)
