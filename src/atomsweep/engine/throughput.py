"""How fast the ranks train: rates from counts that the host has anyway, so no step waits."""

from collections.abc import Sequence

import torch
from torch_geometric.data import Batch

from atomsweep.engine.distributed import World
from atomsweep.tracking import schema

COUNTED = schema.RATES  # in the order of the counts: structures, atoms, edges


class Throughput:
    """Structures, atoms and edges that this rank has trained on, and the time that it took.

    Time is that of the host in steps of training; the loop calls `tick` where it has waited for the
    device, or the rates would be those of a queue. An entry covers one epoch, or as many as make
    `at_least` steps; after a resume it begins with the process.

    Args:
        world: the ranks.
        batch_size: structures of a step of all ranks.
        steps_per_epoch: of a step of all ranks too.
        step: at which this process begins.
        at_least: steps of an entry; epochs of small sets would fill the journal.
    """

    def __init__(
        self, world: World, batch_size: int, steps_per_epoch: int, step: int, at_least: int
    ) -> None:
        self.world, self.batch_size = world, batch_size
        self.steps_per_epoch, self.at_least = steps_per_epoch, at_least
        self.entered, self.entry_seconds = step, 0.0
        self._seen = world.waited
        self._begin(step)

    def _begin(self, step: int) -> None:
        self.begun, self.seconds, self.waited = step, 0.0, 0.0
        self.counts = [0, 0, 0]

    def count(self, batches: Sequence[Batch]) -> None:
        """Add the micro-batches of a step, by the shapes of their tensors."""
        for batch in batches:
            edges = batch.edge_index.shape[1] if "edge_index" in batch else 0
            for i, number in enumerate((len(batch.natoms), len(batch.pos), edges)):
                self.counts[i] += number

    def tick(self, seconds: float) -> None:
        """Add the time of a step."""
        self.seconds += seconds
        self.entry_seconds += seconds
        self.waited += self.world.waited - self._seen
        self._seen = self.world.waited

    def skip(self) -> None:
        """Messages since the last `tick` were not of training."""
        self._seen = self.world.waited

    def since_entry(self, step: int) -> dict[str, float]:
        """Structures per second since the last call, of all ranks and of each."""
        structures = (step - self.entered) * self.batch_size
        rate = structures / max(self.entry_seconds, 1e-9)
        self.entered, self.entry_seconds = step, 0.0
        return {
            _name(schema.STRUCTURES_PER_S): rate,
            _name(schema.STRUCTURES_PER_S_RANK): rate / self.world.size,
        }

    def due(self, step: int) -> bool:
        """Whether an epoch is over whose entry is worth a line. The same on all ranks."""
        return step % self.steps_per_epoch == 0 and step - self.begun >= self.at_least

    def of_epoch(self, step: int) -> dict[str, float]:
        """Rates since the last entry: of all ranks, of each, its waiting, and how unequal they are.

        All ranks call it together. The sum over ranks is the rate of all. The speed by which the
        slowest is held against the fastest is edges (or atoms, without edges) in the time in which
        a rank did not wait.
        """
        table = torch.zeros(self.world.size, 5, dtype=torch.float64)
        table[self.world.rank] = torch.tensor([*self.counts, self.seconds, self.waited])
        self.world.add(table)
        seconds = table[:, 3].clamp_min(1e-9)
        rates = table[:, :3] / seconds[:, None]  # (ranks, 3)
        found = {_name(schema.EPOCH): step / self.steps_per_epoch}
        found |= {_name(n): float(r) for n, r in zip(COUNTED, rates.sum(0), strict=True)}
        if self.world.size > 1:
            work = table[:, 2] if bool(table[:, 2].any()) else table[:, 1]
            speed = work / (seconds - table[:, 4]).clamp_min(1e-9)
            found[_name(schema.EPOCH_SLOWEST)] = float(speed.min() / speed.max())
            for rank in range(self.world.size):
                end = schema.OF_RANK.format(rank)
                wait = float(table[rank, 4] / seconds[rank])
                found[_name(schema.EPOCH_WAIT) + end] = wait
                found |= {
                    _name(n) + end: float(r) for n, r in zip(COUNTED, rates[rank], strict=True)
                }
        self._begin(step)
        return found


def _name(metric: str) -> str:
    return schema.metric_name(schema.TRAIN, metric)
