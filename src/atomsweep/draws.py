"""Random numbers by counter: each is a function of (seed, stream, counters) alone.

So what a structure draws depends neither on the other structures of its batch, nor on how the batch
is divided among ranks and micro-batches, nor on the device, and nothing waits for the CPU.
"""

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit integer
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def uniform(seed: int, stream: int, *counters: Tensor) -> Tensor:
    """Uniform numbers in (0, 1), float64: SplitMix64's finaliser over a chain of counters.

    Steele, Lea and Flood, OOPSLA 2014. Integer arithmetic modulo 2^64, so equal on every device.

    Args:
        seed: 63 bits.
        stream: what the numbers are for.
        counters: int64, broadcast against one another.
    """
    words = [torch.full_like(counters[0], seed), torch.full_like(counters[0], stream), *counters]
    state = torch.zeros_like(counters[0])
    for word in words:
        state = _mixed(state + (word + 1) * _GOLDEN)
    return (_shifted(state, 11).double() + 0.5) * 2.0**-53


def normal(seed: int, stream: int, *counters: Tensor) -> Tensor:
    """Standard normal numbers, float64, by Box and Muller."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(seed, 2 * stream, *counters)))
    return radius * torch.cos(2.0 * math.pi * uniform(seed, 2 * stream + 1, *counters))


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
