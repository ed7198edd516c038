"""Which structures a step trains on, as a pure function of (seed, step, rank)."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from atomsweep.data.structure import Array


class EpochSampler:
    """The order of training as a pure function of (seed, step), so that a run can resume anywhere.

    Every epoch is a new permutation, cut into batches of `batch_size`; what is left over at its end
    is dropped (other structures in every epoch), so all batches are equal. A set smaller than
    `batch_size` makes one batch of all.

    Args:
        num: number of structures.
        batch_size: structures in a batch.
        seed: of the permutations.
    """

    def __init__(self, num: int, batch_size: int, seed: int) -> None:
        if num < 1 or batch_size < 1:
            raise ValueError(f"num and batch_size must be at least 1, got {num} and {batch_size}")
        self.num = num
        self.batch_size = min(batch_size, num)
        self.seed = seed
        self.steps_per_epoch = num // self.batch_size
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def indices(self, step: int) -> Array:
        """Structures of the batch of a step, counted from 0 over all epochs.

        Shape: (batch_size,).
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num)
            self._epoch = epoch
        return self._order[within * self.batch_size : (within + 1) * self.batch_size]


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
