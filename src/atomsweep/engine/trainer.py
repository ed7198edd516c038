"""The training loop: plain torch, resumes bit-exactly at any step, knows no config and no paths.

A step is a function of (seed, step, state). What a run leaves goes through its `RunDirectory`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch_geometric.data import Batch

from atomsweep.data.batching import EpochSampler, GraphDataset, eval_batches
from atomsweep.engine import checkpoint
from atomsweep.engine.evaluate import average_over_splits, evaluate
from atomsweep.engine.optim import Recipe, clip, set_learning_rate
from atomsweep.engine.samples import write_sample
from atomsweep.engine.seeds import Purpose, generator, mix
from atomsweep.engine.signals import Interrupted, StopFlag
from atomsweep.models.base import ForceField
from atomsweep.tasks.base import Task
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

Augmentation = Callable[[Batch, torch.Generator], Batch]


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Update:
    """What a progress display is told.

    Attributes:
        step: steps done.
        fraction: share of the budget that is used.
        seconds_left: estimate from this process's own speed; None before there is one.
        values: latest loss and metrics by name.
    """

    step: int
    fraction: float
    seconds_left: float | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class Trainer:
    """Budget, device and cadence of a run.

    Attributes:
        device: a torch device.
        threads: CPU threads; part of the environment, not of the run's identity.
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

    def __post_init__(self) -> None:
        budgets = {n: getattr(self, n) for n in ("steps", "epochs", "device_hours")}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1 or min(given.values()) <= 0:
            raise ValueError(
                "exactly one of engine.steps, engine.epochs and engine.device_hours must be a "
                f"positive number and the others null, got {budgets}"
            )
        cadence = ("threads", "eval_every", "eval_batch_size", "checkpoint_every", "log_every")
        for name in cadence:
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} must be at least 1, got {getattr(self, name)}")
        split, _, metric = self.metric.partition("/")
        if not metric or split not in self.eval_splits:
            raise ValueError(
                f"engine.metric must be <split>/<metric> with a split of engine.eval_splits "
                f"{self.eval_splits}, got {self.metric!r}"
            )

    def fit(
        self,
        model: ForceField,
        task: Task,
        recipe: Recipe,
        data: Mapping[str, GraphDataset],
        augment: Augmentation | None,
        run: RunDirectory,
        seed: int,
        stop: StopFlag | None = None,
        on_update: Callable[[Update], None] = lambda update: None,
    ) -> dict[str, Any]:
        """Train from the newest checkpoint of `run`, or from step 0, to the end of the budget.

        Returns:
            The run's result: step and metrics of the best checkpoint on every split, the average
            over validation splits, parameters and seconds.

        Raises:
            NotFiniteError: the loss became NaN or infinite.
            Interrupted: `stop` was set; a checkpoint is written.
            ValueError: the batch size exceeds the training split, or the model has nothing to
                train and no statistics to fit.
        """
        training = _Training(
            self,
            model,
            task,
            recipe,
            data,
            augment,
            run,
            seed,
            stop if stop is not None else StopFlag(),
            on_update,
        )
        return training.run_to_end()

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


