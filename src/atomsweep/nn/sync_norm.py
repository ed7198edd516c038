"""Batch norm with the statistics of a batch that lies on many ranks, on any device."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks; its derivative is the same sum, so it may be differentiated again."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return sum_over_ranks(grad)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Differentiable sum of a tensor over ranks."""
    return _SumOverRanks.apply(x)


class SyncBatchNorm1d(nn.BatchNorm1d):
    """`BatchNorm1d` over the rows of all ranks: the mean first, then the squares around it.

    torch's own synchronised batch norm refuses the CPU. This one is made of differentiable sums, so
    forces that are a gradient may pass through it. Every rank must call it equally often.

    Shape: (N, C) -> (N, C); N may differ between ranks and be 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in evaluation, or in one process, exactly as `BatchNorm1d`."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        rows = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        sums = torch.cat([rows.sum(0), rows.new_full((1,), len(rows))])
        total, count = sum_over_ranks(sums).split([self.num_features, 1])
        mean = total / count
        centred = rows - mean
        variance = sum_over_ranks(centred.square().sum(0)) / count
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


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every `BatchNorm1d` below `model` take its statistics over all ranks.

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
