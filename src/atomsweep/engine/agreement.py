"""Whether two ways to compute outputs and gradients agree, as far as rounding lets them.

How far that is is measured: eager code runs once more, apart by rounding alone, and no tensor may
differ by much more than it does between the two.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

ACCELERATORS = ("cuda", "xpu")  # with random numbers of their own
ROUNDINGS, OF_REDUCED = 5.0, 3.0  # a tensor may be off by so many times what was measured
SHARE, SHARE_DOUBLE = 0.05, 1e-6  # and by this share of its size, for a ReLU at its kink
FLOOR = 1e-7  # sizes below this share of the largest one's count as that
MEAN = 0.01  # of the norm of an output that counts beside its spread
ALIKE = 1e-3  # of a tensor's norm: what has less is nothing to hold it against
FEW, NEAR = 16, 3  # of so few numbers rounding is that of so many larger tensors beside them, too


def share_of(weights: Iterable[Tensor]) -> float:
    """Share of its size that a tensor may be off, whatever was measured."""
    return SHARE_DOUBLE if any(w.dtype == torch.float64 for w in weights) else SHARE


def is_reduced(
    autocast: Callable[[], AbstractContextManager[object]], device: torch.device
) -> bool:
    """Whether products are rounded further than their results: by autocast, or as TF32."""
    with autocast():
        return (
            torch.is_autocast_enabled(device.type)
            or torch.get_float32_matmul_precision() != "highest"
        )


@contextmanager
def in_full_precision() -> Iterator[None]:
    """A block in which products of single precision are not rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def nudged(weight: Tensor) -> Tensor:
    """A weight as a leaf of its own, half of its numbers one rounding larger, half smaller."""
    if not (weight.requires_grad and weight.is_floating_point()):
        return weight
    value = weight.detach()
    sign = 1.0 - 2.0 * (torch.arange(value.numel(), device=value.device) % 2)
    by = torch.finfo(value.dtype).eps * sign.to(value.dtype).view_as(value)
    return (value + value * by).requires_grad_()


def kept_generators(device: torch.device) -> AbstractContextManager[object]:
    """A block after which random numbers are those that would have come before it."""
    if device.type not in ACCELERATORS:
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


def spread(part: Tensor) -> Tensor:
    """Norm of an output around its mean; where that is next to nothing, a share of the norm."""
    return torch.maximum((part - part.mean()).norm(), MEAN * part.norm())


def waves(outputs: list[Tensor]) -> list[Tensor]:
    """What multiplies outputs: numbers of both signs, as forces of equal weight add up to nothing.

    Over the spread of each, so that one in other units is not lost beside another.
    """
    norms = torch.stack([spread(part.detach()).float() for part in outputs])
    norms = torch.maximum(norms, (FLOOR * norms.max()).clamp(min=1e-6))
    waves = []
    for part, norm in zip(outputs, norms, strict=True):
        count = torch.arange(part.numel(), device=part.device, dtype=part.dtype)
        waves.append(count.mul_(0.7).add_(1.0).cos_().view_as(part) / norm.to(part.dtype))
    return waves


def apart(
    found: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    again: Sequence[Tensor | None],
    share: float,
    roundings: float = ROUNDINGS,
    size: Callable[[Tensor], Tensor] = Tensor.norm,
) -> float:
    """Largest difference of a found from an expected tensor, over what rounding may do to it.

    One or two numbers may be rounded by nearly nothing in `again` alone, so of few what rounding
    does is at least what it does to tensors beside them, which are of the same layers.

    Above 1 they are not the same. Of a tensor that is not there, or not finite where the other is,
    infinity. NaN where none of those expected is finite, so that nothing is known.

    Args:
        found: what is held against it.
        expected: what is right.
        again: the same computed once more, apart by rounding alone.
        share: of its size that a tensor may be off in any case.
        roundings: and by so many times what the two right ones are apart.
        size: of an expected tensor.
    """
    trios = []
    for one, other, third in zip(found, expected, again, strict=True):
        if (one is None) != (other is None):
            return math.inf
        if one is not None and other is not None and other.numel():
            trios.append((one, other, other if third is None else third))
    if not trios:
        return 0.0
    sizes = torch.stack([size(other).float() for _, other, _ in trios])
    off = torch.stack([(one - other).norm().float() for one, other, _ in trios])
    noise = torch.stack([(third - other).norm().float() for _, other, third in trios])
    noise = noise.nan_to_num(0.0, posinf=0.0)
    norms = torch.stack([torch.stack([x.norm(), y.norm()]).float() for _, x, y in trios])
    few = [place for place, (_, other, _) in enumerate(trios) if other.numel() < FEW]
    noise = torch.maximum(noise, _usual(noise, norms, few))
    finite = sizes.isfinite()
    sizes, off, noise = sizes[finite], off[finite], noise[finite]
    if not len(sizes):
        return math.nan
    sizes = sizes.clamp(min=max(1e-30, FLOOR * float(sizes.max())))
    worst = float((off / (share * sizes + roundings * noise)).max())
    return worst if math.isfinite(worst) else math.inf


def _usual(noise: Tensor, norms: Tensor, few: list[int]) -> Tensor:
    """What rounding would do to tensors of few numbers if it did as to those beside them.

    Args:
        noise: (T,) what was measured of each.
        norms: (T, 2) of the two that are right.
        few: places of those that have few numbers.

    Returns:
        (T,): the median share of their norms of the nearest larger tensors; 0 for a larger one, and
        where all those have next to no norm, so that their rounding is another's.
    """
    least, most = norms.aminmax(dim=1)
    large = (least > 0.0) & most.isfinite()
    large[few] = False
    (places,) = torch.where(large)
    usual = torch.zeros_like(noise)
    for place in few:
        alike = places[least[places] >= ALIKE * most[place]]
        near = alike[(alike - place).abs().argsort(stable=True)[:NEAR]]
        if len(near):
            usual[place] = most[place] * (noise[near] / least[near]).median()
    return usual.nan_to_num(0.0, posinf=0.0)
