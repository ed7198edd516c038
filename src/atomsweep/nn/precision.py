"""Where autocast must not reach."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager:
    """A block in which autocast is off on the device of `like`; it casts nothing by itself."""
    if like.is_meta:  # has no autocast
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