@dataclass
class _Training:
    """One fit: the state of the loop and the steps that change it."""

    trainer: Trainer
    model: ForceField
    task: Task
    recipe: Recipe
    data: Mapping[str, GraphDataset]
    augment: Augmentation | None
    run: RunDirectory
    seed: int
    stop: StopFlag
    on_update: Callable[[Update], None]

    step: int = 0
    device_seconds: float = 0.0
    eval_seconds: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.trainer.threads)
        torch.set_float32_matmul_precision(
            "high" if self.trainer.precision == "tf32" else "highest"
        )
        self.device = torch.device(self.trainer.device)
        self.model.to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        train = self.data[schema.TRAIN]
        self.sampler = EpochSampler(len(train), self.recipe.batch_size, self.seed)
        self.total_steps = self.trainer.total_steps(self.sampler.steps_per_epoch)
        self.started_at: tuple[float, float] | None = None  # wall clock and fraction
        self.loss_sum: Tensor
        self.loss_count: int
        self.first_bad: Tensor  # step, -1 for none; read where the loop synchronises anyway

    # The loop

    def run_to_end(self) -> dict[str, Any]:
        self.model.fit_statistics(eval_batches(self.data[schema.TRAIN], self._eval_size))
        if self.parameters:
            self._train()
            best = checkpoint.load(self._path(checkpoint.BEST), self.device)
            self.model.load_state_dict(best["model"])
            self.best_step = best["step"]
        else:
            self.run.rewind(0)
            checkpoint.save(self._path(checkpoint.BEST), self._best_state(self.model))
        return self._result()

    def _train(self) -> None:
        optimizer = self.recipe.optimizer(self.parameters)
        base_lr = [group["lr"] for group in optimizer.param_groups]
        average = self.recipe.average(self.model)
        self._reset_loss()
        self._resume(optimizer, average)
        self.started_at = (time.perf_counter(), self._fraction())
        self.model.train()
        clock = time.perf_counter()
        while (fraction := self._fraction()) < 1.0:
            set_learning_rate(optimizer, base_lr, self.recipe.schedule(fraction))
            self._step(optimizer, average)
            self.step += 1
            last, stopping = self.step == self.total_steps, bool(self.stop)
            log_now = self.step % self.trainer.log_every == 0 or last
            eval_now = self.step % self.trainer.eval_every == 0 or last
            save_now = self.step % self.trainer.checkpoint_every == 0 or eval_now or stopping
            if log_now or save_now:
                self._check_finite()
            now = time.perf_counter()  # after the only synchronisation of a step that has one
            self.device_seconds, clock = self.device_seconds + now - clock, now
            last = last or self._fraction() >= 1.0
            if log_now:
                self._log_loss()
            if eval_now or last:
                self._evaluate_during_training(average)
                clock = time.perf_counter()
            if save_now or last:
                self._save(optimizer, average)
            if log_now or save_now or last:
                self._tell()
            if stopping and not last:
                raise Interrupted(
                    f"stopped by {self.stop.signal} at step {self.step}; the same command continues"
                )

    def _step(self, optimizer: Optimizer, average: AveragedModel | None) -> None:
        torch.manual_seed(mix(self.seed, Purpose.STEP, self.step))  # dropout and the like
        batches = self._micro_batches()
        counts = [self.task.counts(batch) for batch in batches]
        whole = {name: torch.stack([c[name] for c in counts]).sum() for name in counts[0]}
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            with self.trainer.autocast():
                prediction = self.model(batch)
            totals = self.task.totals(prediction, batch)
            part = sum(
                self.task.coefficients[name] * total / whole[name] for name, total in totals.items()
            )
            part.backward()  # type: ignore[union-attr]
            loss += part.detach()  # type: ignore[union-attr]
        if self.recipe.clip_norm is not None:
            clip(self.parameters, self.recipe.clip_norm)
        optimizer.step()
        if average is not None:
            average.update_parameters(self.model)
        self.loss_sum += loss.double()
        self.loss_count += 1
        unseen = (self.first_bad < 0) & ~torch.isfinite(loss)
        self.first_bad = torch.where(unseen, self.step, self.first_bad)

    def _micro_batches(self) -> list[Batch]:
        """The batch of this step, on the device: a function of (seed, step)."""
        indices = self.sampler.indices(self.step)
        size = -(-len(indices) // self.recipe.accumulate)
        random = generator(self.seed, Purpose.AUGMENT, self.step)
        batches = []
        for start in range(0, len(indices), size):
            batch = self.data[schema.TRAIN].batch(indices[start : start + size]).to(self.device)
            batches.append(self.augment(batch, random) if self.augment is not None else batch)
        return batches

    # What is written

    def _check_finite(self) -> None:
        bad = int(self.first_bad)
        if bad < 0:
            return
        indices = self.sampler.indices(bad)
        batch = self.data[schema.TRAIN].batch(indices)
        pairs = zip(batch.sid.tolist(), batch.fid.tolist(), strict=True)
        ids = ", ".join(f"{sid}/{fid}" for sid, fid in pairs)
        raise NotFiniteError(
            f"the loss is not finite at step {bad + 1}; its batch holds the structures (sid/fid) "
            f"{ids}; lower optim.optimizer.lr, set optim.clip_norm, or look at these labels"
        )

    def _log_loss(self) -> None:
        name = schema.metric_name(schema.TRAIN, schema.LOSS)
        self.values[name] = float(self.loss_sum) / self.loss_count
        self._journal({name: self.values[name]})
        self._reset_loss()

    def _evaluate_during_training(self, average: AveragedModel | None) -> None:
        model = self.model if average is None else average.module
        metrics = {}
        for split in self.trainer.eval_splits:
            for name, value in self._evaluate(model, split).items():
                metrics[schema.metric_name(split, name)] = value
        self.values |= metrics
        self._journal(metrics)
        log.info(
            "step %d: %s %.5f, train loss %.5f, %.0f s on the device",
            self.step,
            self.trainer.metric,
            metrics[self.trainer.metric],
            self.values.get(schema.metric_name(schema.TRAIN, schema.LOSS), float("nan")),
            self.device_seconds,
        )
        if metrics[self.trainer.metric] < self.best:
            self.best, self.best_step = metrics[self.trainer.metric], self.step
            checkpoint.save(self._path(checkpoint.BEST), self._best_state(model))

    def _result(self) -> dict[str, Any]:
        splits = {
            split: self._evaluate(self.model, split) for split in self.data if split != schema.TRAIN
        }
        validation = {s: m for s, m in splits.items() if s in schema.VAL_SPLITS}
        for split in splits:
            self._sample(split)
        if len(validation) == len(schema.VAL_SPLITS):
            splits[schema.VAL_AVERAGE] = average_over_splits(validation)
        return {
            "step": self.step,
            "checkpoint": "best",
            "checkpoint_step": self.best_step,
            "structures": {name: len(split) for name, split in self.data.items()},
            "skipped": {name: len(split.skipped) for name, split in self.data.items()},
            "parameters": sum(p.numel() for p in self.parameters),
            "device_seconds": self.device_seconds,
            "eval_seconds": self.eval_seconds,
            "metrics": {
                schema.metric_name(split, name): value
                for split, metrics in splits.items()
                for name, value in metrics.items()
            },
        }

    def _evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        start = time.perf_counter()
        metrics = evaluate(
            model,
            self.task,
            eval_batches(self.data[split], self._eval_size),
            self.device,
            self.trainer.autocast,
            needs_gradient=self.model.conservative,
        )
        self.eval_seconds += time.perf_counter() - start
        return metrics

    def _sample(self, split: str) -> None:
        """What the report shows of single structures; without it the run is as good."""
        start = time.perf_counter()
        try:
            write_sample(
                self.run.path,
                split,
                self.model,
                self.data[split],
                self._eval_size,
                self.device,
                self.trainer.autocast,
                needs_gradient=self.model.conservative,
            )
        except OSError as error:
            log.warning("no sample of predictions on %s: %s", split, error)
        self.eval_seconds += time.perf_counter() - start

    def _journal(self, metrics: dict[str, float]) -> None:
        self.run.log(self.step, metrics, self.device_seconds, self.eval_seconds)

    def _tell(self) -> None:
        fraction = self._fraction()
        left = None
        if self.started_at is not None and fraction > self.started_at[1]:
            since, begin = self.started_at
            left = (time.perf_counter() - since) / (fraction - begin) * (1 - fraction)
        self.on_update(Update(self.step, min(fraction, 1.0), left, dict(self.values)))

    # Checkpoints

    def _save(self, optimizer: Optimizer, average: AveragedModel | None) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "identity": self.run.identity,
            "step": self.step,
            "device_seconds": self.device_seconds,
            "eval_seconds": self.eval_seconds,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "best": self.best,
            "best_step": self.best_step,
            "values": self.values,
        }
        checkpoint.save(self._path(checkpoint.LAST), state)

    def _resume(self, optimizer: Optimizer, average: AveragedModel | None) -> None:
        path = self._path(checkpoint.LAST)
        if not path.exists():
            self.run.rewind(0)
            return
        state = checkpoint.load(path, self.device)
        if state["identity"] != self.run.identity:
            raise ValueError(
                f"checkpoint {path} belongs to run {state['identity']}, not to "
                f"{self.run.identity}; delete it to start this run from step 0"
            )
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        for name in ("step", "device_seconds", "eval_seconds", "loss_sum", "loss_count"):
            setattr(self, name, state[name])
        self.best, self.best_step, self.values = state["best"], state["best_step"], state["values"]
        self.run.rewind(self.step)
        log.info("continuing from step %d", self.step)

    def _best_state(self, model: nn.Module) -> dict[str, Any]:
        return {"model": model.state_dict(), "step": self.step, "identity": self.run.identity}

    # Small things

    @property
    def _eval_size(self) -> int:
        return self.trainer.eval_batch_size

    def _fraction(self) -> float:
        return self.trainer.fraction(self.step, self.device_seconds, self.total_steps)

    def _reset_loss(self) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.loss_count = 0
        self.first_bad = torch.full((), -1, device=self.device)

    def _path(self, name: str) -> Any:
        return self.run.path / schema.CHECKPOINTS / name
