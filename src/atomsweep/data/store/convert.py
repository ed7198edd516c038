"""Files of any kind → one native store: in parallel, resumable, in bounded memory, or not at all.

The work is cut into parts. Each becomes a small store of its own that appears complete or not at
all, so a conversion that was killed goes on with the parts that are missing. At the end the parts
are copied, record by record under their checksums, into the store.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.dataset import OnError, report_skipped
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import (
    HINT,
    Conversion,
    Part,
    Report,
    convert_part,
    ends_of,
    parts_of,
)
from atomsweep.data.store.record import with_sid
from atomsweep.data.store.systems import copies, frame_table, joined, told_apart
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.processes import ProcessLost, calls

if TYPE_CHECKING:
    import pandas as pd

PARTS = 2  # version of what a part holds; those of another are made again
log = logging.getLogger(__name__)


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
    if not parts:
        raise DataError(f"there is no record in {_called(files)}")
    parts_dir.mkdir(parents=True, exist_ok=True)
    for left in parts_dir.glob(".*.tmp"):  # half a part of a conversion that was killed
        left.unlink()
    paths = [parts_dir / f"{place:06d}.{PARTS}.lmdb" for place in range(len(parts))]
    missing = [(p, path) for p, path in zip(parts, paths, strict=True) if not path.exists()]
    done = len(parts) - len(missing)
    with Progress(f"converting {out.stem}", "part", len(parts), done, progress) as bar:
        for _ in _converted(conversion, missing, workers):
            bar.update(1)
    whole = _combined(parts, paths, conversion.on_error)
    report = whole.report
    if not report.frames:
        raise DataError(
            f"no usable frame for {out.stem} in {_called(files)}"
            + (f"; first fault: {report.skipped[0]}" if report.skipped else "")
        )
    if conversion.reader.relaxations:
        ends = [ends_of(path) for path in paths]
        _copy(ends, ends_of(out), fingerprint, meta, None, whole, 2)
    made = {
        "frames": report.frames,
        "skipped": len(report.skipped),
        "filtered": report.filtered,
        "tags": dict(report.tags),
        "unkept": dict(report.unkept),
        "relaxed_energy": conversion.reader.relaxed_energy,
    }
    # last, since a store that is there counts as a conversion that is done
    _copy(paths, out, fingerprint, {**meta, "conversion": made}, conversion.graph, whole)
    _tell(out.stem, report, conversion.max_force)
    shutil.rmtree(parts_dir)
    return report


def _called(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{files[0]}{more}"


def _tell(name: str, report: Report, max_force: float | None) -> None:
    if report.skipped:
        total = report.frames + report.filtered + len(report.skipped)
        report_skipped(name, report.skipped, total)
    if report.filtered:
        log.info("%s: left out %d frames with |F| > %s eV/Å", name, report.filtered, max_force)
    if report.unkept:
        told = ", ".join(f"{what} ({count} frames)" for what, count in report.unkept.items())
        log.warning("%s: constraints that are not kept, their atoms are free: %s", name, told)


def _converted(
    conversion: Conversion, missing: Sequence[tuple[Part, Path]], workers: int
) -> Iterator[None]:
    """Convert parts; yields after each."""
    if workers > 1 and len(missing) > 1:
        context = multiprocessing.get_context("spawn")
        work = [(conversion, *part) for part in missing]
        try:
            with closing(calls(context, convert_part, work, workers)) as results:
                for _ in results:
                    yield
        except ProcessLost as error:
            raise OSError(f"the files cannot be converted: {error}") from error
    else:
        for part in missing:
            convert_part(conversion, *part)
            yield


@dataclass
class _Whole:
    """What came out of all parts; S frames in their order.

    Attributes:
        report: of all parts.
        sids: (S,) systems that frames are of.
        kept: (S,) False for copies that are left out.
        starts: place of the first frame of each part.
    """

    report: Report
    sids: Array
    kept: Array
    starts: list[int]

    def of_part(self, number: int, stop: int) -> tuple[Array, Array]:
        """Systems of a part's frames, and which are kept."""
        chosen = slice(self.starts[number], self.starts[number] + stop)
        return self.sids[chosen], self.kept[chosen]


