"""Relaxations of many structures: those that are done leave the batch, others take their place."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch_geometric.data import Batch

from atomsweep.data.structure import Array, Structure, structure_fault
from atomsweep.tasks.relax.lbfgs import LBFGS, BatchedLBFGS, longest_row
from atomsweep.tasks.relax.potentials import (
    Forces,
    Potential,
    batch_of,
    joined_batches,
    part_of,
)
from atomsweep.transfers import read, sent


@dataclass
class Relaxed:
    """How one relaxation ended.

    Attributes:
        index: place of the structure in what was given.
        structure: last positions, with the potential's forces there and its energy if it has one.
        converged: no free atom feels `fmax` or more.
        steps: taken.
        fmax: largest force on a free atom at the end, eV/Å.
        fault: why it failed, in words; None unless it did. The positions are those at which it
            failed.
        path: positions (N, 3), energy and forces of every step, if trajectories were asked for.
    """

    index: int
    structure: Structure
    converged: bool
    steps: int
    fmax: float
    fault: str | None = None
    path: list[tuple[Array, float | None, Array]] = field(default_factory=list)


def relax(
    structures: Iterable[Structure],
    potential: Potential,
    optimizer: LBFGS = LBFGS(),  # noqa: B008 (frozen)
    fmax: float = 0.05,
    steps: int = 200,
    batch_size: int = 32,
    paths: bool = False,
) -> Iterator[Relaxed]:
    """Relax structures by batched L-BFGS, and give each back when it is done.

    As ASE's LBFGS with FixAtoms: forces on fixed atoms count as zero; a structure is done when the
    largest force on an atom is below `fmax`, looked at before every step, or after `steps` steps.
    A structure's path is its own whatever else is in the batch. One that cannot be evaluated (an
    element that the potential does not know, atoms on one spot, a force that is not finite) fails
    with a sentence and the others go on.

    Args:
        structures: initial ones; read when there is room for them.
        potential: energies and forces.
        optimizer: settings of L-BFGS.
        fmax: eV/Å; 0 makes every structure take all steps.
        steps: most steps of one structure.
        batch_size: structures relaxed at once.
        paths: keep every step.

    Yields:
        Results in the order in which relaxations end.

    Raises:
        ValueError: a number out of its range.
    """
    if fmax < 0.0 or steps < 0 or batch_size < 1:
        raise ValueError(
            "fmax and steps must be at least 0 and batch_size at least 1, got "
            f"{fmax}, {steps} and {batch_size}"
        )
    waiting = enumerate(structures)
    active = _Active(potential, optimizer, fmax, steps, paths)
    while True:
        newcomers: list[tuple[int, Structure]] = []
        while len(active) + len(newcomers) < batch_size:
            if (following := next(waiting, None)) is None:
                break
            index, structure = following
            fault = structure_fault(structure) or potential.refusal(structure)
            if fault is not None:
                yield Relaxed(index, structure, False, 0, float("nan"), fault)
            else:
                newcomers.append((index, structure))
        active.admit(newcomers)
        if not len(active):
            return
        yield from active.advance()


@dataclass
class _Seat:
    """What is known of a structure in the batch beside its tensors."""

    index: int
    start: Structure
    path: list[tuple[Array, float | None, Array]] = field(default_factory=list)


class _Active:
    """The structures that are being relaxed: tensors, optimiser, and a seat for each."""

    def __init__(
        self, potential: Potential, optimizer: LBFGS, fmax: float, steps: int, paths: bool
    ) -> None:
        self.potential, self.settings = potential, optimizer
        self.fmax, self.steps, self.paths = fmax, steps, paths
        self.seats: list[_Seat] = []
        self.taken = np.zeros(0, dtype=np.int64)  # (B,) steps of each
        self.immobile = np.zeros(0, dtype=bool)  # (B,) all atoms are fixed
        self.batch: Batch | None = None
        self.optimizer: BatchedLBFGS | None = None

    def __len__(self) -> int:
        return len(self.seats)

    def admit(self, newcomers: list[tuple[int, Structure]]) -> None:
        """Seat structures behind those that are there."""
        if not newcomers:
            return
        self.seats += [_Seat(index, structure) for index, structure in newcomers]
        immobile = [bool(structure.fixed.all()) for _, structure in newcomers]
        self.taken = np.append(self.taken, np.zeros(len(newcomers), dtype=np.int64))
        self.immobile = np.append(self.immobile, immobile)
        entering = batch_of([structure for _, structure in newcomers], self.potential.device)
        if self.batch is None or self.optimizer is None:
            self.batch = entering
            self.optimizer = BatchedLBFGS(self.settings, entering.batch, len(self.seats))
            return
        self.batch = joined_batches(self.batch, entering)
        self.optimizer.enter(self.batch.batch, len(self.seats))

    def advance(self) -> Iterator[Relaxed]:
        """Evaluate once; give back what is done, move the others by one step."""
        batch, optimizer = self.batch, self.optimizer
        assert batch is not None
        assert optimizer is not None
        found = self.potential(batch)
        held = torch.where(batch.fixed[:, None], 0.0, found.forces)
        worst = longest_row(held, batch.batch, len(self.seats)).cpu().numpy()
        faults = dict(found.faults)
        for number in np.flatnonzero(~(worst < np.inf)).tolist():
            faults.setdefault(number, "the potential gives forces that are NaN or infinite")
        done = (worst < self.fmax) | (self.taken >= self.steps) | self.immobile
        done[list(faults)] = True
        if self.paths or done.any():
            yield from self._results(found, worst, faults, done)
        if done.any():
            stay, atoms = np.flatnonzero(~done), np.flatnonzero(np.repeat(~done, self._natoms()))
            numbers = sent(torch.from_numpy(np.concatenate([stay, atoms])), batch.pos.device)
            there, their_atoms = numbers.split([len(stay), len(atoms)])
            held = held.index_select(0, their_atoms)
            self.batch = batch = part_of(batch, there, their_atoms)
            self.seats = [self.seats[number] for number in stay]
            self.taken, self.immobile = self.taken[stay], self.immobile[stay]
            optimizer.keep(there, their_atoms, batch.batch)
        if self.seats:
            batch.pos = batch.pos + optimizer.step(batch.pos, held)
            self.taken += 1

    def _natoms(self) -> Array:
        """(B,) atoms of each, known on the host."""
        return np.array([seat.start.natoms for seat in self.seats], dtype=np.int64)

    def _results(
        self, found: Forces, worst: Array, faults: dict[int, str], done: Array
    ) -> Iterator[Relaxed]:
        assert self.batch is not None
        wanted = [self.batch.pos, found.forces, *([] if found.energy is None else [found.energy])]
        pos, forces, *told = (part.numpy() for part in read(*wanted))
        energies = told[0].tolist() if told else [None] * len(self.seats)
        ptr = np.concatenate([[0], np.cumsum(self._natoms())])
        for number, seat in enumerate(self.seats):
            if not (self.paths or done[number]):
                continue
            atoms = slice(ptr[number], ptr[number + 1])
            fault, here, energy = faults.get(number), pos[atoms].copy(), energies[number]
            if self.paths and fault is None:
                seat.path.append((here, energy, forces[atoms].copy()))
            if not done[number]:
                continue
            converged = fault is None and (worst[number] < self.fmax or self.immobile[number])
            structure = replace(
                seat.start,
                pos=here,
                forces=None if fault is not None else forces[atoms].copy(),
                energy=None if fault is not None else energy,
            )
            yield Relaxed(
                seat.index,
                structure,
                bool(converged),
                int(self.taken[number]),
                float(worst[number]),
                fault,
                seat.path,
            )
