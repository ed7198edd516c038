"""What a data set promises: structures, splits, provenance and a fingerprint. Imports no torch."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
OnError = Literal["raise", "skip"]
MAX_ATOMIC_NUMBER = 118
MAX_TAG = 127

log = logging.getLogger(__name__)


class DataError(ValueError):
    """A record or file that cannot be used; the message names file and index and says why."""


@dataclass
class Structure:
    """One labelled configuration of atoms, as numpy arrays.

    Attributes:
        atomic_numbers: (N,) integers, 1 to 118.
        pos: (N, 3) Å, as they are: not wrapped into the cell.
        cell: (3, 3) Å, rows are lattice vectors; zero where there is none.
        pbc: (3,) bool.
        tags: (N,) integers: 0 subsurface, 1 surface, 2 adsorbate.
        fixed: (N,) bool, held during the relaxation.
        forces: (N, 3) eV/Å as computed, fixed atoms included; None without labels.
        energy: eV; None without labels.
        sid: system (relaxation) id.
        fid: frame within the system.
    """

    atomic_numbers: Array
    pos: Array
    cell: Array
    pbc: Array
    tags: Array
    fixed: Array
    forces: Array | None = None
    energy: float | None = None
    sid: int = 0
    fid: int = 0

    @property
    def natoms(self) -> int:
        """Number of atoms N."""
        return len(self.atomic_numbers)


def structure_fault(structure: Structure) -> str | None:
    """The first thing wrong with a structure, in words, or None.

    Checks shapes, atomic numbers, NaN or Inf in positions, cell and labels, and the volume of the
    cell along periodic directions.
    """
    n = structure.natoms
    if n == 0:
        return "it has no atoms"
    for name in ("pos", "forces"):
        value = getattr(structure, name)
        if value is None:
            continue
        if value.shape != (n, 3):
            return f"{name} must have shape ({n}, 3) for {n} atoms, got {value.shape}"
        if not np.isfinite(value).all():
            return f"{name} of atom {int(np.argmax(~np.isfinite(value).all(1)))} is NaN or Inf"
    for name in ("sid", "fid"):
        if not -(1 << 63) <= getattr(structure, name) < 1 << 63:
            return f"{name} does not fit into 64 bits"
    for name in ("tags", "fixed"):
        value = getattr(structure, name)
        if value.shape != (n,):
            return f"{name} must have shape ({n},) for {n} atoms, got {value.shape}"
    if np.abs(structure.tags).max() > MAX_TAG:
        return f"tags must be small integers, got {np.unique(structure.tags).tolist()}"
    numbers = structure.atomic_numbers
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        bad = int(np.argmax((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)))
        return f"atom {bad} has atomic number {numbers[bad]}, outside 1 to {MAX_ATOMIC_NUMBER}"
    if structure.energy is not None and not np.isfinite(structure.energy):
        return f"energy is {structure.energy}"
    cell = structure.cell
    if cell.shape != (3, 3) or not np.isfinite(cell).all():
        return f"cell must be a finite (3, 3) matrix, got {cell.tolist()}"
    if structure.pbc.any():
        periodic = cell[structure.pbc]
        if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
            return "its cell has no volume along the periodic directions"
    return None


@dataclass(frozen=True)
class Provenance:
    """Where data come from, under which licence, and what a reader of results must know."""

    source: str
    licence: str
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        """As plain JSON."""
        return asdict(self)


class StructureDataset(ABC):
    """A sequence of structures whose sizes are known without reading them.

    Attributes:
        name: what errors call it: a file, or a split of a source.
        has_energy: every structure carries an energy.
        has_forces: every structure carries forces.
        fingerprint: identifies the content; with it derived files (neighbour lists) can be cached.
        cache_dir: directory for derived files; None where there is no place for them.
    """

    name: str
    has_energy: bool
    has_forces: bool
    fingerprint: str = ""
    cache_dir: Path | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Structure:
        """The structure, checked.

        Raises:
            DataError: the record is unusable; names file and index.
            IndexError: outside the data set.
        """

    @property
    @abstractmethod
    def natoms(self) -> Array:
        """(len,) int64 number of atoms, without reading structures."""

    def where(self, index: int) -> str:
        """How messages name a structure."""
        return f"structure {index} of {self.name}"


class RelaxedEnergies(StructureDataset):
    """Initial structures that carry the energy of the relaxed ones, and no forces: IS2RE.

    Args:
        ends: both ends of relaxations: even indices initial, odd ones relaxed, with its energy.
        name: what errors call it.

    Raises:
        ValueError: an end has no other.
    """

    has_energy, has_forces = True, False

    def __init__(self, ends: StructureDataset, name: str) -> None:
        if len(ends) % 2:
            raise ValueError(f"{ends.name} holds {len(ends)} structures, not pairs of two ends")
        self.ends, self.name = ends, name
        self.fingerprint = f"{ends.fingerprint}-initial" if ends.fingerprint else ""
        self.cache_dir = ends.cache_dir

    def __len__(self) -> int:
        return len(self.ends) // 2

    def __getitem__(self, index: int) -> Structure:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} structures, got index {index}")
        initial, relaxed = self.ends[2 * index], self.ends[2 * index + 1]
        if initial.sid != relaxed.sid:
            raise DataError(
                f"{self.where(index)} is of system {initial.sid} and the one after it of "
                f"{relaxed.sid}, so they are no two ends of a relaxation; build the data set again"
            )
        if relaxed.energy is None:
            raise DataError(f"{self.where(index)}: its relaxed end carries no energy")
        return replace(initial, energy=relaxed.energy, forces=None)

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return self.ends.natoms[0::2]

    def where(self, index: int) -> str:
        """How messages name a structure: by its place in the file."""
        return self.ends.where(2 * index)


class InMemoryDataset(StructureDataset):
    """A list of structures as a data set, checked when read."""

    def __init__(self, structures: Sequence[Structure], name: str = "memory") -> None:
        self.structures = list(structures)
        self.name = name
        self.has_energy = all(s.energy is not None for s in self.structures)
        self.has_forces = all(s.forces is not None for s in self.structures)

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index: int) -> Structure:
        structure = self.structures[index]
        if fault := structure_fault(structure):
            raise DataError(
                f"{self.where(index)} (sid {structure.sid}, fid {structure.fid}): {fault}"
            )
        return structure

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return np.array([s.natoms for s in self.structures], dtype=np.int64)


class Subset(StructureDataset):
    """Some structures of another data set, in a given order."""

    def __init__(self, dataset: StructureDataset, indices: Array, name: str | None = None) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.name = name if name is not None else dataset.name
        self.has_energy, self.has_forces = dataset.has_energy, dataset.has_forces
        self.fingerprint, self.cache_dir = dataset.fingerprint, dataset.cache_dir

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Structure:
        return self.dataset[int(self.indices[index])]

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return self.dataset.natoms[self.indices]

    def where(self, index: int) -> str:
        """How messages name a structure: by its place in the file."""
        return self.dataset.where(int(self.indices[index]))


class DataSource(ABC):
    """A data set with its splits. Config instantiates one; `prepare` makes or checks what it needs.

    Attributes:
        name: short name for reports.
        on_error: "raise" stops at the first unusable structure; "skip" drops, counts and logs it.
        skipped: what was dropped, a list of messages for each split or file.
        relaxed_energy: energies are those of the relaxed structures (IS2RE); None: not known.
    """

    name: str
    on_error: OnError = "raise"
    skipped: dict[str, list[str]]
    relaxed_energy: bool | None = False

    def label_names(self) -> frozenset[str] | None:
        """Which of energy and forces every structure carries; None: not known before reading."""
        return frozenset(("energy", "forces"))

    @abstractmethod
    def prepare(self, progress: bool = True) -> None:
        """Build or check what reading needs. Idempotent; of two processes one works, one waits."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of what the data are, not of where they lie or how they were built.

        Cheap; may be called before `prepare`.
        """

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` first."""

    @abstractmethod
    def split(self, name: str) -> StructureDataset:
        """One split, prepared if need be.

        Raises:
            ValueError: there is no such split; names those that exist.
        """

    def relaxations(self, name: str) -> StructureDataset:
        """Both ends of every relaxation of a split: even indices initial, odd ones relaxed.

        Raises:
            ValueError: the data set holds none.
        """
        raise ValueError(f"{self.name} holds no relaxed structures; choose an IS2RE data set")

    def oracle(self) -> Callable[[Structure], tuple[float, Array]] | None:
        """The potential that made the labels: energy (eV) and forces (eV/Å); None: not at hand."""
        return None

    @property
    @abstractmethod
    def provenance(self) -> Provenance:
        """Origin and licence."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Counts and remarks for the report, as plain JSON."""


