"""What inference costs: structures per second at the largest batch that fits."""

import statistics
from collections.abc import Callable

import numpy as np
import torch

from atomsweep.sweep.evaluation_settings import Cost
from atomsweep.worker.evaluate.memory import GIB, Meter, free_memory, largest_that_fits, timed
from atomsweep.worker.evaluate.sample import batch_of, sample
from atomsweep.worker.trained import TrainedModel


def cost(model: TrainedModel, settings: Cost, progress: Callable[[int, int], None]) -> dict:
    """Structures per second and device-hours per million structures: ForceNet, Table 1.

    What is timed is the forward alone, forces by autograd included where the model is conservative;
    reading, graphs, what the model prepares (pairs of edges, point clouds) and the transfer to the
    device are not. The batch is the largest that fits into
    the device's memory, found by doubling and bisection; on a CPU `memory_gib` is the limit.

    Args:
        model: that is evaluated.
        settings: how.
        progress: told of steps done and in all.

    Returns:
        Metrics by name, and `limit`: what kept a larger batch out.
    """
    data = sample(model, settings.split, settings.max_batch, seed=0)
    cuda = model.device.type == "cuda"
    meter = Meter(model.device, settings.memory_gib * GIB)

    def forward(size: int) -> Callable[[], object]:
        batch = batch_of(model, data, np.arange(size) % len(data))
        return lambda: model.predict(batch)

    tries = 0

    def attempt(size: int) -> float:
        nonlocal tries
        tries += 1
        progress(tries, tries + 10)
        work = forward(size)
        meter.run(work, size)  # the first forward also compiles, tunes and allocates
        return meter.run(work, size)

    found = largest_that_fits(attempt, settings.max_batch, settings.max_seconds)
    free_memory()
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    work = forward(found.size)
    for _ in range(settings.warm_up):
        work()
    seconds = statistics.median(timed(work, model.device) for _ in range(settings.repeats))
    atoms = int(data.natoms[np.arange(found.size) % len(data)].sum())
    metrics = {
        "structures_per_second": found.size / seconds,
        "device_hours_per_million": seconds / found.size * 1e6 / 3600.0,
        "atoms_per_second": atoms / seconds,
        "batch_size": found.size,
        "seconds_per_batch": seconds,
        "limit": found.limit,
    }
    if cuda:
        metrics["peak_memory_gib"] = torch.cuda.max_memory_allocated(model.device) / GIB
    return metrics
