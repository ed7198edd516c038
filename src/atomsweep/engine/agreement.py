"""Whether two ways to compute outputs and gradients agree, as far as rounding lets them."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

ACCELERATORS = ("cuda", "xpu")  # with random numbers of their own


class Rounding(NamedTuple):
    """What rounding alone may do.

    Attributes:
        apart: how far a tensor may be off, as a share of its norm.
        outputs: outputs whose norm is a smaller share of the largest one's may be but rounding.
        grads: likewise gradients.
    """

    apart: float
    outputs: float
    grads: float


def rounding(
    state: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager[object]],
    device: torch.device,
) -> Rounding:
    """By the precision in which a forward runs: its weights', or less."""
    if any(value.dtype == torch.float64 for value in state if value.requires_grad):
        return Rounding(1e-6, 1e-10, 1e-6)
    with autocast():
        reduced = torch.is_autocast_enabled(device.type)
    if reduced or torch.get_float32_matmul_precision() != "highest":
        return Rounding(0.7, 1e-2, 1e-2)
    return Rounding(0.05, 1e-5, 1e-3)


def kept_generators(device: torch.device) -> AbstractContextManager[object]:
    """A block after which random numbers are those that would have come before it."""
    if device.type not in ACCELERATORS:
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


def spread(part: Tensor) -> Tensor:
    """Norm of an output around its mean, which an energy's reference may exceed by far.

    Where all of it is but the mean's rounding, that is its size.
    """
    rounding = 300.0 * torch.finfo(part.dtype).eps
    return torch.maximum((part - part.mean()).norm(), rounding * part.norm())


def waves(outputs: list[Tensor], floor: float) -> list[Tensor]:
    """What multiplies outputs: numbers of both signs, as forces of equal weight add up to nothing.

    Over the spread of each, so that one in other units is not lost beside another.
    """
    norms = torch.stack([spread(part.detach()) for part in outputs])
    norms = torch.maximum(norms, (floor * norms.max()).clamp(min=1e-6))
    waves = []
    for part, norm in zip(outputs, norms, strict=True):
        count = torch.arange(part.numel(), device=part.device, dtype=part.dtype)
        waves.append(count.mul_(0.7).add_(1.0).cos_().view_as(part) / norm.to(part.dtype))
    return waves


def apart(
    found: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    floor: float,
    size: Callable[[Tensor], Tensor] = Tensor.norm,
) -> float:
    """Largest norm of a difference, over the expected size or `floor` times the largest of them.

    Of one that is not there, or not finite where the other is, infinity. NaN where none of those
    expected is finite, so that nothing is known.
    """
    pairs = []
    for one, other in zip(found, expected, strict=True):
        if (one is None) != (other is None):
            return math.inf
        if one is not None and other is not None and other.numel():
            pairs.append((one, other))
    if not pairs:
        return 0.0
    sizes = torch.stack([size(other).float() for _, other in pairs])
    apart = torch.stack([(one - other).norm().float() for one, other in pairs])
    finite = sizes.isfinite()
    sizes, apart = sizes[finite], apart[finite]
    if not len(sizes):
        return math.nan
    worst = float((apart / sizes.clamp(min=max(1e-30, floor * float(sizes.max())))).max())
    return worst if math.isfinite(worst) else math.inf