def check_split(name: str, splits: Sequence[str], source: str) -> None:
    """Raise ValueError naming the known splits unless `name` is one of them."""
    if name not in splits:
        raise ValueError(f"{source} has the splits {', '.join(splits)}; got {name!r}")


def check_on_error(on_error: str) -> OnError:
    """The value as a typed choice.

    Raises:
        ValueError: neither "raise" nor "skip".
    """
    if on_error == "raise":
        return "raise"
    if on_error == "skip":
        return "skip"
    raise ValueError(f"on_error must be raise or skip, got {on_error!r}")


def usable(dataset: StructureDataset, on_error: OnError) -> tuple[StructureDataset, list[str]]:
    """The data set without its unusable structures, and what was wrong with those.

    With "raise" nothing is read here: the error comes when the structure is read. With "skip" every
    structure is read once.
    """
    if on_error == "raise":
        return dataset, []
    kept, faults = [], []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except DataError as error:
            faults.append(str(error))
        else:
            kept.append(index)
    if faults:
        report_skipped(dataset.name, faults, len(dataset))
    return (Subset(dataset, np.array(kept, dtype=np.int64)) if faults else dataset), faults


def report_skipped(
    name: str, faults: Sequence[str], total: int, warn: Callable[..., None] = log.warning
) -> None:
    """Say how many structures were dropped, and why the first ones were."""
    warn("%s: skipped %d of %d structures; first: %s", name, len(faults), total, faults[0])
