"""Batch norm with the statistics of a batch that lies on many ranks, or that has ghosts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

_counted: ContextVar[Mapping[int, Tensor] | None] = ContextVar("counted", default=None)


@contextmanager
def counted_rows(weights: Mapping[int, Tensor]) -> Iterator[None]:
    """A block in which only some rows of a batch count for batch norms: those that are no ghosts.

    Args:
        weights: number of rows -> (rows, 1), 1 for each that counts and 0 for the others. Atoms,
            edges and structures are told apart by their number.
    """
    token = _counted.set(weights)
    try:
        yield
    finally:
        _counted.reset(token)


_alone: list[bool] = []  # of the process: a backward may run in threads of its own


@contextmanager
def without_ranks() -> Iterator[None]:
    """A block in which `sum_over_ranks` is of this rank alone: a trial that no other rank makes."""
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over ranks; its derivative is the same sum, and differentiable again."""
    return _sum_over_ranks()(x)


@cache
def _sum_over_ranks() -> Callable[[Tensor], Tensor]:
    """One operation for compilers. Made at its first use: that takes torch half a second.

    Dynamo cannot trace its making; `engine.compile` does not need it to (`make_fx`).
    """

    @torch.library.custom_op("atomsweep::sum_over_ranks", mutates_args=())
    def total_of(x: Tensor) -> Tensor:
        total = x.clone()
        if not _alone:
            dist.all_reduce(total)
        return total

    @total_of.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    total_of.register_autograd(lambda ctx, grad: sum_over_ranks(grad))
    return total_of


class SyncBatchNorm1d(nn.BatchNorm1d):
    """`BatchNorm1d` over the rows of all ranks that count: the mean, then the squares around it.

    torch's own synchronised batch norm refuses the CPU. This one is made of differentiable sums, so
    forces that are a gradient may pass through it. Every rank must call it equally often.

    Shape: (N, C) -> (N, C); N may differ between ranks and be 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in evaluation, or in one process, exactly as `BatchNorm1d`."""
        weights = _counted.get()
        if not self.training or not (dist.is_initialized() or weights):
            return super().forward(x)
        rows = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        weight = rows.new_ones(len(rows), 1) if weights is None else weights[len(x)].to(rows.dtype)
        if weights is not None:  # a ghost may grow without bound, and inf times 0 is no number
            rows = torch.where(weight > 0, rows, 0.0)
        sums = torch.cat([rows.sum(0), weight.sum().reshape(1)])
        total, count = _over_ranks(sums).split([self.num_features, 1])
        mean = total / count
        centred = rows - mean if weights is None else (rows - mean) * weight
        variance = _over_ranks(centred.square().sum(0)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        out = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            out = out * self.weight + self.bias
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = (
            self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        )
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)


def _over_ranks(x: Tensor) -> Tensor:
    return sum_over_ranks(x) if dist.is_initialized() else x


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every `BatchNorm1d` below `model` take its statistics over all ranks, without ghosts.

    Parameters, buffers and their names stay, so that checkpoints move between numbers of ranks.

    Raises:
        ValueError: the model has a normalisation over the batch of another kind.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncBatchNorm1d
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
            module, SyncBatchNorm1d
        ):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which would normalise each rank's part of a "
                "batch apart; train this model in one process"
            )
