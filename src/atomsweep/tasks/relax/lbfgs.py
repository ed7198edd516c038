"""L-BFGS for many structures at once: one arithmetic, a history for each structure."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LBFGS:
    """Settings of the optimiser; the defaults are those of `ase.optimize.LBFGS`.

    Attributes:
        maxstep: longest move of an atom in one step, Å; longer steps are shortened as a whole.
        memory: pairs of steps and gradient changes that are kept.
        damping: factor on every step.
        alpha: curvature of the first guess, eV/Å².
    """

    maxstep: float = 0.2
    memory: int = 100
    damping: float = 1.0
    alpha: float = 70.0

    def __post_init__(self) -> None:
        if not 0.0 < self.maxstep <= 1.0:
            raise ValueError(f"maxstep must lie in (0, 1] Å, got {self.maxstep}")
        if self.memory < 1 or self.damping <= 0.0 or self.alpha <= 0.0:
            raise ValueError(
                "memory must be at least 1, damping and alpha positive, got "
                f"{self.memory}, {self.damping} and {self.alpha}"
            )


class BatchedLBFGS:
    """The two-loop recursion (Nocedal, Math. Comp. 35 (1980) 773) as ASE does it, for a batch.

    Dot products are taken over each structure alone, so a path does not depend on the batch. All
    structures step together, so the pairs of one age lie in one tensor, and a structure that
    entered later has zeros in the older ones, which change nothing. Where a step or a gradient
    change is zero ASE divides by zero; here the pair is left out.

    Args:
        settings: of the optimiser.
        structure: (N,) structure of each atom.
        count: number of structures B.
    """

    def __init__(self, settings: LBFGS, structure: Tensor, count: int) -> None:
        self.settings = settings
        self.structure, self.count = structure, count
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=settings.memory)
        self._last: tuple[Tensor, Tensor] | None = None  # positions and forces of the last step
        self._stepped = torch.zeros(count, dtype=torch.bool, device=structure.device)

    def step(self, pos: Tensor, forces: Tensor) -> Tensor:
        """Displacements (Å) from positions and forces (eV/Å) on them, zero on fixed atoms.

        Shape: (N, 3) float64, (N, 3) float64 -> (N, 3).
        """
        if self._last is not None:
            moved = self._stepped[self.structure][:, None]
            step = torch.where(moved, pos - self._last[0], 0.0)
            change = torch.where(moved, self._last[1] - forces, 0.0)  # of the gradient
            curvature = self._dot(change, step)
            rho = torch.where(curvature != 0.0, 1.0 / curvature, 0.0)
            self._pairs.append((step, change, rho))
        direction = -self._two_loops(-forces)
        longest = self._longest(direction)
        too_long = longest >= self.settings.maxstep
        scale = torch.where(too_long, self.settings.maxstep / longest, 1.0)
        self._last = pos, forces
        self._stepped.fill_(True)
        return direction * scale[self.structure, None] * self.settings.damping

    def keep(self, stay: Tensor, atoms: Tensor, structure: Tensor) -> None:
        """Let all structures but some leave. Nothing waits for the device.

        Args:
            stay: numbers of the structures that stay, ascending.
            atoms: numbers of their atoms, ascending.
            structure: structure of each atom afterwards.

        Shape: (B',), (N',), (N',).
        """
        self._change(lambda rows: rows.index_select(0, atoms), lambda v: v.index_select(0, stay))
        self.structure, self.count = structure, len(stay)

    def enter(self, structure: Tensor, count: int) -> None:
        """Let structures enter behind those that are there.

        Args:
            structure: (N',) structure of each atom afterwards.
            count: number of structures afterwards.
        """
        new_atoms, new = len(structure) - len(self.structure), count - self.count
        self._change(
            lambda rows: torch.cat([rows, rows.new_zeros(new_atoms, 3)]),
            lambda values: torch.cat([values, values.new_zeros(new)]),
        )
        self.structure, self.count = structure, count

    def _change(self, rows: Callable[[Tensor], Tensor], values: Callable[[Tensor], Tensor]) -> None:
        """All that is of atoms (N, 3), and all that is of structures (B,)."""
        pairs = [(rows(s), rows(y), values(rho)) for s, y, rho in self._pairs]
        self._pairs = deque(pairs, maxlen=self.settings.memory)
        if self._last is not None:
            self._last = rows(self._last[0]), rows(self._last[1])
        self._stepped = values(self._stepped)

    def _two_loops(self, gradient: Tensor) -> Tensor:
        shares = []
        q = gradient
        for step, change, rho in reversed(self._pairs):
            share = rho * self._dot(step, q)
            q = q - share[self.structure, None] * change
            shares.append(share)
        q = q * (1.0 / self.settings.alpha)
        for (step, change, rho), share in zip(self._pairs, reversed(shares), strict=True):
            back = rho * self._dot(change, q)
            q = q + (share - back)[self.structure, None] * step
        return q

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, 3), (N, 3) -> (B,); atoms are added in their order, whatever else is in the batch."""
        return a.new_zeros(self.count).index_add_(0, self.structure, _inner(a, b))

    def _longest(self, a: Tensor) -> Tensor:
        return longest_row(a, self.structure, self.count)


def longest_row(a: Tensor, structure: Tensor, count: int) -> Tensor:
    """Largest norm of a row of each structure, NaN where one is NaN. Shape: (N, 3) -> (B,)."""
    norms = _inner(a, a).sqrt()
    return a.new_zeros(count).scatter_reduce_(0, structure, norms, "amax")


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """(N, 3), (N, 3) -> (N,), without a reduction whose order depends on N."""
    product = a * b
    return product[:, 0] + product[:, 1] + product[:, 2]
