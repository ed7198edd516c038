"""Whether numbers are of the units that were said: what a file in eV and Å cannot hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from atomsweep.data.frames import Reader
from atomsweep.data.normalizer import spacing_fault
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import Part, frames_of
from atomsweep.data.structure import (
    MAX_ATOMIC_NUMBER,
    Array,
    DataError,
    Structure,
    structure_fault,
)
from atomsweep.units import BOHR, ENERGY_UNITS, FORCE_UNITS, HARTREE, LabelUnits

MOST_LEFT_OUT = 0.2  # of all frames
FEW = 4  # frames: nothing is to be learned from them
USUAL = 10.0  # eV/Å: the median force of data lies far below
SAMPLE = 200  # places in a data set that are looked at
ENOUGH = 20  # frames or pairs, from which something is concluded
ALL_ELECTRONS = (0.98, 1.04)  # of the atoms' energies: what molecules and solids of them have
NEAR = 0.04  # relative: how well the work of forces tells a unit
STEP = 0.3  # Å: the farthest that an atom moves between frames whose work is taken
_DIFFERENCES = 4096
_TOGETHER = 64  # frames whose forces are counted at once
_STEPS = sorted(  # eV, of float32 numbers of 1 to 10 million
    (unit * 2.0**power for unit in ENERGY_UNITS.values() for power in range(-23, 1)), reverse=True
)
_BINS = np.concatenate([[0.0], np.geomspace(1e-4, 1e6, 501)])  # eV/Å, 5 % each

log = logging.getLogger(__name__)


def atoms_energy(atomic_numbers: Array) -> float:
    """Energy of all electrons of free atoms, hartree, of light ones within 2 %, of others better.

    The Thomas-Fermi energy with Scott's and Schwinger's corrections, -0.7687 Z^(7/3) + Z²/2 -
    0.2699 Z^(5/3) (Schwinger, Phys. Rev. A 24, 2353, 1981).
    """
    return float(_ATOMS[atomic_numbers].sum())


_Z = np.arange(MAX_ATOMIC_NUMBER + 1, dtype=np.float64)
_ATOMS = -0.7687 * _Z ** (7 / 3) + 0.5 * _Z**2 - 0.2699 * _Z ** (5 / 3)


class Histogram:
    """Numbers counted between bins, many at once: `np.histogram` takes as long for few.

    Args:
        bins: (B,) ascending.
    """

    def __init__(self, bins: Array) -> None:
        self.bins = bins
        self._counts = np.zeros(len(bins) - 1, dtype=np.int64)
        self._waiting: list[Array] = []

    def add(self, values: Array) -> None:
        """Take numbers. Shape: (K,)."""
        self._waiting.append(values)
        if len(self._waiting) == _TOGETHER:
            self._count()

    def _count(self) -> None:
        if self._waiting:
            self._counts += np.histogram(np.concatenate(self._waiting), self.bins)[0]
            self._waiting = []

    def merge(self, other: Histogram) -> None:
        """Take the numbers of another of the same bins."""
        self._counts = self.counts + other.counts

    @property
    def counts(self) -> Array:
        """(B - 1,) int64."""
        self._count()
        return self._counts


class EnergyGrid:
    """Whether energies were rounded to float32 before something was subtracted from them.

    Then they are no float32 numbers any more, but those of one composition still differ by whole
    steps, a power of 2 in the unit that they were rounded in. What is subtracted must be the same
    for frames of one composition, as linear references and a mean are; references of each system
    hide the steps. A few thousand differences are kept, whatever the number of frames.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, float] = {}
        self._differences: list[float] = []
        self._taken: list[tuple[bytes, float]] = []

    def add(self, structure: Structure) -> None:
        """Take a frame."""
        if structure.energy is not None and len(self._differences) < _DIFFERENCES:
            numbers = np.sort(structure.atomic_numbers.astype(np.uint8))
            self._take(numbers.tobytes(), structure.energy)

    def merge(self, other: EnergyGrid) -> None:
        """Take the frames of another, as if each had been added."""
        for composition, energy in other._taken:
            self._take(composition, energy)

    def _take(self, composition: bytes, energy: float) -> None:
        if len(self._differences) >= _DIFFERENCES:
            return
        if composition in self._first:
            self._differences.append(energy - self._first[composition])
        elif len(self._first) < _DIFFERENCES:
            self._first[composition] = energy
        else:
            return
        self._taken.append((composition, energy))

    @property
    def step(self) -> float:
        """The step, eV; 0 where there is none, or too few frames tell."""
        differences = np.unique(np.abs(self._differences))
        differences = differences[differences > 0]
        if len(differences) < ENOUGH:
            return 0.0
        for step in _STEPS:
            multiples = differences / step
            if (np.abs(multiples - np.rint(multiples)) < 1e-3).all():
                return step
        return 0.0

    @property
    def fault(self) -> str | None:
        """What is wrong, or None."""
        return spacing_fault(self.step, float(np.std(self._differences or [0.0])))


