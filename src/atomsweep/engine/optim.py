"""The training recipe: optimiser, schedule as a function of progress, clipping, averaging."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import cos, inf, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from atomsweep.nn.running_norm import RunningNorm


class Schedule(ABC):
    """Learning-rate factor as a function of progress, so that it scales with any budget."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Factor on the base learning rate at `progress` in [0, 1)."""


def _check_warmup(warmup: float, warmup_factor: float, **factors: float) -> None:
    """Refuse what would make a learning rate negative or no number.

    Raises:
        ValueError: names the key.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"optim.schedule.warmup must be a fraction in [0, 1), got {warmup}")
    for name, value in {"warmup_factor": warmup_factor, **factors}.items():
        if not 0 <= value < inf:
            raise ValueError(f"optim.schedule.{name} must not be negative, got {value}")


class Milestones(Schedule):
    """Factor gamma for each milestone passed, after a linear warm-up.

    ForceNet's paper: constant for 250 K of 500 K iterations, "after which it is halved every 50K":
    milestones 0.5, 0.6 ... 0.9 (first halving at 250 K) or 0.6 ... 0.9 (at 300 K).

    Args:
        milestones: fractions of the budget, ascending.
        gamma: factor at each.
        warmup: fraction of the budget over which the factor rises linearly.
        warmup_factor: factor at step 0 of the warm-up.
    """

    def __init__(
        self,
        milestones: Sequence[float],
        gamma: float,
        warmup: float = 0.0,
        warmup_factor: float = 1.0,
    ) -> None:
        if list(milestones) != sorted(milestones) or any(not 0 <= m <= 1 for m in milestones):
            raise ValueError(
                f"optim.schedule.milestones must be ascending fractions, got {milestones}"
            )
        _check_warmup(warmup, warmup_factor, gamma=gamma)
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.warmup = warmup
        self.warmup_factor = warmup_factor

    def __call__(self, progress: float) -> float:
        """Factor at `progress`; a milestone counts from its own step on."""
        if progress < self.warmup:
            done = progress / self.warmup
            return self.warmup_factor * (1 - done) + done
        # Progress is step / steps: 0.6 of 500 000 must count at step 300 000 in spite of rounding.
        return self.gamma ** sum(progress >= m - 1e-12 for m in self.milestones)


class Exponential(Schedule):
    """Factor gamma for each epoch that is over, as torch's ExponentialLR stepped once an epoch.

    Args:
        gamma: factor of an epoch.
        epochs: in the whole budget.
    """

    def __init__(self, gamma: float, epochs: float) -> None:
        if not gamma > 0 or not epochs > 0:
            raise ValueError(
                "optim.schedule.gamma and optim.schedule.epochs must be positive, got "
                f"{gamma} and {epochs}"
            )
        self.gamma, self.epochs = gamma, epochs

    def __call__(self, progress: float) -> float:
        """Factor at `progress`; an epoch counts from the first step of the next one on."""
        return self.gamma ** int(progress * self.epochs + 1e-9)


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from 1 down to `min_factor`.

    Args:
        warmup: fraction of the budget.
        warmup_factor: factor at step 0 of the warm-up.
        min_factor: factor at the end.
    """

    def __init__(
        self, warmup: float = 0.0, warmup_factor: float = 0.2, min_factor: float = 0.0
    ) -> None:
        _check_warmup(warmup, warmup_factor, min_factor=min_factor)
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        self.min_factor = min_factor

    def __call__(self, progress: float) -> float:
        """Factor at `progress`."""
        if progress < self.warmup:
            done = progress / self.warmup
            return self.warmup_factor * (1 - done) + done
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + cos(pi * min(done, 1.0)))


