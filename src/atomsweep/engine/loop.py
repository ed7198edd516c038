"""The training loop: plain torch, resumes bit-exactly at any step, knows no config.

A step is a function of (seed, step, state). What a run leaves goes through its `RunDirectory`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.engine import checkpoint
from atomsweep.engine.batches import Augmentation, StepBatches, eval_shares
from atomsweep.engine.devices import local_device
from atomsweep.engine.distributed import World
from atomsweep.engine.evaluate import evaluate
from atomsweep.engine.events import NotFiniteError, Update
from atomsweep.engine.forward import forward_of
from atomsweep.engine.optim import Recipe, clip, set_learning_rate
from atomsweep.engine.seeds import Purpose, mix
from atomsweep.engine.sharding import load_optimizer, load_weights, shard, whole
from atomsweep.engine.signals import Interrupted, StopFlag
from atomsweep.engine.throughput import COUNTED, Throughput
from atomsweep.engine.trainer import Trainer
from atomsweep.models.base import ForceField
from atomsweep.nn.sync_norm import synchronise_batch_norm
from atomsweep.tasks.base import Task
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)


@dataclass
class Training:
    """One fit: the state of the loop and the steps that change it.

    The fields are the arguments of `engine.fit.fit`, then what a checkpoint holds.
    """

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
    world: World

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
        self.device = local_device(self.trainer.device, self.world.local_rank)
        if self.world.size > 1 or self.trainer.compile != "none":
            synchronise_batch_norm(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.sharded = self.trainer.sharded and self.world.size > 1 and bool(self.parameters)
        if not self.sharded:  # else it may not fit there before it is in shards
            self.model.to(self.device)
        self.batches = StepBatches(
            self.data[schema.TRAIN],
            self.task,
            self.model,
            self.recipe.batch_size,
            self.recipe.accumulate,
            self.augment,
            self.seed,
            self.world,
            self.device,
            self.trainer.workers,
            self.trainer.batch_edges,
            fill=self.trainer.compile != "none" and bool(self.parameters),
        )
        self.eager_shapes: set[str] = set()  # of this rank; a checkpoint keeps rank 0's
        self.forward = forward_of(self.model, self.trainer, self.eager_shapes)
        sampler = self.batches.sampler
        self.total_steps = self.trainer.total_steps(sampler.steps_per_epoch)
        self.started_at: tuple[float, float] | None = None  # wall clock and fraction
        self.unevaluated = False  # the evaluation of this step is due
        self.loss_sum: Tensor
        self.loss_count: int
        self.first_bad: Tensor  # step, -1 for none; read where the loop synchronises anyway

    # The loop

    def run_to_end(self) -> None:
        """Train, or do nothing where nothing is trained; the best weights are loaded then."""
        if self.parameters:
            self._train()
            best = self._load(checkpoint.BEST)
            with checkpoint.fitting(self.checkpoint_path(checkpoint.BEST)):
                load_weights(self.model, best["model"])
            self.best_step = best["step"]
        elif self.world.first:
            self.run.rewind(0)
            checkpoint.save(self.checkpoint_path(checkpoint.BEST), self._best_state(self.model))

    def _train(self) -> None:
        average = self.recipe.average(self.model)
        if self.sharded:
            self._shard(average)
        optimizer = self.recipe.new_optimizer(self.model)
        base_lr = [group["lr"] for group in optimizer.param_groups]
        self._reset_loss()
        self._resume(optimizer, average)
        self.started_at = (time.perf_counter(), self._fraction())
        if self.unevaluated:
            self._evaluate_and_save(optimizer, average)
        sampler = self.batches.sampler
        speed = Throughput(
            self.world,
            sampler.batch_size,
            sampler.steps_per_epoch,
            self.step,
            self.trainer.log_every,
        )
        self.model.train()
        clock = time.perf_counter()
        with closing(self.batches.start(self.step)) as batches:
            while (fraction := self._fraction()) < 1.0:
                set_learning_rate(optimizer, base_lr, self.recipe.schedule(fraction))
                made = next(batches)
                speed.count(made)
                self._step(made, optimizer, average)
                self.step += 1
                stopping = self.world.any(bool(self.stop))
                last = self.step == self.total_steps
                log_now = self.step % self.trainer.log_every == 0 or last
                eval_now = self.step % self.trainer.eval_every == 0 or last
                save_now = self.step % self.trainer.checkpoint_every == 0 or eval_now or stopping
                epoch_over = speed.due(self.step)
                if log_now or save_now or epoch_over:
                    self._check_finite()
                now = time.perf_counter()  # after the only synchronisation of a step that has one
                self._count_time(now - clock)
                speed.tick(now - clock)
                clock = now
                last = last or self._fraction() >= 1.0
                if log_now:
                    self._log_loss(speed)
                if epoch_over:
                    self._log_epoch(speed)
                if last:  # before its value, which a study may judge the run by
                    self._tell()
                if eval_now or last:
                    self._evaluate_and_save(optimizer, average)
                    speed.skip()
                    clock = time.perf_counter()
                elif save_now:
                    self._save(optimizer, average)
                if log_now or save_now or last:
                    self._tell()
                if stopping and not last:
                    raise self._interrupted()

    def _shard(self, average: AveragedModel | None) -> None:
        self.world.share(self.model)  # while all of it is there
        shard(self.model, self.device, self.model.conservative)
        if average is not None:
            shard(average.module, self.device, self.model.conservative)
            average.to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def _step(
        self, batches: list[Batch], optimizer: Optimizer, average: AveragedModel | None
    ) -> None:
        # Dropout and the like: on many ranks other masks than on one, but of the same kind
        torch.manual_seed(mix(self.seed, Purpose.STEP, self.step, self.world.rank))
        for batch in batches:
            batch[keys.PROGRESS] = self._fraction()
        counts = [self.task.counts(batch) for batch in batches]
        whole = {n: self.world.add(torch.stack([c[n] for c in counts]).sum()) for n in counts[0]}
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            prediction = self.forward(batch)
            totals = self.task.totals(prediction, batch)
            part = sum(
                self.task.coefficients[name] * total / whole[name] for name, total in totals.items()
            )
            part.backward()  # type: ignore[union-attr]
            loss += part.detach()  # type: ignore[union-attr]
        if self.sharded:  # which has added up the gradients already
            loss = self.world.add(loss)
        else:
            loss = self.world.add_gradients(self.parameters, loss)
        if self.recipe.clip_norm is not None:
            clip(self.parameters, self.recipe.clip_norm)
        optimizer.step()
        if average is not None:
            average.update_parameters(self.model)
        self.loss_sum += loss.to(self.loss_sum.dtype)
        self.loss_count += 1
        unseen = (self.first_bad < 0) & ~torch.isfinite(loss)
        self.first_bad = torch.where(unseen, self.step, self.first_bad)

    # What is written

    def _check_finite(self) -> None:
        if (bad := int(self.first_bad)) < 0:
            return
        raise NotFiniteError(
            f"the loss is not finite at step {bad + 1}; its batch holds the structures (sid/fid) "
            f"{self.batches.ids(bad)}; lower optim.optimizer.lr, set optim.clip_norm, or look at "
            "these labels"
        )

    def _log_loss(self, speed: Throughput) -> None:
        name = schema.metric_name(schema.TRAIN, schema.LOSS)
        self.values[name] = float(self.loss_sum) / self.loss_count
        self._journal({name: self.values[name], **speed.since_entry(self.step)})
        self._reset_loss()

    def _log_epoch(self, speed: Throughput) -> None:
        rates = speed.of_epoch(self.step)
        self._journal(rates)
        self.values |= {n: rates[n] for n in (schema.metric_name(schema.TRAIN, c) for c in COUNTED)}

    def _evaluate_and_save(self, optimizer: Optimizer, average: AveragedModel | None) -> None:
        """The evaluation is due until its files are there: whatever ends it, it is made again."""
        self.unevaluated = True
        try:
            self._evaluate_during_training(average)
            self.unevaluated = False
        except Exception as error:
            if isinstance(error, Interrupted) or not self.sharded:  # else no other rank may come
                self._save(optimizer, average)
            raise
        self._save(optimizer, average)

    def _evaluate_during_training(self, average: AveragedModel | None) -> None:
        model = self.model if average is None else average.module
        metrics: dict[str, float] = {}
        for split in self.trainer.eval_splits:
            for part, found in self.evaluate(model, split, self.trainer.eval_frames).items():
                metrics |= {schema.metric_name(part, name): v for name, v in found.items()}
        if metrics[self.trainer.metric] < self.best:
            state = self._best_state(model)
            if self.world.first:
                checkpoint.save(self.checkpoint_path(checkpoint.BEST), state)
            self.best, self.best_step = metrics[self.trainer.metric], self.step
        self.values |= metrics
        self._journal(metrics)
        told = f"{self.trainer.metric} {metrics[self.trainer.metric]:.5f}, "
        if (loss := self.values.get(schema.metric_name(schema.TRAIN, schema.LOSS))) is not None:
            told += f"train loss {loss:.5f}, "  # else none has been averaged yet
        told += f"{self.device_seconds:.0f} s on the device"
        log.info("step %d: %s", self.step, told, extra={"detail": True})  # `console.to_terminal`

    def evaluate(
        self, model: nn.Module, split: str, frames: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Metrics on a split and its kinds, or on so many structures, always the same; timed."""
        start = time.perf_counter()
        metrics = evaluate(
            model,
            self.task,
            eval_shares(
                self.data[split],
                self.model,
                self.trainer.eval_batch_size,
                self.world,
                self.device,
                self.trainer.workers,
                self._check_stop,
                together=self.sharded,
                frames=frames,
            ),
            self.device,
            self.trainer.autocast,
            world=self.world,
            kinds=self.data[split].kinds,
        )
        self.eval_seconds += (time.perf_counter() - start) * self.world.size
        return {schema.part_name(split, kind): found for kind, found in metrics.items()}

    def _check_stop(self) -> None:
        if self.world.any(bool(self.stop)):
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        name = self.stop.signal or "another rank's signal"
        return Interrupted(f"stopped by {name} at step {self.step}; the same command continues")

    def _count_time(self, seconds: float) -> None:
        """Devices × time. Where that is the budget all ranks go by the clock of the first."""
        if self.trainer.device_hours is not None:
            seconds = self.world.of_first(seconds)
        self.device_seconds += seconds * self.world.size

    def _journal(self, metrics: dict[str, float]) -> None:
        if self.world.first:
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
        if not self.world.first and not self.sharded:
            return
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
            "unevaluated": self.unevaluated,
            "eager_shapes": sorted(self.eager_shapes),
        }
        state = whole(state, keep=self.world.first) if self.sharded else state
        if self.world.first:
            checkpoint.save(self.checkpoint_path(checkpoint.LAST), state)

    def _resume(self, optimizer: Optimizer, average: AveragedModel | None) -> None:
        if not self.world.tell(self.checkpoint_path(checkpoint.LAST).exists()):
            if self.world.first:
                self.run.rewind(0)
            if not self.sharded:
                self.world.share(self.model)
            return
        state = self._load(checkpoint.LAST)
        with checkpoint.fitting(self.checkpoint_path(checkpoint.LAST)):
            load_weights(self.model, state["model"])
            load_optimizer(optimizer, state["optimizer"])
            if average is not None:
                load_weights(average, state["average"])
        self.loss_sum.copy_(state["loss_sum"])
        counts = ("step", "device_seconds", "eval_seconds", "loss_count")
        for name in (*counts, "best", "best_step", "values", "unevaluated"):
            setattr(self, name, state[name])
        self.eager_shapes.update(state["eager_shapes"])
        if self.world.first:
            self.run.rewind(self.step)
        eagerly = f", {len(self.eager_shapes)} shapes eagerly as before" * bool(self.eager_shapes)
        log.info("continuing from step %d%s", self.step, eagerly)

    def _load(self, name: str) -> dict[str, Any]:
        """A checkpoint as rank 0 reads it; other machines may see an older file for a while."""
        state = None
        if self.world.first:
            path = self.checkpoint_path(name)
            if not path.exists():
                raise ValueError(f"checkpoint {path} is gone; {checkpoint.remedy(path)}")
            state = checkpoint.load_of(self.run.identity, path)
        found: dict[str, Any] = self.world.tell(state)
        return found

    def _best_state(self, model: nn.Module) -> dict[str, Any]:
        state = model.state_dict()
        state = whole(state, keep=self.world.first) if self.sharded else state
        return {"model": state, "step": self.step, "identity": self.run.identity}

    def _fraction(self) -> float:
        return self.trainer.fraction(self.step, self.device_seconds, self.total_steps)

    def _reset_loss(self) -> None:
        double = torch.float32 if self.device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), dtype=double, device=self.device)
        self.loss_count = 0
        self.first_bad = torch.full((), -1, device=self.device)

    def checkpoint_path(self, name: str) -> Path:
        """Where a file beside the checkpoints lies."""
        return self.run.path / schema.CHECKPOINTS / name