@dataclass
class UnitSigns:
    """What tells the units of labels that are taken for eV and eV/Å; a few numbers in all.

    Energies of all electrons tell theirs, as they are nearly those of the free atoms. Of frames
    that follow one another the work of the forces must be the change of energy: the ratio tells the
    unit of one against the other, whatever the electrons.

    Attributes:
        energies: frames with an energy, and of those by the unit that they look like.
        forces: histogram over 5 % of |F| of free atoms.
        grid: of the energies.
        pairs: of frames whose work was taken; sums of ΔE², W² and ΔE W beside it.
    """

    energies: int = 0
    units: dict[str, int] = field(default_factory=dict)
    forces: Histogram = field(default_factory=lambda: Histogram(_BINS))
    grid: EnergyGrid = field(default_factory=EnergyGrid)
    pairs: int = 0
    _sums: Array = field(default_factory=lambda: np.zeros(3))
    _first: Structure | None = None
    _before: Structure | None = None

    def add(self, structure: Structure) -> None:
        """Take a frame; what follows the one before it in its file also makes a pair."""
        if structure.forces is not None:
            sizes = np.linalg.norm(structure.forces[~structure.fixed], axis=1)
            self.forces.add(sizes)
        if structure.energy is not None:
            self.grid.add(structure)
            self.energies += 1
            ratio = structure.energy / atoms_energy(structure.atomic_numbers)
            for name in ("hartree", "kcal/mol", "kJ/mol"):
                low, high = (x * HARTREE / ENERGY_UNITS[name] for x in ALL_ELECTRONS)
                if low < ratio < high and structure.atomic_numbers.max() > 2:
                    self.units[name] = self.units.get(name, 0) + 1
        self._add_pair(structure)
        self._first = structure if self._first is None else self._first
        self._before = structure

    def merge(self, other: UnitSigns) -> None:
        """Take the frames of another, which follow."""
        self.energies += other.energies
        self.forces.merge(other.forces)
        self.grid.merge(other.grid)
        for name, count in other.units.items():
            self.units[name] = self.units.get(name, 0) + count
        if other._first is not None:
            self._add_pair(other._first)
            self._first = other._first if self._first is None else self._first
            self._before = other._before
        self.pairs += other.pairs
        self._sums += other._sums

    def _add_pair(self, structure: Structure) -> None:
        before = self._before
        if (
            before is None
            or before.energy is None
            or structure.energy is None
            or before.forces is None
            or structure.forces is None
            or before.sid != structure.sid
            or not np.array_equal(before.atomic_numbers, structure.atomic_numbers)
            or not np.array_equal(before.cell, structure.cell)
        ):
            return
        moved = structure.pos.astype(np.float64) - before.pos
        if not 1e-4 < np.abs(moved).max() < STEP:
            return
        work = -0.5 * float(((structure.forces + before.forces) * moved).sum())
        change = structure.energy - before.energy
        self.pairs += 1
        self._sums += change**2, work**2, change * work

    @property
    def median_force(self) -> float:
        """Of |F| on free atoms, eV/Å, within 5 %."""
        total = np.cumsum(self.forces.counts)
        return float(_BINS[1 + int(np.searchsorted(total, total[-1] / 2))]) if total[-1] else 0.0

    @property
    def work_ratio(self) -> float | None:
        """Change of energy over the work of the forces; None where frames do not follow closely."""
        change, work, both = self._sums
        if self.pairs < ENOUGH or not change * work > 0 or both**2 < 0.9 * change * work:
            return None
        return float(both / work)

    def fault(self, units: LabelUnits, energy_said: bool, forces_said: bool) -> str | None:
        """What is odd about the labels and what to type, or None.

        Args:
            units: that labels were taken for.
            energy_said: the unit of energies was given, so it is not asked for.
            forces_said: likewise that of forces.
        """
        ratio = self.work_ratio
        said = next((n for n, k in self.units.items() if k > 0.9 * self.energies), None)
        if said and not energy_said and self.energies >= FEW:
            scale = ENERGY_UNITS[said]
            forces = "" if ratio is None else _nearest(ratio * scale, FORCE_UNITS)
            more = f" data.force_unit={forces}" if forces and FORCE_UNITS[forces] != scale else ""
            return (
                f"its energies are those of all electrons in {said}; type data.energy_unit={said}"
                f"{more}, or data.energy_unit=eV if they are in eV"
            )
        if ratio is None or forces_said or _close(ratio, 1.0):
            return None
        told = (
            f"its energies change by {ratio:.3g} times the work of its forces ({self.pairs} pairs "
            "of frames that follow one another)"
        )
        keep = f"data.force_unit={_nearest(units.forces, FORCE_UNITS)} keeps them as they are"
        if _close(ratio, -1.0):
            return f"{told}, so these are gradients; reverse their sign in the file, or {keep}"
        if not energy_said and _close(ratio, 1 / BOHR):
            return f"{told}; type data.energy_unit=hartree data.force_unit=hartree/bohr, or {keep}"
        if name := _nearest(ratio * units.forces, FORCE_UNITS):
            return f"{told}; type data.force_unit={name}, or {keep}"
        if not energy_said and (name := _nearest(1 / ratio, ENERGY_UNITS)):
            return f"{told}; type data.energy_unit={name} data.force_unit=eV/A, or {keep}"
        return None


