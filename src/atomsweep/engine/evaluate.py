"""Metrics of a model on a split: sums over batches, divided once at the end."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch_geometric.data import Batch

from atomsweep.data.batches.tensors import to_device
from atomsweep.engine.distributed import ALONE, World
from atomsweep.models.base import Prediction
from atomsweep.tasks.base import Mean, Task


def evaluate(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    world: World = ALONE,
) -> dict[str, float]:
    """Metrics over all batches of all ranks, atom-weighted as the task defines them.

    The model's mode is restored. A model whose forces are a gradient takes it by itself. A rank may
    have no batch at all.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, Mean] = {}
    try:
        with torch.no_grad():
            for cpu_batch in batches:
                batch = to_device(cpu_batch, device)
                with precision():
                    output: Prediction = model(batch)
                if "surplus" in cpu_batch:  # was only for the ranks that share the model's weights
                    continue
                if device.type == "mps":  # which has no float64 to add up in
                    output = Prediction(*(x if x is None else x.cpu() for x in output))
                    batch = cpu_batch
                for name, mean in task.metrics(output, batch).items():
                    part = Mean(mean.total.detach(), mean.count.detach())
                    sums[name] = sums[name] + part if name in sums else part
    finally:
        model.train(was_training)
    return {name: mean.value() for name, mean in world.merge(sums).items()}


def average_over_splits(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Plain mean of each metric over splits, as in the papers' "Average" columns."""
    names = list(next(iter(metrics.values())))
    return {name: sum(split[name] for split in metrics.values()) / len(metrics) for name in names}
