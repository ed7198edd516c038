"""What a reader of files yields: frames, good or faulty, and the rule for missing tags."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
SID, FID = ("sid", "system_id"), ("fid", "frame")  # names of ids in files
_NUMBER = re.compile(r"(?:random|frame)(\d{1,40})|([-+]?\d{1,40})(?:\.0*)?", re.ASCII)
Labels = Sequence[Literal["energy", "forces"]]
COMPRESSED = (".xz", ".gz", ".bz2")


@dataclass
class Frame:
    """One frame of a file: the structure or what is wrong with it.

    Attributes:
        index: of the frame within its file.
        ends: initial and relaxed structure, of readers that have `relaxations`.
        unkept: constraints of the file that a structure cannot keep, by name.
        numbered: the file has no sid for it, so the structure has that of its place.
    """

    index: int
    structure: Structure | None
    tags_rule: str = ""
    fault: str = ""
    ends: list[Structure] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)
    numbered: bool = False


class Reader(ABC):
    """Reads one kind of file. A frozen dataclass: its attributes are the settings that matter.

    Attributes:
        version: raised when the same files give other data than before.
        suffixes: of its files, also followed by one of `COMPRESSED`.
        relaxations: frames carry both ends of a relaxation.
        labels: of energy and forces, what every frame carries; None: not known before reading.
        relaxed_energy: the energy is that of the relaxed structure; None: the files do not say.
        own: files of this kind are what people bring themselves, rather than a published set.
    """

    version = 1
    suffixes: tuple[str, ...]
    relaxations = False
    labels: Sequence[str] | None = None
    relaxed_energy: ClassVar[bool | None] = None
    own: ClassVar[bool] = False

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


def lacking(keys: Mapping[str, str], missing: Iterable[str], there: Iterable[str], of: str) -> str:
    """What a frame without wanted labels is told: what there is, and what to type.

    Args:
        keys: label → the name that was looked for.
        missing: labels that were not found.
        there: names that the frame has.
        of: what options of the data begin with, `data.`.
    """
    there, missing = sorted(there), sorted(missing)
    told = " and ".join(f"no {label} (named {keys[label]})" for label in missing)
    told = f"carries {told}; there is {', '.join(there) or 'nothing else'}. "
    near = {label: [n for n in there if label.removesuffix("s") in n.lower()] for label in missing}
    named = [
        f"{of}{label}_key={near[label][0] if near[label] else '<its name>'}" for label in missing
    ]
    told += f"Type {' '.join(named)}"
    left = [label for label in keys if label not in missing or near[label]]
    if len(left) == 1:
        told += f", or learn {left[0]} alone by {of}labels=[{left[0]}]"
        if left == ["energy"]:
            told += " data.relaxed_energy=true task=is2re, if it is that of the relaxed structure"
    return told


def identifier(value: Any) -> int | None:
    """An id as a 64-bit integer, the same whichever format it came in; None where there is none.

    Whole numbers, also as text or as OC20 writes them (`random123`, `frame4`), are themselves. Any
    other text, and numbers beyond 64 bits, become the first 63 bits of their SHA-256.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else value.tolist()
    if isinstance(value, bool):  # a key without a value
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None if np.isnan(value) else value
    text = str(value).strip() if value is not None else ""
    if text.lower() in ("nan", "none", "null"):  # of programs that had none
        return None
    if match := _NUMBER.fullmatch(text):
        text = str(int(match[1] or match[2]))
        if -(1 << 63) <= int(text) < 1 << 63:
            return int(text)
    return hashed(text) if text else None


def hashed(text: str) -> int:
    """63 bits of a text."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first of `names` that is there."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def set_ids(frame: Frame, sid: Any, fid: Any, number: int) -> Frame:
    """Give ids as a file has them to a frame's structure; lacking ones are those of its place."""
    assert frame.structure is not None
    found, of_frame = identifier(sid), identifier(fid)
    frame.numbered = found is None
    frame.structure.sid = number if found is None else found
    frame.structure.fid = frame.index if of_frame is None else of_frame
    return frame


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
