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
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.processes import ProcessLost, calls

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
    parts_dir.mkdir(parents=True, exist_ok=True)
    for left in parts_dir.glob(".*.tmp"):  # half a part of a conversion that was killed
        left.unlink()
    paths = [parts_dir / f"{place:06d}.lmdb" for place in range(len(parts))]
    missing = [(p, path) for p, path in zip(parts, paths, strict=True) if not path.exists()]
    done = len(parts) - len(missing)
    with Progress(f"converting {out.stem}", "part", len(parts), done, progress) as bar:
        for _ in _converted(conversion, missing, workers):
            bar.update(1)
    report = _combined(parts, paths)
    if not report.frames:
        raise DataError(
            f"no usable frame for {out.stem} in {files[0]}"
            + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
            + (f"; first fault: {report.skipped[0]}" if report.skipped else "")
        )
    if conversion.reader.relaxations:
        ends = [ends_of(path) for path in paths]
        _copy(ends, ends_of(out), fingerprint, meta, None)
    made = {
        "frames": report.frames,
        "skipped": len(report.skipped),
        "filtered": report.filtered,
        "tags": dict(report.tags),
        "relaxed_energy": conversion.reader.relaxed_energy,
    }
    # last, since a store that is there counts as a conversion that is done
    _copy(paths, out, fingerprint, {**meta, "conversion": made}, conversion.graph)
    _tell(out.stem, report, conversion.max_force)
    shutil.rmtree(parts_dir)
    return report


def _tell(name: str, report: Report, max_force: float | None) -> None:
    if report.skipped:
        total = report.frames + report.filtered + len(report.skipped)
        report_skipped(name, report.skipped, total)
    if report.filtered:
        log.info("%s: left out %d frames with |F| > %s eV/Å", name, report.filtered, max_force)


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