def _close(value: float, other: float) -> bool:
    return abs(value - other) < NEAR * abs(other)


def _nearest(value: float, units: dict[str, float]) -> str | None:
    near = min(units, key=lambda name: abs(units[name] - value) / units[name])
    return near if _close(value, units[near]) else None


@dataclass(frozen=True)
class Said:
    """Units as they were given, None where they were not."""

    energy_unit: str | None = None
    force_unit: str | None = None

    @property
    def units(self) -> LabelUnits:
        """What labels are multiplied by.

        Raises:
            ValueError: there is no such unit.
        """
        return LabelUnits.named(self.energy_unit, self.force_unit)

    def fault(self, signs: UnitSigns) -> str | None:
        """What is odd about labels that were taken for these, or None."""
        return signs.fault(self.units, self.energy_unit is not None, self.force_unit is not None)


def check_numbers(
    store: StoreDataset, left_out: int, max_force: float | None, said: Said, name: str
) -> None:
    """Refuse training frames whose numbers no file in eV has.

    A file of ethanol in kcal/mol loses a tenth of its frames to a limit in eV/Å, and the rest would
    be learned as if nothing were wrong.

    Args:
        store: the frames that are kept.
        left_out: number of those that are not, for a force component above `max_force`.
        max_force: eV/Å; None asks for no check of the forces' size.
        said: units that were given; others are asked for.
        name: of the data set, for the message.

    Raises:
        DataError: more than a fifth is left out, half of all forces are above 10 eV/Å, or energies
            and forces tell that they are of other units; says what to type.
    """
    _judge(_looked_at(store), left_out, len(store) + left_out, max_force, said, name)


def check_first(reader: Reader, file: Path, max_force: float | None, said: Said, name: str) -> None:
    """As `check_numbers`, of the first frames of a file, before hours are spent on all.

    Raises:
        DataError: energies and forces tell that they are of other units, or half of all forces are
            above 10 eV/Å; says what to type.
    """
    count = reader.count(file)
    stop = SAMPLE if count is None else min(count, SAMPLE)
    signs = UnitSigns()
    for frame in frames_of(reader, Part(file, 0, 0, stop), said.units):
        if frame.structure is not None and structure_fault(frame.structure) is None:
            signs.add(frame.structure)
    close_environment(file)
    _judge(signs, 0, signs.energies, max_force, said, name)


def _judge(
    signs: UnitSigns, left_out: int, frames: int, max_force: float | None, said: Said, name: str
) -> None:
    if (rounded := signs.grid.fault) is not None:
        _warn_once(f"{name}: {rounded}")  # forces can be learned all the same
    fault = said.fault(signs)
    many = max_force is not None and left_out > max(FEW, MOST_LEFT_OUT * frames)
    if many:
        told = f"{left_out} of {frames} frames have a force above {max_force:g} eV/Å and "
        told += "would be left out"
    elif fault is not None:
        told = ""
    elif max_force is not None and signs.median_force > USUAL * max_force / 50.0:
        told = f"half of all forces are above {signs.median_force:.0f} eV/Å, which is odd in eV"
    else:
        return
    if fault is not None:
        raise DataError(f"{name}: {told}{told and ', and '}{fault}")
    assert max_force is not None
    raise DataError(
        f"{name}: {told}; if they are not in eV/Å, type data.energy_unit=kcal/mol (or kJ/mol, "
        f"hartree, rydberg); if they are, data.max_force={10 * max_force:g}, or null, keeps them"
    )


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _looked_at(store: StoreDataset) -> UnitSigns:
    """Signs of some frames spread over a store, each with the one that follows it."""
    signs = UnitSigns()
    if not len(store):
        return signs
    for index in np.unique(np.linspace(0, len(store) - 1, SAMPLE).astype(int)).tolist():
        signs._before = None
        for one in range(index, min(index + 2, len(store))):
            signs.add(store[one])
    return signs