def _combined(parts: Sequence[Part], paths: Sequence[Path], on_error: OnError) -> _Whole:
    """Reports of all parts as one, systems told apart, and copies found.

    Raises:
        DataError: two equal frames have the same ids and `on_error` is "raise"; names both.
    """
    report = Report()
    tables, dropped, starts, count = [], [], [], 0
    for part, path in zip(parts, paths, strict=True):
        store = StoreDataset(path)
        told = store.meta["report"]
        report.skipped += told["skipped"]
        report.filtered += told["filtered"]
        report.tags.update(told["tags"])
        report.unkept.update(told["unkept"])
        dropped.append(told["dropped"])
        digests = np.frombuffer(bytes.fromhex(told["digests"]), "<u8").reshape(-1, 2)
        bits = np.frombuffer(bytes.fromhex(told["numbered"]), "u1")
        numbered = np.unpackbits(bits, count=len(store)).astype(bool)
        of_file = np.full(len(store), part.number)
        tables.append(frame_table(store.sids, store.fids, of_file, numbered, *digests.T))
        starts.append(count)
        count += len(store)
        close_environment(path)
    frames = joined(tables)

    def called(place: int) -> str:
        of = bisect_right(starts, place) - 1
        number = parts[of].start + place - starts[of]
        for left_out in dropped[of]:  # in order
            number += left_out <= number
        return f"frame {number} of {parts[of].file}"

    kept = _without_copies(frames, called, on_error, report)
    sids = frames["sid"].to_numpy().copy()
    sids[kept] = told_apart(frames[kept])
    if len(changed := np.flatnonzero(sids != frames["sid"].to_numpy())):
        log.warning(
            "%d frames, the first %s, have an id that stands for more than one system (of other "
            "atoms, in another file, or with its frame's number again); they are kept as systems "
            "of their own",
            len(changed),
            called(changed[0]),
        )
    report.frames = int(kept.sum())
    report.contents = frames["content"].to_numpy()[kept]
    return _Whole(report, sids, kept, starts)


def _without_copies(
    frames: pd.DataFrame, called: Callable[[int], str], on_error: OnError, report: Report
) -> Array:
    """(S,) which frames are no copy of an earlier one under the same ids; others are only told."""
    kept = np.ones(len(frames), dtype=bool)
    later, first = copies(frames, ["sid", "fid", "content"])
    if len(later):
        one = frames.iloc[later[0]]
        message = (
            f"{called(first[0])} and {called(later[0])} have the same sid {one.sid} and fid "
            f"{one.fid} and are equal, and {len(later)} frames in all repeat another's; remove the "
            "duplicates"
        )
        if on_error == "raise":
            raise DataError(f"{message} {HINT}")
        report.skipped += [
            f"{called(b)} equals {called(a)}" for a, b in zip(first, later, strict=True)
        ]
        kept[later] = False
    places = np.flatnonzero(kept)
    later, first = copies(frames.iloc[places], ["content"])
    if len(later):
        log.warning(
            "%d frames equal another under another id, the first %s that equals %s; where these "
            "are copies, remove them: one may be in train and the other in val_id",
            len(later),
            called(places[later[0]]),
            called(places[first[0]]),
        )
    return kept


def _copy(
    paths: Sequence[Path],
    out: Path,
    fingerprint: str,
    meta: dict[str, Any],
    graph: RadiusGraph | None,
    whole: _Whole,
    each: int = 1,  # records of a frame
) -> None:
    with StoreWriter(out, fingerprint, meta, graph) as writer:
        for number, path in enumerate(paths):
            store = StoreDataset(path)
            chosen = whole.of_part(number, len(store) // each)
            _copy_part(store, writer, *(np.repeat(one, each) for one in chosen))
            close_environment(path)


def _copy_part(store: StoreDataset, writer: StoreWriter, sids: Array, kept: Array) -> None:
    for index in np.flatnonzero(kept).tolist():
        try:
            record = store.record(index)
            if sids[index] != store.sids[index]:
                record = with_sid(record, int(sids[index]))
            writer.add_record(record)
        except DataError as error:
            raise DataError(f"{store.where(index)} {error}; remove {store.path.parent}") from None
