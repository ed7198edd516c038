"""Budget, device and cadence of a run: the config group `engine`. Settings alone; no loop."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch


@dataclass(frozen=True)
class Trainer:
    """Budget, device and cadence of a run.

    Attributes:
        device: a torch device; of several of its kind each rank takes one.
        threads: CPU threads of each rank; part of the environment, not of the run's identity.
        precision: float32, TF32 matrix products, or bfloat16 autocast with float32 weights.
        steps: budget in optimiser steps.
        epochs: budget in passes over the training split.
        device_hours: budget in hours of training × devices, evaluation not counted.
        eval_every: steps between evaluations on `eval_splits`.
        eval_splits: splits evaluated during training; all are at the end.
        eval_batch_size: structures in a batch of an evaluation.
        metric: `<split>/<metric>` that the best checkpoint minimises.
        checkpoint_every: steps between checkpoints; evaluations write one too.
        log_every: steps between journal entries of the training loss.
        workers: threads of each rank that make batches ahead; 0 makes them in between steps.
        sharded: each rank keeps a part of weights, gradients and optimiser state; alone, all.
        eval_frames: structures of each split that evaluations during training look at, the same
            ones each time; None looks at all, as the evaluation at the end does.
        cache_gib: GiB that arrays of a split with its neighbour lists may take, in files beside the
            data; a larger split is read for each batch.
        compile: "default" trains with a compiled forward and backward (`engine.compiled`), "max"
            with CUDA graphs and kernels that are measured, "none" eagerly.
        batch_edges: most edges of a micro-batch; a step is packed into as many as it takes. None
            goes by optim.accumulate.
    """

    device: str
    threads: int
    precision: Literal["float32", "tf32", "bf16"]
    steps: int | None
    epochs: float | None
    device_hours: float | None
    eval_every: int
    eval_splits: list[str]
    eval_batch_size: int
    metric: str
    checkpoint_every: int
    log_every: int
    workers: int = 0
    sharded: bool = False
    eval_frames: int | None = None
    cache_gib: float = 4.0
    compile: Literal["none", "default", "max"] = "none"
    batch_edges: int | None = None

    def __post_init__(self) -> None:
        budgets = {n: getattr(self, n) for n in ("steps", "epochs", "device_hours")}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1 or not 0 < min(given.values()) < inf:
            told = " ".join(f"engine.{name}={value}" for name, value in given.items()) or "none"
            others = " ".join(f"engine.{name}=null" for name in list(given)[:-1])
            given_up = f"; for the last of these add {others}" if others else ""
            raise ValueError(
                "a run has one budget, a positive engine.steps, engine.epochs or "
                f"engine.device_hours, got {told}{given_up}"
            )
        cadence = ("threads", "eval_every", "eval_batch_size", "checkpoint_every", "log_every")
        for name in cadence:
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} must be at least 1, got {getattr(self, name)}")
        if self.eval_frames is not None and self.eval_frames < 1:
            raise ValueError(f"engine.eval_frames must be at least 1, got {self.eval_frames}")
        if not self.cache_gib >= 0:
            raise ValueError(f"engine.cache_gib must not be negative, got {self.cache_gib}")
        if self.workers < 0:
            raise ValueError(f"engine.workers must not be negative, got {self.workers}")
        if self.compile not in ("none", "default", "max"):
            raise ValueError(f"engine.compile must be none, default or max, got {self.compile!r}")
        if self.batch_edges is not None and self.batch_edges < 1:
            raise ValueError(f"engine.batch_edges must be at least 1, got {self.batch_edges}")
        split, _, metric = self.metric.partition("/")
        if not metric or split not in self.eval_splits:
            raise ValueError(
                f"engine.metric must be <split>/<metric> with a split of engine.eval_splits "
                f"{self.eval_splits}, got {self.metric!r}"
            )

    def fraction(self, step: int, device_seconds: float, steps: int | None) -> float:
        """Share of the budget that is used after `step` steps."""
        if self.device_hours is not None:
            return device_seconds / (3600 * self.device_hours)
        assert steps is not None
        return step / steps

    def total_steps(self, steps_per_epoch: int) -> int | None:
        """Number of steps of the budget; None for a budget in device time."""
        if self.epochs is not None:
            return max(1, round(self.epochs * steps_per_epoch))
        return self.steps

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which a model's forward runs."""
        if self.precision == "bf16":
            return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)
        return nullcontext()
