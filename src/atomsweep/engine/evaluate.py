"""Metrics of a model on a split: sums over batches, divided once at the end."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import zip_longest
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import nn
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.data.batches.tensors import to_device
from atomsweep.engine.distributed import ALONE, World
from atomsweep.models.base import Prediction
from atomsweep.tasks.base import Mean, Task
from atomsweep.tasks.force_metrics import force_metrics
from atomsweep.transfers import read

Key = TypeVar("Key")


def evaluate(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    world: World = ALONE,
    kinds: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, dict[str, float]]:
    """Metrics over all batches of all ranks, atom-weighted as the task defines them.

    The model's mode is restored. A model whose forces are a gradient takes it by itself. A rank may
    have no batch at all.

    Args:
        model: to evaluate.
        task: its metrics.
        batches: of this rank.
        device: where they go.
        precision: context of a forward.
        world: the ranks.
        kinds: of frames, by the first frame id: force metrics of each are told too.

    Returns:
        "" → metrics of all, and kind → its force metrics, where it has a free atom.
    """
    was_training = model.training
    model.eval()
    sums: dict[tuple[str, str], Mean] = {}
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
                found = {("", name): m for name, m in task.metrics(output, batch).items()}
                for key, mean in (found | of_kinds(output, batch, kinds)).items():
                    part = Mean(mean.total.detach(), mean.count.detach())
                    sums[key] = sums[key] + part if key in sums else part
    finally:
        model.train(was_training)
    told: dict[str, dict[str, float]] = {}
    for (kind, name), mean in world.merge(on_host(sums)).items():
        if not kind or float(mean.count) > 0:
            told.setdefault(kind, {})[name] = mean.value()
    return told


def on_host(sums: Mapping[Key, Mean]) -> dict[Key, Mean]:
    """Sums on the host, all read in one go."""
    if not sums:
        return {}
    parts = iter(read(*(part for mean in sums.values() for part in (mean.total, mean.count))))
    return {key: Mean(next(parts), next(parts)) for key in sums}


def of_kinds(
    prediction: Prediction, batch: Batch, kinds: Mapping[str, int]
) -> dict[tuple[str, str], Mean]:
    """Force metrics of the frames of each kind; a kind ends where the next begins."""
    if prediction.forces is None or keys.FORCES not in batch:
        return {}
    found: dict[tuple[str, str], Mean] = {}
    ordered = sorted(kinds, key=lambda kind: kinds[kind])
    for kind, following in zip_longest(ordered, ordered[1:]):
        chosen = batch.fid >= kinds[kind]  # (B,)
        if following is not None:
            chosen &= batch.fid < kinds[following]
        metrics = force_metrics(prediction.forces, batch, chosen)
        found |= {(kind, name): mean for name, mean in metrics.items()}
    return found


def average_over_splits(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Plain mean of each metric over splits, as in the papers' "Average" columns."""
    names = list(next(iter(metrics.values())))
    return {name: sum(split[name] for split in metrics.values()) / len(metrics) for name in names}
