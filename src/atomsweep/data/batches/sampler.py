"""Which structures a step trains on, as a pure function of (seed, step, rank)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atomsweep.data.mapped import take
from atomsweep.data.structure import Array

SHUFFLED_WHOLE = 1 << 23  # structures, 64 MiB of places: OC22 and all of OC20's sets up to 2M
ROUNDS = 8


class EpochSampler:
    """The order of training as a pure function of (seed, step), so that a run can resume anywhere.

    Every epoch is a new permutation (numpy's; of more than `SHUFFLED_WHOLE` structures one that
    takes no memory), cut into batches of `batch_size`; what is left over at its end
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
        self._epoch = -1
        self._order: Callable[[Array], Array]

    def indices(self, step: int) -> Array:
        """Structures of the batch of a step, counted from 0 over all epochs.

        Shape: (batch_size,).
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = _order(self.num, [self.seed, epoch])
            self._epoch = epoch
        return self._order(np.arange(within * self.batch_size, (within + 1) * self.batch_size))


def _order(num: int, seed: list[int]) -> Callable[[Array], Array]:
    """Which structures stand at some places of a random order of `num`."""
    if num > SHUFFLED_WHOLE:
        return _Shuffle(num, seed)
    order = np.random.default_rng(seed).permutation(num)
    return lambda places: order[places]


class _Shuffle:
    """A random permutation that is computed entry by entry, so that none of it is in memory.

    A Feistel network permutes 0 to 4^h - 1, the least power of 4 that is not below `num`; an entry
    beyond `num` is permuted again until it is not, which leaves a permutation of 0 to `num` - 1
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).

    Args:
        num: length.
        seed: of the permutation.
    """

    def __init__(self, num: int, seed: list[int]) -> None:
        self.num, half = num, -(-(num - 1).bit_length() // 2)
        self.half, self.mask = np.uint64(half), np.uint64((1 << half) - 1)
        self.keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: Array) -> Array:
        values = self._permuted(places.astype(np.uint64))
        while len(beyond := np.flatnonzero(values >= self.num)):
            values[beyond] = self._permuted(values[beyond])
        return values.astype(np.int64)

    def _permuted(self, values: Array) -> Array:
        left, right = values >> self.half, values & self.mask
        for key in self.keys:
            mixed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)  # SplitMix64's finaliser
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & self.mask)
        return left << self.half | right


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
                owner = deal(take(self.sizes, chosen[places]), self.world_size)
                places = places[owner == self.rank]
            found.append(Part(chosen[places], places))
        return found


class PackedSampler(EpochSampler):
    """`EpochSampler` over micro-batches that hold no more than fits: first fit, in order.

    A step's structures go, one after another, each into the first micro-batch that has room; these
    are dealt to the ranks in turn. Where there are fewer than ranks, those of most structures are
    cut in two. A rank may have one micro-batch more than another.

    Args:
        sizes: K of (num,), what each structure takes of each limit.
        limits: (1 + K,) what a micro-batch holds: structures, then of each of `sizes`.
        batch_size: structures of a step, over all ranks and micro-batches.
        seed: of the permutations.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ValueError: a structure alone does not fit, or there are fewer structures than ranks.
    """

    def __init__(
        self,
        sizes: Sequence[Array],
        limits: Array,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(sizes[0]), batch_size, seed)
        self.sizes, self.limits = sizes, np.asarray(limits)
        self.rank, self.world_size = rank, world_size
        largest = np.array([1, *(size.max() for size in sizes)])
        if (largest > self.limits).any():
            raise ValueError(
                f"a structure of {largest.tolist()} does not fit into a micro-batch of "
                f"{self.limits.tolist()}"
            )
        if self.batch_size < world_size:
            raise ValueError(
                f"a step of {self.batch_size} structures cannot be dealt to {world_size} ranks"
            )

    def parts(self, step: int) -> list[Part]:
        """This rank's structures of a step, for each micro-batch."""
        chosen = self.indices(step)
        takes = [np.ones_like(chosen), *(take(size, chosen) for size in self.sizes)]
        bins = first_fit(np.stack(takes, axis=1), self.limits)
        while len(bins) < self.world_size:
            most = max(range(len(bins)), key=lambda place: len(bins[place]))
            half = len(bins[most]) // 2
            bins[most : most + 1] = [bins[most][:half], bins[most][half:]]
        return [Part(chosen[places], places) for places in bins[self.rank :: self.world_size]]


def first_fit(sizes: Array, limits: Array) -> list[Array]:
    """Places of items in bins, each in the first that has room for it; ascending in each.

    Shape: (B, K), (K,) -> one (b,) for each bin.
    """
    bins: list[list[int]] = []
    room = np.empty((0, len(limits)), dtype=np.int64)
    for place, size in enumerate(np.asarray(sizes)):
        fits = np.flatnonzero((size <= room).all(1))
        if not len(fits):
            bins.append([])
            room = np.concatenate([room, np.asarray(limits)[None]])
            fits = np.array([len(bins) - 1])
        bins[fits[0]].append(place)
        room[fits[0]] -= size
    return [np.array(places) for places in bins]


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
