"""The ways between host and device: sent without a wait, and read with one wait for all."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=Any)  # a tensor, or a batch of them


def pinned(values: T, device: torch.device) -> T:
    """A tensor or batch of the host in memory that a GPU copies from while the host goes on."""
    return values if device.type in ("cpu", "mps", "meta") else values.pin_memory()


def sent(values: T, device: torch.device) -> T:
    """A tensor or batch of the host on a device; nothing waits."""
    return pinned(values, device).to(device, non_blocking=True)


def read(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one device on the host, bit by bit, in one copy: the host waits once for all.

    What is on the CPU already comes as it is.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    return unpacked(packed(tensors).cpu(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Bytes of some tensors of one device, one after another. Shape: -> (bytes,) uint8."""
    return torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors])


def unpacked(raw: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What `packed` has put together, in the types and shapes of `like`. Shape: (bytes,) uint8."""
    parts = raw.split([tensor.numel() * tensor.element_size() for tensor in like])
    return [  # clones, for each type wants to begin at a multiple of its size
        part.clone().view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, like, strict=True)
    ]
