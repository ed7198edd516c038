"""What a reader of files yields: frames, good or faulty, and the rule for missing tags."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from atomsweep.data.structure import Structure

ADSORBATE_NUMBERS = (1, 6, 7, 8)  # all that OC20's adsorbates are made of
TAGS_STORED = "stored in the file"
TAGS_DERIVED = "derived: fixed atoms 0, free trailing atoms of H, C, N, O 2, the others 1"
TAGS_UNKNOWN = (
    "unknown: no tags and no fixed atoms in the file, so all atoms have tag 1 and are free"
)
Labels = Sequence[Literal["energy", "forces"]]
COMPRESSED = (".xz", ".gz", ".bz2")


@dataclass
class Frame:
    """One frame of a file: the structure or what is wrong with it.

    Attributes:
        index: of the frame within its file.
        ends: initial and relaxed structure, of readers that have `relaxations`.
        unkept: constraints of the file that a structure cannot keep, by name.
    """

    index: int
    structure: Structure | None
    tags_rule: str = ""
    fault: str = ""
    ends: list[Structure] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)


class Reader(ABC):
    """Reads one kind of file. A frozen dataclass: its attributes are the settings that matter.

    Attributes:
        version: raised when the same files give other data than before.
        suffixes: of its files, also followed by one of `COMPRESSED`.
        relaxations: frames carry both ends of a relaxation.
        labels: of energy and forces, what every frame carries; None: not known before reading.
        relaxed_energy: the energy is that of the relaxed structure; None: the files do not say.
    """

    version = 1
    suffixes: tuple[str, ...]
    relaxations = False
    labels: Sequence[str] | None = None
    relaxed_energy: ClassVar[bool | None] = None

    @abstractmethod
    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Frames `start` to `stop` of a file in order; those without a sid get `number`.

        Raises:
            DataError: nothing of the file can be used.
        """

    def count(self, file: Path) -> int | None:
        """Number of frames, where that is known without reading them and any can be read first.

        Raises:
            DataError: the file is not what it should be.
        """
        return None

    def check_files(self, files: Sequence[Path]) -> None:  # noqa: B027 (most have nothing to check)
        """Check what only all files together show, e.g. that none is missing.

        Raises:
            DataError: they do not fit together.
        """

    def beside(self, file: Path) -> list[Path]:
        """Other files that change what is read."""
        return []

    def settings(self) -> dict[str, Any]:
        """What, besides the files, decides what is read; plain JSON."""
        return {"reader": type(self).__name__, "version": self.version, **asdict(self)}  # type: ignore[call-overload]

    def reads(self, path: Path) -> bool:
        """Whether a file is of this kind, by its name."""
        name = path.name.lower()
        for suffix in COMPRESSED:
            name = name.removesuffix(suffix)
        return name.endswith(self.suffixes)


def check_labels(labels: Labels) -> tuple[str, ...]:
    """Labels in a fixed order.

    Raises:
        ValueError: one that is neither energy nor forces.
    """
    if unknown := set(labels) - {"energy", "forces"}:
        raise ValueError(f"labels may contain energy and forces, got {sorted(unknown)}")
    return tuple(sorted(labels))


def identifier(value: Any) -> int | None:
    """An id given as a number, an array of one, or as text like `random123` or `frame4`."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    match = re.fullmatch(r"\D*?(-?\d+)", str(value))
    return int(match[1]) if match is not None else None


def set_tags(structure: Structure) -> str:
    """Give tags to a structure that has none; returns the rule by which."""
    if structure.tags.any():
        return TAGS_STORED
    if not structure.fixed.any():
        structure.tags = np.ones(structure.natoms, dtype=np.int64)
        return TAGS_UNKNOWN
    foreign = ~np.isin(structure.atomic_numbers, ADSORBATE_NUMBERS) | structure.fixed
    trailing = np.arange(structure.natoms) > np.flatnonzero(foreign).max()
    structure.tags = np.where(structure.fixed, 0, np.where(trailing, 2, 1))
    return TAGS_DERIVED
