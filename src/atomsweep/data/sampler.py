"""Batches of many ranks with equal work, as a pure function of (seed, step, rank)."""

from __future__ import annotations

import heapq

import numpy as np

from atomsweep.data.base import Array
from atomsweep.data.batching import EpochSampler


class BalancedSampler(EpochSampler):
    """`EpochSampler` over ranks: each step's structures are dealt out so that all do equal work.

    The structures of a step are those that one process with `world_size` times the batch would
    take; the largest ones are dealt first, each to the rank with the least work that has room. So
    no rank talks to another, and a run resumes in the middle of an epoch on the same batches.

    Args:
        sizes: (num,) work of each structure: its atoms, or better its edges.
        batch_size: structures of each rank in a step.
        seed: of the permutations.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, sizes: Array, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        if len(sizes) < world_size:
            raise ValueError(
                f"{len(sizes)} structures cannot be dealt to {world_size} processes; use fewer"
            )
        super().__init__(len(sizes), batch_size * world_size, seed)
        self.sizes = np.asarray(sizes)
        self.rank, self.world_size = rank, world_size

    def indices(self, step: int) -> Array:
        """Structures of this rank's batch of a step, in the order of the permutation.

        Shape: (batch_size,); where the set is smaller than a step of all ranks, its share.
        """
        chosen = super().indices(step)
        if self.world_size == 1:
            return chosen
        return chosen[deal(self.sizes[chosen], self.world_size) == self.rank]


def deal(sizes: Array, hands: int) -> Array:
    """(B,) which hand gets each item, so that counts differ by at most one and sums by little.

    Shape: (B,) -> (B,).
    """
    room = [len(sizes) // hands + (hand < len(sizes) % hands) for hand in range(hands)]
    heap = [(0.0, hand) for hand in range(hands)]
    owner = np.empty(len(sizes), dtype=np.int64)
    for item in np.argsort(-np.asarray(sizes, dtype=np.float64), kind="stable").tolist():
        load, hand = heapq.heappop(heap)
        owner[item] = hand
        room[hand] -= 1
        if room[hand]:
            heapq.heappush(heap, (load + float(sizes[item]), hand))
    return owner
