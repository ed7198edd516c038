"""Random rotations of the structures of a batch, for models that learn rotations from data.

The graph is left as it is: a rotation keeps distances, so `edge_index` and `cell_offsets` stay.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys

ATOM_VECTORS = (keys.POS, keys.FORCES)  # (N, 3) fields that turn with their structure


class StepRandom:
    """Random numbers of a step that belong to a structure, whichever process or micro-batch has it.

    All processes draw for the whole batch of the step, and each keeps the rows of its structures.

    Args:
        seed: of one purpose at one step.
        places: (B,) where the structures of this batch stand in the whole one.
        total: structures in the whole batch.
    """

    def __init__(self, seed: int, places: Tensor, total: int) -> None:
        self.seed, self.places, self.total = seed, places, total
        self._generator = torch.Generator().manual_seed(seed)

    @classmethod
    def alone(cls, seed: int, num_structures: int) -> "StepRandom":
        """For a batch that is the whole one."""
        return cls(seed, torch.arange(num_structures), num_structures)

    def rows(self, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Rows of this batch's structures in `draw(total, generator)`, on the CPU.

        Shape: (total, ...) -> (B, ...).
        """
        return draw(self.total, self._generator)[self.places]

    def generators(self) -> Iterator[torch.Generator]:
        """A generator for each structure, for draws whose number differs between structures."""
        for seed in self.rows(lambda n, g: torch.randint(1 << 62, (n,), generator=g)).tolist():
            yield torch.Generator().manual_seed(seed)


class RandomRotation(ABC):
    """One rotation for each structure, applied to positions, forces and cell together."""

    @abstractmethod
    def draw(self, num_structures: int, generator: torch.Generator) -> Tensor:
        """Rotation matrices, float64 on the CPU. Shape: (B, 3, 3)."""

    def __call__(self, batch: Batch, random: StepRandom) -> Batch:
        """A rotated copy of the batch; fields that do not turn are shared with the original.

        Args:
            batch: structures; `forces` may be absent.
            random: source of the rotations, on the CPU, so that a seed gives the same rotations on
                every device and any number of processes.
        """
        rotation = random.rows(self.draw).to(batch.pos)  # (B, 3, 3)
        rotated = copy(batch)
        rotated[keys.CELL] = torch.einsum("bij,bkj->bki", rotation, batch.cell)
        by_atom = rotation[batch.batch]  # (N, 3, 3)
        for name in ATOM_VECTORS:
            if name in batch:
                rotated[name] = torch.einsum("nij,nj->ni", by_atom, batch[name])
        return rotated


class RotateZ(RandomRotation):
    """A uniform angle about z, the normal of the surface; ForceNet, arXiv:2103.01436, Sec. 3.2."""

    def draw(self, num_structures: int, generator: torch.Generator) -> Tensor:
        """Rotation matrices. Shape: (B, 3, 3)."""
        turn = torch.rand(num_structures, generator=generator, dtype=torch.float64)
        cos, sin = torch.cos(2 * torch.pi * turn), torch.sin(2 * torch.pi * turn)
        zero, one = torch.zeros_like(turn), torch.ones_like(turn)
        rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
        return torch.stack(rows, dim=-1).view(-1, 3, 3)


class RotateSO3(RandomRotation):
    """A uniform rotation in space: a normalised Gaussian quaternion (Shoemake, 1992)."""

    def draw(self, num_structures: int, generator: torch.Generator) -> Tensor:
        """Rotation matrices. Shape: (B, 3, 3)."""
        quaternion = torch.randn(num_structures, 4, generator=generator, dtype=torch.float64)
        w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
        rows = [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ]
        return torch.stack(rows, dim=-1).view(-1, 3, 3)
