"""What a data set promises: structures whose sizes are known without reading them. No torch."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from atomsweep.data.structure import Array, DataError, Structure, structure_fault

OnError = Literal["raise", "skip"]
log = logging.getLogger(__name__)


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
        """(len,) integers, number of atoms, without reading structures."""

    @property
    def content(self) -> str:
        """Tells what is in it, from the fingerprint; "" where that is not known."""
        return f"{self.fingerprint} {len(self)}" if self.fingerprint else ""

    def release(self) -> None:  # noqa: B027 (most hold none)
        """Let go of what reading has mapped into memory; it is mapped again when it is needed."""

    def run(self, start: int, stop: int) -> Subset:
        """Structures `start` to `stop`, as a small object to give to another process."""
        return Subset(self, np.arange(start, min(stop, len(self))))

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

    def release(self) -> None:
        """Of both ends."""
        self.ends.release()

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
    def content(self) -> str:
        """That of the other set, and which of its structures."""
        whole = self.dataset.content
        digest = hashlib.sha256(np.ascontiguousarray(self.indices).data).hexdigest()
        return f"{whole} {digest}" if whole else ""

    def release(self) -> None:
        """Of the set below."""
        self.dataset.release()

    def run(self, start: int, stop: int) -> Subset:
        """Those structures, as a subset of the set below."""
        return Subset(self.dataset, self.indices[start:stop], self.name)

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return self.dataset.natoms[self.indices]

    def where(self, index: int) -> str:
        """How messages name a structure: by its place in the file."""
        return self.dataset.where(int(self.indices[index]))


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
