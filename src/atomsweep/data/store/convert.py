"""Files of any kind → one native store: in parallel, resumable, in bounded memory, or not at all.

The work is cut into parts. Each becomes a small store of its own that appears complete or not at
all, so a conversion that was killed goes on with the parts that are missing. At the end the parts
are copied, record by record under their checksums, into the store.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.dataset import report_skipped
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import Conversion, Part, Report, convert_part, ends_of, parts_of
from atomsweep.data.store.record import check_record, with_sid
from atomsweep.data.store.whole import Whole, combined
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.processes import ProcessLost, calls

PARTS = 2  # version of what a part holds; those of another are made again
_TOGETHER = 256  # records copied at once
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
    contents: Path | None = None,
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
        contents: file to make of the hash of each frame, uint64, but its ids.

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
    whole = combined(parts, paths, conversion.on_error, parts_dir, contents)
    report = whole.report
    if not report.frames:
        raise DataError(
            f"no usable frame for {out.stem} in {_called(files)}"
            + (f"; first fault: {report.skipped[0]}" if report.skipped else "")
        )
    if conversion.reader.relaxations:
        ends = [ends_of(path) for path in paths]
        _copy(ends, ends_of(out), fingerprint, meta, None, whole, progress, 2)
    made = {
        "frames": report.frames,
        "skipped": len(report.skipped),
        "filtered": report.filtered,
        "tags": dict(report.tags),
        "unkept": dict(report.unkept),
        "relaxed_energy": conversion.reader.relaxed_energy,
    }
    # last, since a store that is there counts as a conversion that is done
    _copy(paths, out, fingerprint, {**meta, "conversion": made}, conversion.graph, whole, progress)
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


def _copy(
    paths: Sequence[Path],
    out: Path,
    fingerprint: str,
    meta: dict[str, Any],
    graph: RadiusGraph | None,
    whole: Whole,
    progress: bool,
    each: int = 1,  # records of a frame
) -> None:
    with (
        StoreWriter(out, fingerprint, meta, graph) as writer,
        Progress(
            f"copying {out.stem}", "part", len(paths), 0, progress and len(paths) > 100
        ) as bar,
    ):
        for number, path in enumerate(paths):
            store = StoreDataset(path)
            chosen = whole.of_part(number, store.sids[::each])
            _copy_part(store, writer, *(np.repeat(one, each) for one in chosen))
            close_environment(path)
            bar.update(1)


def _copy_part(store: StoreDataset, writer: StoreWriter, sids: Array, kept: Array) -> None:
    renamed = sids != store.sids
    for start in range(0, len(store), _TOGETHER):
        places = start + np.flatnonzero(kept[start : start + _TOGETHER])
        records = store.records(places.tolist())
        for at in np.flatnonzero(renamed[places]).tolist():
            records[at] = with_sid(records[at], int(sids[places[at]]))
        try:
            writer.add_records(records)
        except DataError as error:
            wrong = places[_first_wrong(records)]
            raise DataError(f"{store.where(wrong)} {error}; remove {store.path.parent}") from None


def _first_wrong(records: Sequence[bytes]) -> int:
    for number, record in enumerate(records):
        try:
            check_record(record)
        except DataError:
            return number
    return 0
