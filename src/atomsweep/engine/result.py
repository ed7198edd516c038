"""What a finished fit tells: the best checkpoint on every split, and what it cost."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.engine.evaluate import average_over_splits
from atomsweep.engine.loop import Training
from atomsweep.engine.samples import SAMPLE_BATCH, write_sample
from atomsweep.engine.throughput import COUNTED
from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, read_json, write_atomic

log = logging.getLogger(__name__)

EVALUATED = "evaluated.json"  # splits that are done, beside the checkpoints


def result_of(fit: Training) -> dict[str, Any]:
    """Metrics, counts and costs of a fit whose model has its best weights.

    Args:
        fit: at the end of its training; its `eval_seconds` go on.
    """
    splits = _metrics(fit)
    predicted: list[str] = []
    if fit.world.first or fit.sharded:
        predicted = [split for split in splits if split in fit.data and _sample(fit, split)]
    for kind in ("", *fit.data[schema.TRAIN].kinds):
        parts = [splits.get(schema.part_name(split, kind)) for split in schema.VAL_SPLITS]
        there = {split: part for split, part in zip(schema.VAL_SPLITS, parts, strict=True) if part}
        if len(there) == len(schema.VAL_SPLITS):
            splits[schema.part_name(schema.VAL_AVERAGE, kind)] = average_over_splits(there)
    return {
        "step": fit.step,
        "checkpoint": "best",
        "checkpoint_step": fit.best_step,
        "structures": {name: len(split) for name, split in fit.data.items()},
        "skipped": {name: len(split.skipped) for name, split in fit.data.items()},
        "predictions": predicted,  # splits of which a sample was written
        "parameters": sum(p.numel() for p in fit.model.parameters()),
        "device_seconds": fit.device_seconds,
        "eval_seconds": fit.eval_seconds,
        "throughput": {  # of the last epoch
            name: fit.values[name]
            for name in (schema.metric_name(schema.TRAIN, rate) for rate in COUNTED)
            if name in fit.values
        },
        "metrics": {
            schema.metric_name(split, name): value
            for split, metrics in splits.items()
            for name, value in metrics.items()
        },
    }


def _metrics(fit: Training) -> dict[str, dict[str, float]]:
    """Metrics on every split; one that was told to stop continues there.

    On the training split where `engine.eval_splits` names it.
    """
    key = {"step": fit.step, "checkpoint_step": fit.best_step}
    path, splits = fit.checkpoint_path(EVALUATED), {}
    done = fit.world.tell(_read(path, key) if fit.world.first else None)
    if done is not None:
        splits, fit.eval_seconds = done["splits"], done["eval_seconds"]
    for split in fit.data:
        unasked = split == schema.TRAIN and split not in fit.trainer.eval_splits
        if unasked or split in splits:
            continue
        splits |= fit.evaluate(fit.model, split)
        if fit.world.first:
            write_atomic(path, dumps({**key, "splits": splits, "eval_seconds": fit.eval_seconds}))
    return splits


def _sample(fit: Training, split: str) -> Path | None:
    """What the report shows of single structures; without it the run is as good."""
    start, written = time.perf_counter(), None
    try:
        written = write_sample(
            fit.run.path,
            split,
            fit.model,
            fit.data[split],
            SAMPLE_BATCH,
            fit.device,
            fit.trainer.autocast,
            fit.world.first,
        )
    except OSError as error:
        log.warning("no sample of predictions on %s: %s", split, error)
    fit.eval_seconds += time.perf_counter() - start
    return written


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an evaluation of the same weights has left, if any."""
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if key.items() <= found.items() else None
