"""The batches of a run on its device: cut for ranks and micro-batches, and made ready ahead.

All that is random or searched is done here, by threads on the CPU: structures are read, turned
(`augment`), corrupted and their neighbours found (`Task.prepare`), and what a model wants to know
beyond edges is found (`ForceField.prepare`), in this order. For a compiled model ghosts fill the
batch up. Then it lies in pinned memory, is sent while the host goes on, and what the device does
with it is arithmetic.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import count

import numpy as np
import torch
from torch_geometric.data import Batch

from atomsweep.augment import StepRandom
from atomsweep.data.batches.ghosts import Shape, shape_of, with_ghosts, without_ghosts
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.sampler import BalancedSampler, PackedSampler, Part
from atomsweep.data.batches.tensors import to_device
from atomsweep.data.structure import Array
from atomsweep.engine.distributed import World
from atomsweep.engine.prefetch import prefetch
from atomsweep.engine.seeds import Purpose, mix
from atomsweep.engine.shapes import filled_shape, limits, shape_of_limits, usual_shape
from atomsweep.models.base import ForceField
from atomsweep.tasks.base import Task
from atomsweep.transfers import pinned

EVAL_SEED = 0  # of no run: curves of all seeds and settings are over the same structures

Augmentation = Callable[[Batch, StepRandom], Batch]


class StepBatches:
    """This rank's micro-batches of every step, a function of (seed, step) and of who holds what.

    What is random for a structure depends on the step and on `places` (B,), where its structures
    stand in the batch of the step, not on the rank.

    Args:
        data: training split.
        task: prepares each batch.
        model: likewise.
        batch_size: structures of a step, over all ranks and micro-batches.
        accumulate: micro-batches of a step.
        augment: changes a batch, or None.
        seed: of the run.
        world: the ranks.
        device: where the batches go.
        workers: threads that make batches ahead.
        batch_edges: most edges of a micro-batch, which is then packed (`PackedSampler`); None cuts
            a step into `accumulate` of them.
        fill: with ghosts, up to few shapes (`engine.shapes`), as a compiled model needs it.
    """

    def __init__(
        self,
        data: GraphDataset,
        task: Task,
        model: ForceField,
        batch_size: int,
        accumulate: int,
        augment: Augmentation | None,
        seed: int,
        world: World,
        device: torch.device,
        workers: int,
        batch_edges: int | None = None,
        fill: bool = False,
    ) -> None:
        self.data, self.augment, self.seed = data, augment, seed
        self.task, self.model = task, model
        self.device, self.workers = device, workers
        self.sampler: BalancedSampler | PackedSampler
        self.usual: Shape | None = None
        if batch_edges is not None:
            sizes, most = limits(data, batch_edges)
            self.sampler = PackedSampler(sizes, most, batch_size, seed, world.rank, world.size)
            self.usual = shape_of_limits(most) if fill else None
            return
        edges = data.num_edges
        work = edges if edges is not None else data.natoms
        self.sampler = BalancedSampler(work, batch_size, seed, world.rank, world.size, accumulate)
        if fill:
            structures = max(len(part.indices) for part in self.sampler.parts(0))
            self.usual = usual_shape(data, edges, structures)

    def start(self, step: int) -> Generator[list[Batch], None, None]:
        """Micro-batches of `step` and of every step after it; to be closed."""
        parts = ((later, self.sampler.parts(later)) for later in count(step))
        with closing(prefetch(self._ready, parts, self.workers)) as made:
            for batches in made:
                yield [self._sent(*pair) for pair in batches]

    def _sent(self, batch: Batch, real: Shape | None) -> Batch:
        batch = to_device(batch, self.device)
        return batch if real is None else without_ghosts(batch, real)

    def ids(self, step: int) -> str:
        """The structures of a step on all ranks, sid/fid."""
        batch = self.data.batch(self.sampler.indices(step))
        pairs = zip(batch.sid.tolist(), batch.fid.tolist(), strict=True)
        return ", ".join(f"{sid}/{fid}" for sid, fid in pairs)

    def _ready(self, item: tuple[int, list[Part]]) -> list[tuple[Batch, Shape | None]]:
        """Called in a thread of the loader."""
        step, parts = item
        turn, corrupt = (mix(self.seed, p, step) for p in (Purpose.AUGMENT, Purpose.CORRUPT))
        made: list[tuple[Batch, Shape | None]] = []
        for indices, places in parts:
            batch = self.data.batch(indices)
            where = torch.from_numpy(places if "kept" not in batch else places[batch.kept])
            if self.augment is not None:
                batch = self.augment(batch, StepRandom(turn, where, self.sampler.batch_size))
            batch.places = where
            batch = self.task.prepare(batch, corrupt)
            batch = self.model.prepare(batch)
            real = None
            if self.usual is not None:
                real = shape_of(batch)
                assert self.model.cutoff is not None
                batch = with_ghosts(batch, filled_shape(real, self.usual), self.model.cutoff)
            made.append((pinned(batch, self.device), real))
        return made


def eval_shares(
    data: GraphDataset,
    model: ForceField,
    batch_size: int,
    world: World,
    device: torch.device,
    workers: int,
    check: Callable[[], None],
    together: bool = False,
    frames: int | None = None,
) -> Generator[Batch, None, None]:
    """This rank's batches of a split, every `world.size`-th structure; in all, each once.

    Args:
        data: the split.
        model: prepares each batch.
        batch_size: structures of a batch.
        world: the ranks.
        device: where they will go.
        workers: threads that make batches ahead.
        check: called equally often on all ranks, before each batch of the rank that has most.
        together: all ranks get equally many batches; one that is `surplus` does not count.
        frames: structures to take, drawn from the split; None takes all.
    """
    chosen = np.arange(len(data)) if frames is None else eval_sample(len(data), frames)
    mine = chosen[world.rank :: world.size]
    rounds = -(-len(chosen) // (world.size * batch_size))
    shares = [mine[i * batch_size : (i + 1) * batch_size] for i in range(rounds)]

    def read(share: Array) -> Batch:
        batch = ready(data, model, share if len(share) else np.zeros(1, dtype=int), device)
        if not len(share):
            batch.surplus = True
        return batch

    with closing(prefetch(read, [s for s in shares if len(s) or together], workers)) as made:
        for share in shares:
            check()
            if len(share) or together:
                yield next(made)


def eval_sample(num: int, frames: int) -> Array:
    """Places of at most `frames` of `num` structures, drawn at random, the same ones in every run.

    Shape: (min(frames, num),), ascending.
    """
    if frames >= num:
        return np.arange(num)
    return np.sort(np.random.default_rng(EVAL_SEED).choice(num, frames, replace=False))


def ready(data: GraphDataset, model: ForceField, places: Array, device: torch.device) -> Batch:
    """Some structures as they are, with all that a model prepares, for `to_device`.

    Whoever asks a model for structures of a data set outside of training takes them from here, so
    that what is told or timed is the forward that was trained.

    Args:
        data: structures with their graphs.
        model: prepares the batch.
        places: of the structures in `data`.
        device: where they will go.

    Shape: (B,).
    """
    return pinned(model.prepare(data.batch(places)), device)
