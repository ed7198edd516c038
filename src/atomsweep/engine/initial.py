"""First weights that depend on data: set from one batch before the first step."""

import numpy as np
import torch

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.tensors import to_device
from atomsweep.engine.seeds import Purpose, mix
from atomsweep.models.base import ForceField

STRUCTURES = 32  # of the batch; a spread over their edges is known to about a hundredth


def initialise(model: ForceField, train: GraphDataset, seed: int) -> None:
    """Let a model that asks for it set first weights from a batch that the seed draws.

    A function of seed, first weights and data alone: every rank and every start does the same, and
    a checkpoint that is loaded afterwards replaces all of it.

    Args:
        model: with the weights that it was built with.
        train: the training split.
        seed: of the run.
    """
    if not model.initialised_from_data or len(train) == 0:
        return
    draw = np.random.default_rng(mix(seed, Purpose.INITIALISE, step=1))
    chosen = np.sort(draw.permutation(len(train))[:STRUCTURES])
    device = next(model.parameters()).device
    with torch.no_grad():
        model.initialise(to_device(train.batch(chosen), device))
