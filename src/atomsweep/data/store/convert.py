"""Files of any kind → one native store: in parallel, resumable, in bounded memory, or not at all.

The work is cut into parts. Each becomes a small store of its own that appears complete or not at
all, so a conversion that was killed goes on with the parts that are missing. At the end the parts
are copied, record by record under their checksums, into the store.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.data.frames import Frame, Reader
from atomsweep.data.progress import Progress
from atomsweep.data.store.locked_build import remove_tree
from atomsweep.data.store.native import StoreDataset, StoreWriter, close_environment
from atomsweep.data.structure import (
    DataError,
    OnError,
    Structure,
    report_skipped,
    structure_fault,
)
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.processes import end_with_parent

PART = 5000  # frames
ENDS = "_relaxations"  # of the second store, with both ends of every relaxation
HINT = "(leave such frames out with data.on_error=skip, or --skip-bad in a conversion)"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """How files become a store.

    Attributes:
        reader: of the files.
        max_force: frames with a larger force component (eV/Å) are left out; None keeps all.
        on_error: "skip" leaves out and counts frames that cannot be used.
        graph: neighbour lists to store with the structures.
    """

    reader: Reader
    max_force: float | None = 50.0
    on_error: OnError = "raise"
    graph: RadiusGraph | None = None


@dataclass
class Report:
    """What came out of a conversion.

    Attributes:
        frames: in the store.
        skipped: what was wrong with frames left out.
        filtered: frames left out for their forces.
        tags: frames by the rule that gave them their tags.
    """

    frames: int = 0
    skipped: list[str] = field(default_factory=list)
    filtered: int = 0
    tags: Counter[str] = field(default_factory=Counter)


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


def convert(
    conversion: Conversion,
    files: Sequence[Path],
    out: Path,
    parts_dir: Path,
    fingerprint: str,
    meta: dict[str, Any],
    first_number: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Make the store `out` of files, using and leaving parts in `parts_dir`.

    Args:
        conversion: how.
        files: in the order of the store.
        out: the store; with `relaxations` of the reader a second one `<stem>_relaxations` is made.
        parts_dir: for parts; must belong to these files and this conversion alone. Removed at the
            end, kept when something fails.
        fingerprint: of the content, kept in the store.
        meta: more to keep there.
        first_number: number of the first file, the sid of frames that have none.
        workers: processes.
        progress: show how far it is.

    Raises:
        DataError: a frame is unusable and `on_error` is "raise", or none is usable; names file and
            frame.
        OSError: the disk is full or not writable; names the path.
    """
    parts = parts_of(conversion.reader, files, first_number)
    parts_dir.mkdir(parents=True, exist_ok=True)
    for left in parts_dir.glob(".*.tmp"):  # half a part of a conversion that was killed
        left.unlink()
    paths = [parts_dir / f"{place:06d}.lmdb" for place in range(len(parts))]
    missing = [(p, path) for p, path in zip(parts, paths, strict=True) if not path.exists()]
    with Progress(
        f"converting {out.stem}", "part", len(parts), len(parts) - len(missing), progress
    ) as bar:
        if workers > 1 and len(missing) > 1:
            with _pool(min(workers, len(missing))) as pool:
                jobs = [pool.submit(_convert_part, conversion, *work) for work in missing]
                for job in jobs:
                    job.result()
                    bar.update(1)
        else:
            for work in missing:
                _convert_part(conversion, *work)
                bar.update(1)
    report = _combined(parts, paths)
    if not report.frames:
        raise DataError(
            f"no usable frame for {out.stem} in {files[0]}"
            + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
            + (f"; first fault: {report.skipped[0]}" if report.skipped else "")
        )
    if conversion.reader.relaxations:
        ends = [_ends(path) for path in paths]
        _copy(ends, _ends(out), fingerprint, meta, None)
    made = {
        "frames": report.frames,
        "skipped": len(report.skipped),
        "filtered": report.filtered,
        "tags": dict(report.tags),
        "relaxed_energy": conversion.reader.relaxed_energy,
    }
    # last, since a store that is there counts as a conversion that is done
    _copy(paths, out, fingerprint, {**meta, "conversion": made}, conversion.graph)
    total = report.frames + report.filtered + len(report.skipped)
    if report.skipped:
        report_skipped(out.stem, report.skipped, total)
    if report.filtered:
        log.info(
            "%s: left out %d frames with |F| > %s eV/Å",
            out.stem,
            report.filtered,
            conversion.max_force,
        )
    remove_tree(parts_dir)
    return report


