"""One seed makes a run: every random choice is a function of (seed, purpose, step)."""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream of random numbers is for; streams of one step never meet."""

    INITIALISE = 0
    STEP = 1
    AUGMENT = 2
    CORRUPT = 3


def mix(seed: int, purpose: Purpose, step: int = 0, rank: int = 0) -> int:
    """A 63-bit seed for one purpose at one step; another on each rank where it is given."""
    entropy = [seed, int(purpose), step, *([rank] if rank else [])]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, purpose: Purpose, step: int = 0) -> torch.Generator:
    """A CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(mix(seed, purpose, step))
