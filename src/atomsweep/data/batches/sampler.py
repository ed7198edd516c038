"""Batches of many ranks with equal work, as a pure function of (seed, step, rank)."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from atomsweep.data.batches.graphs import EpochSampler
from atomsweep.data.structure import Array


class Part(NamedTuple):
    """A rank's structures of one micro-batch.

    Attributes:
        indices: (b,) in the data set.
        places: (b,) in the whole batch of the step, ascending.
    """

    indices: Array
    places: Array


class BalancedSampler(EpochSampler):
    """`EpochSampler` over micro-batches and ranks: each gets its part of a step's structures.

    A step's structures are those that one process takes, cut into the micro-batches that it cuts
    them into; each of those is dealt out so that all ranks do equal work, the largest structure
    first and each to the rank with the least work that has room. So no rank talks to another, a run
    resumes in the middle of an epoch on the same batches, and what is computed of a micro-batch as
    a whole (a count, batch norm) is the same on any number of ranks.

    Args:
        sizes: (num,) work of each structure: its edges, or else its atoms.
        batch_size: structures of a step, over all ranks and micro-batches.
        seed: of the permutations.
        rank: of this process.
        world_size: number of processes.
        accumulate: micro-batches of a step.

    Raises:
        ValueError: a micro-batch has fewer structures than there are ranks.
    """

    def __init__(
        self,
        sizes: Array,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        super().__init__(len(sizes), batch_size, seed)
        self.sizes = np.asarray(sizes)
        self.rank, self.world_size = rank, world_size
        self.cut = -(-self.batch_size // accumulate)
        smallest = self.batch_size % self.cut or self.cut
        if smallest < world_size:
            raise ValueError(
                f"a micro-batch of {smallest} structures cannot be dealt to {world_size} ranks: "
                f"optim.batch_size={batch_size} is that of a step of all ranks, cut into "
                f"optim.accumulate={accumulate} and at most the training split ({len(sizes)}); "
                "use fewer ranks, a larger batch or fewer micro-batches"
            )

    def parts(self, step: int) -> list[Part]:
        """This rank's structures of a step, for each micro-batch."""
        chosen = self.indices(step)
        found = []
        for start in range(0, len(chosen), self.cut):
            places = np.arange(start, min(start + self.cut, len(chosen)))
            if self.world_size > 1:
                owner = deal(self.sizes[chosen[places]], self.world_size)
                places = places[owner == self.rank]
            found.append(Part(chosen[places], places))
        return found


def deal(sizes: Array, hands: int) -> Array:
    """(B,) which hand gets each item, so that counts differ by at most one and sums by little.

    Shape: (B,) -> (B,).
    """
    room = [len(sizes) // hands + (hand < len(sizes) % hands) for hand in range(hands)]
    heap = [(0.0, hand) for hand in range(hands) if room[hand]]
    owner = np.empty(len(sizes), dtype=np.int64)
    for item in np.argsort(-np.asarray(sizes, dtype=np.float64), kind="stable").tolist():
        load, hand = heapq.heappop(heap)
        owner[item] = hand
        room[hand] -= 1
        if room[hand]:
            heapq.heappush(heap, (load + float(sizes[item]), hand))
    return owner