@dataclass(frozen=True)
class Recipe:
    """How a model is optimised.

    Attributes:
        optimizer: called with the parameters, or with groups of them.
        schedule: factor on the learning rate.
        batch_size: structures for one optimiser step, over all micro-batches.
        accumulate: micro-batches that one step is cut into, to save memory.
        clip_norm: largest norm of the whole gradient; None does not clip.
        ema_decay: decay of an exponential moving average of the weights, which is then what is
            evaluated and kept as best; None evaluates the weights themselves.
        decay_all: weight decay acts on everything; False spares biases and what belongs to norms,
            as EquiformerV2 does.
    """

    optimizer: Callable[..., Optimizer]
    schedule: Schedule
    batch_size: int
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    decay_all: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.accumulate < 1 or self.batch_size < self.accumulate:
            raise ValueError(
                "optim.batch_size and optim.accumulate must be at least 1 and accumulate at most "
                f"batch_size, got {self.batch_size} and {self.accumulate}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optim.clip_norm must be positive or null, got {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay must lie in (0, 1) or be null, got {self.ema_decay}")

    def new_optimizer(self, model: nn.Module) -> Optimizer:
        """The optimiser of what is trained in `model`, in one kernel on a GPU where it has one."""
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[Any] = trained
        if not self.decay_all:
            spared = _biases_and_norms(model)
            groups = [
                {"params": [p for p in trained if id(p) not in spared]},
                {"params": [p for p in trained if id(p) in spared], "weight_decay": 0.0},
            ]
        if _can_be_fused(self.optimizer) and trained[0].device.type not in ("cpu", "mps"):
            return self.optimizer(groups, fused=True)
        return self.optimizer(groups)

    def average(self, model: nn.Module) -> "MovingAverage | None":
        """The moving average of `model`, or None where the recipe has none."""
        return None if self.ema_decay is None else MovingAverage(model, self.ema_decay)


class MovingAverage(AveragedModel):
    """torch's `AveragedModel` with a decay; the same state, and the same bits.

    That one reads `n_averaged` in every step, for which a GPU's host would wait, and copies every
    constant; here it is read once in a process, and only what a checkpoint keeps is copied.

    Args:
        model: what is averaged; its first weights are the average after one step.
        decay: share of the old average in the new one.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._pairs: tuple[list[Tensor], ...] | None = None  # found at the first step
        self._empty = True

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step, all of them in one call."""
        if self._pairs is None:
            self._empty = int(self.n_averaged) == 0
            kept = self.module.state_dict().keys()
            self._pairs = (
                list(self.module.parameters()),
                list(model.parameters()),
                [b for name, b in self.module.named_buffers() if name in kept],
                [b for name, b in model.named_buffers() if name in kept],
            )
        ours, theirs, our_buffers, their_buffers = self._pairs
        if self._empty:
            for old, new in zip(ours, theirs, strict=True):
                old.copy_(new)
            self._empty = False
        else:
            torch._foreach_lerp_(ours, theirs, 1 - self.decay)
        if our_buffers:
            torch._foreach_copy_(our_buffers, their_buffers)
        self.n_averaged += 1


def kept_statistics(model: nn.Module) -> str | None:
    """Name of a norm of the model that remembers statistics of activations; None without one.

    An average of weights never made those activations: it would be evaluated with the statistics
    of other weights.
    """
    kinds = (nn.modules.batchnorm._NormBase, RunningNorm)
    return next((type(m).__name__ for m in model.modules() if isinstance(m, kinds)), None)


def _can_be_fused(optimizer: Callable[..., Optimizer]) -> bool:
    """Whether it has an implementation of its own on GPUs, and none was asked for."""
    given = optimizer.keywords if isinstance(optimizer, partial) else {}
    return "fused" in signature(optimizer).parameters and not {"fused", "foreach"} & given.keys()


def _biases_and_norms(model: nn.Module) -> set[int]:
    """Ids of parameters called bias, of vectors, and of modules whose class is some norm."""
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name.endswith("bias") or parameter.ndim <= 1 or "norm" in type(module).__name__.lower()
    }


def set_learning_rate(optimizer: Optimizer, base: Sequence[float], factor: float) -> None:
    """Set each group's learning rate to its base times `factor`."""
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr * factor


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the norm of the whole gradient in place, without a host synchronisation."""
    return nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=False)
