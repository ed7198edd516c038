"""Files of any kind → one native store: in parallel, resumable, in bounded memory, or not at all.

The work is cut into parts. Each becomes a small store of its own that appears complete or not at
all, so a conversion that was killed goes on with the parts that are missing. What they tell
together is kept, and then they are copied into the store (`merge.py`).
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from atomsweep.console import Progress
from atomsweep.data.dataset import report_skipped
from atomsweep.data.store.growing import remove
from atomsweep.data.store.merge import can_go_on, merge_parts
from atomsweep.data.store.parts import Conversion, Part, Report, convert_part, ends_of, parts_of
from atomsweep.data.store.whole import Whole, combined
from atomsweep.data.structure import DataError
from atomsweep.processes import ProcessLost, calls

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
    stores = {out: (paths, 1)}  # parts, and records of a frame in them
    if conversion.reader.relaxations:  # first, since `out` counts as a conversion that is done
        stores = {ends_of(out): ([ends_of(path) for path in paths], 2), out: (paths, 1)}
    told = parts_dir / f"whole.{PARTS}.npz"
    whole = _left(told, stores, fingerprint)
    if whole is None:
        for one in stores:  # what grows there is of other parts
            remove(one, parts_dir)
        _make_parts(conversion, parts, paths, workers, progress, out.stem)
        whole = combined(parts, paths, conversion.on_error, parts_dir, contents)
        if not whole.report.frames:
            faults = whole.report.skipped
            raise DataError(
                f"no usable frame for {out.stem} in {_called(files)}"
                + (f"; first fault: {faults[0]}" if faults else "")
            )
        whole.save(told)  # from here on parts are given back to the disk
    report = whole.report
    made = {
        "frames": report.frames,
        "skipped": len(report.skipped),
        "filtered": report.filtered,
        "tags": dict(report.tags),
        "unkept": dict(report.unkept),
        "relaxed_energy": conversion.reader.relaxed_energy,
    }
    about = {**meta, "conversion": made}
    if conversion.reader.relaxations:
        parts_of_ends, each = stores[ends_of(out)]
        merge_parts(parts_of_ends, ends_of(out), fingerprint, meta, None, whole, progress, each)
    merge_parts(paths, out, fingerprint, about, conversion.graph, whole, progress)
    _tell(out.stem, report, conversion.max_force)
    shutil.rmtree(parts_dir)
    return report


def _left(
    told: Path, stores: Mapping[Path, tuple[list[Path], int]], fingerprint: str
) -> Whole | None:
    """What the parts told before a kill; None where they have not, or cannot be copied any more."""
    whole = Whole.load(told)
    if whole is None or all(
        can_go_on(out, paths, fingerprint, whole, each) for out, (paths, each) in stores.items()
    ):
        return whole
    log.warning("%s: parts of an earlier conversion are missing, beginning anew", told.parent)
    for left in told.parent.iterdir():
        left.unlink()
    return None


def _make_parts(
    conversion: Conversion,
    parts: Sequence[Part],
    paths: Sequence[Path],
    workers: int,
    progress: bool,
    name: str,
) -> None:
    missing = [(p, path) for p, path in zip(parts, paths, strict=True) if not path.exists()]
    done = len(parts) - len(missing)
    with Progress(f"converting {name}", "part", len(parts), done, progress) as bar:
        for _ in _converted(conversion, missing, workers):
            bar.update(1)


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
