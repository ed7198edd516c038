"""Norms by statistics that are carried from batch to batch, and stand still in evaluation."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from atomsweep.nn.sync_norm import sum_over_ranks

DECAY = 0.99
FLOOR = 1e-2  # a channel that hardly varies is not blown up


class RunningNorm(nn.Module):
    """(x - μ) / σ with running μ and σ of each channel, in training too; no gradient through them.

    "Momentum" norm of Spellings' geometric-algebra-attention. The first batches are averaged evenly
    until a weight of 1 - 0.99 would be more, so that the first one sets the statistics; there they
    start at 0 and 1 and take hundreds of steps. A derivative of the output is exact with respect to
    what has the statistics as constants: forces are those of the energy that is predicted.

    Args:
        channels: D.
        centred: False divides by the mean length of the rows instead, one number for all channels
            ("momentum layer" norm, for vectors: it turns with them).

    Shape: (..., D) -> (..., D).
    """

    def __init__(self, channels: int, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        if centred:
            self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels if centred else 1))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))
        self.mean: Tensor
        self.scale: Tensor
        self.num_batches: Tensor

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor) -> None:
        """Take in a batch, in training only. Every rank must call it equally often.

        Args:
            x: rows.
            weight: 1 for rows that count and 0 for the others.

        Shape: (..., D), (..., 1) or what broadcasts to it.
        """
        if not self.training:
            return
        x, weight = x.to(self.scale.dtype), weight.to(self.scale.dtype)
        rows = tuple(range(x.ndim - 1))
        count = _total(weight.expand(*x.shape[:-1], 1).sum(rows)).clamp(min=1)
        self.num_batches += 1
        share = torch.clamp(1 / self.num_batches.to(self.scale.dtype), min=1 - DECAY)
        if self.centred:
            mean = _total((x * weight).sum(rows)) / count
            scale = (_total(((x - mean).square() * weight).sum(rows)) / count).sqrt()
            self.mean.lerp_(mean, share)
        else:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale = _total((length * weight).sum(rows)) / count
        self.scale.lerp_(scale, share)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by what was taken in so far."""
        scale = self.scale.clamp(min=FLOOR)
        return (x - self.mean) / scale if self.centred else x / scale


def _total(x: Tensor) -> Tensor:
    return sum_over_ranks(x) if dist.is_initialized() else x
