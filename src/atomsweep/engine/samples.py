"""A sample of each split with what the model predicts, for the report: `predictions/*.npz`."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.tensors import to_device
from atomsweep.engine.batches import ready
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tracking import schema
from atomsweep.tracking.files import write_atomic

SAMPLE = 64  # structures of a split, evenly spread over it
SAMPLE_BATCH = 8  # few enough for any memory that trained the model
_PER_ATOM = ("pos", "atomic_numbers", "fixed", "forces")
_PER_STRUCTURE = ("natoms", "cell", "sid", "fid")


def write_sample(
    directory: Path,
    split: str,
    model: ForceField,
    dataset: GraphDataset,
    batch_size: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    keep: bool = True,
) -> Path | None:
    """Predict forces of some structures and write them beside the reference; None without forces.

    Arrays, N atoms of B structures one after another: `pos` (N, 3) Å, `atomic_numbers` (N,),
    `fixed` (N,), `forces` and `forces_pred` (N, 3) eV/Å, `natoms` (B,), `cell` (B, 3, 3) Å,
    `sid` and `fid` (B,).
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int))
    parts: dict[str, list[Any]] = {name: [] for name in (*_PER_ATOM, *_PER_STRUCTURE)}
    predicted: list[Tensor] = []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(chosen), batch_size):
            batch = ready(dataset, model, chosen[start : start + batch_size], device)
            with torch.no_grad(), precision():
                output: Prediction = model(to_device(copy(batch), device))
            if output.forces is None or "forces" not in batch:
                return None
            predicted.append(output.forces.detach().float())
            for name in parts:
                parts[name].append(batch[name].numpy())
    finally:
        model.train(was_training)
    if not keep:  # a rank that only had to take part in the forward
        return None
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.concatenate(some) for name, some in parts.items()}
    arrays["forces_pred"] = torch.cat(predicted).cpu().numpy()
    np.savez_compressed(buffer, **arrays)
    path = directory / schema.PREDICTIONS / f"{split}.npz"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path
