"""A conversion cut into parts: each becomes a small store that appears whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atomsweep.data.dataset import OnError
from atomsweep.data.frames import Frame, Reader
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.record import digests
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError, Structure, structure_fault
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.units import EV, LabelUnits

PART = 1000  # frames; what a kill costs each process
ENDS = "_relaxations"  # of the second store, with both ends of every relaxation
HINT = "(leave such frames out with data.on_error=skip, or --skip-bad in a conversion)"


@dataclass(frozen=True)
class Conversion:
    """How files become a store.

    Attributes:
        reader: of the files.
        max_force: frames with a larger force component (eV/Å) are left out; None keeps all.
        on_error: "skip" leaves out and counts frames that cannot be used.
        graph: neighbour lists to store with the structures.
        units: of the files' labels.
    """

    reader: Reader
    max_force: float | None = 50.0
    on_error: OnError = "raise"
    graph: RadiusGraph | None = None
    units: LabelUnits = EV


@dataclass
class Report:
    """What came out of a conversion.

    Attributes:
        frames: in the store.
        skipped: what was wrong with frames left out.
        filtered: frames left out for their forces.
        tags: frames by the rule that gave them their tags.
        unkept: frames by the constraint that a structure cannot keep.
    """

    frames: int = 0
    skipped: list[str] = field(default_factory=list)
    filtered: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    unkept: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Part:
    """Frames `start` to `stop` of a file; `number` is the file's among all."""

    file: Path
    number: int
    start: int = 0
    stop: int | None = None


def parts_of(reader: Reader, files: Sequence[Path], first_number: int = 0) -> list[Part]:
    """The work in pieces of at most `PART` frames; a file that must be read through is one piece.

    Raises:
        DataError: a file is not what it should be, or one is missing.
    """
    reader.check_files(files)
    parts = []
    for number, file in enumerate(files, start=first_number):
        count = reader.count(file)
        close_environment(file)  # there may be more files than can be open
        if count is None:
            parts.append(Part(file, number))
            continue
        for start in range(0, count, PART):
            parts.append(Part(file, number, start, min(start + PART, count)))
    return parts


def ends_of(path: Path) -> Path:
    """The store of both ends of relaxations that belongs to a store of frames."""
    return path.with_name(f"{path.stem}{ENDS}{path.suffix}")


def convert_part(conversion: Conversion, part: Part, path: Path) -> None:
    """Make the store of one part, and what was left out of it in its header.

    Raises:
        DataError: a frame is unusable and `on_error` is "raise"; names file and frame.
    """
    report = Report()
    ends: list[Structure] = []
    dropped: list[int] = []  # numbers of frames that are not in the store
    digested: list[tuple[int, int]] = []
    numbered: list[bool] = []
    following = part.start
    try:
        with StoreWriter(path, graph=conversion.graph) as writer:
            for frame in _usable(conversion, part, report):
                assert frame.structure is not None
                try:
                    record = writer.add_checked(frame.structure)
                except DataError as error:  # a neighbour list that cannot be made
                    _fault(report, f"{_called(frame, part)}: {error}", conversion.on_error)
                    continue
                dropped += range(following, frame.index)
                following = frame.index + 1
                report.tags[frame.tags_rule] += 1
                report.unkept.update(frame.unkept)
                ends += frame.ends
                digested.append(digests(record))
                numbered.append(frame.numbered)
            if conversion.reader.relaxations:
                with StoreWriter(ends_of(path)) as second:
                    for structure in ends:
                        second.add_checked(structure)
            writer.meta["report"] = {
                "skipped": report.skipped,
                "filtered": report.filtered,
                "tags": dict(report.tags),
                "unkept": dict(report.unkept),
                "dropped": dropped,
                "digests": np.array(digested, dtype="<u8").tobytes().hex(),
                "numbered": np.packbits(np.array(numbered, dtype=bool)).tobytes().hex(),
            }
    finally:
        close_environment(part.file)


def frames_of(reader: Reader, part: Part, units: LabelUnits) -> Iterator[Frame]:
    """Frames of a part, labels in eV and eV/Å."""
    for frame in reader.frames(part.file, part.number, part.start, part.stop):
        if units != EV and frame.structure is not None:
            for one in (frame.structure, *frame.ends):
                one.energy = None if one.energy is None else one.energy * units.energy
                one.forces = None if one.forces is None else one.forces * units.forces
        yield frame


def _called(frame: Frame, part: Part) -> str:
    return f"frame {frame.index} of {part.file}"


def _usable(conversion: Conversion, part: Part, report: Report) -> Iterator[Frame]:
    """Frames of a part that pass; the rest goes into `report`."""
    limit = conversion.max_force
    for frame in frames_of(conversion.reader, part, conversion.units):
        structure, fault = frame.structure, frame.fault
        if structure is not None:
            faults = (structure_fault(one) for one in (structure, *frame.ends))
            fault = next((one for one in faults if one), "")
        if fault:
            _fault(report, f"{_called(frame, part)}: {fault}", conversion.on_error)
            continue
        assert structure is not None
        if limit and structure.forces is not None and np.abs(structure.forces).max() > limit:
            report.filtered += 1
            continue
        yield frame


def _fault(report: Report, message: str, on_error: OnError) -> None:
    if on_error == "raise":
        raise DataError(f"{message} {HINT}")
    report.skipped.append(message)