def _ends(path: Path) -> Path:
    return path.with_name(f"{path.stem}{ENDS}{path.suffix}")


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    end_with_parent()


def _convert_part(conversion: Conversion, part: Part, path: Path) -> None:
    report = Report()
    ends: list[Structure] = []
    dropped: list[int] = []  # numbers of frames that are not in the store
    following = part.start
    try:
        with StoreWriter(path, graph=conversion.graph) as writer:
            for frame in _usable(conversion, part, report):
                assert frame.structure is not None
                try:
                    writer.add(frame.structure)
                except DataError as error:  # a neighbour list that cannot be made
                    _fault(report, f"{_called(frame, part)}: {error}", conversion.on_error)
                    continue
                dropped += range(following, frame.index)
                following = frame.index + 1
                report.tags[frame.tags_rule] += 1
                ends += frame.ends
            if conversion.reader.relaxations:
                with StoreWriter(_ends(path)) as second:
                    for structure in ends:
                        second.add(structure)
            writer.meta["report"] = {
                "skipped": report.skipped,
                "filtered": report.filtered,
                "tags": dict(report.tags),
                "dropped": dropped,
            }
    finally:
        close_environment(part.file)


def _called(frame: Frame, part: Part) -> str:
    return f"frame {frame.index} of {part.file}"


def _usable(conversion: Conversion, part: Part, report: Report) -> Iterator[Frame]:
    """Frames of a part that pass; the rest goes into `report`."""
    limit = conversion.max_force
    for frame in conversion.reader.frames(part.file, part.number, part.start, part.stop):
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


def _combined(parts: Sequence[Part], paths: Sequence[Path]) -> Report:
    """What came out of all parts.

    Raises:
        DataError: two frames have the same ids; names both.
    """
    report = Report()
    pairs, dropped = [], []
    for path in paths:
        store = StoreDataset(path)
        told = store.meta["report"]
        report.skipped += told["skipped"]
        report.filtered += told["filtered"]
        report.tags.update(told["tags"])
        dropped.append(told.get("dropped", []))  # none in parts of an earlier version
        pairs.append(np.stack([store.sids, store.fids], axis=1))
        close_environment(path)
    ids = np.concatenate(pairs)
    if len(repeated := _repeated(ids)):
        sid, fid = ids[repeated[0]].tolist()
        first = int(np.flatnonzero((ids == ids[repeated[0]]).all(1))[0])
        ends = np.cumsum([len(pair) for pair in pairs])
        frames = []
        for place in (first, int(repeated[0])):
            of = int(np.searchsorted(ends, place, side="right"))
            number = parts[of].start + place - int(ends[of] - len(pairs[of]))
            for left_out in dropped[of]:  # in order
                number += left_out <= number
            frames.append(f"frame {number} of {parts[of].file}")
        raise DataError(
            f"{frames[0]} and {frames[1]} have the same sid {sid} and fid {fid}, and "
            f"{len(repeated)} frames in all repeat another's; remove the duplicates"
        )
    report.frames = len(ids)
    return report


def _repeated(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places of rows (S, 2) that occurred before."""
    _, first = np.unique(ids, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(ids)), first)


def _copy(
    paths: Sequence[Path],
    out: Path,
    fingerprint: str,
    meta: dict[str, Any],
    graph: RadiusGraph | None,
) -> None:
    with StoreWriter(out, fingerprint, meta, graph) as writer:
        for path in paths:
            store = StoreDataset(path)
            for index in range(len(store)):
                try:
                    writer.add_record(store.record(index))
                except DataError as error:
                    raise DataError(f"{store.where(index)} {error}; remove {path.parent}") from None
            close_environment(path)
