"""Parts of a conversion become one store, and give their room back to the disk as they are copied.

A copy that was killed goes on behind the last record of the store that is on disk. Parts up to
there may be gone then: what all of them tell together was kept before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.growing import GrowingStore, kept_in, remove
from atomsweep.data.store.record import check_record, with_sid
from atomsweep.data.store.whole import Whole
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph

_TOGETHER = 256  # records copied at once


def can_go_on(
    out: Path, paths: Sequence[Path], fingerprint: str, whole: Whole, each: int = 1
) -> bool:
    """Whether a store is there already, or all parts are that it still needs.

    Args:
        out: as of `merge_parts`, and so the others.
        paths: of the parts.
        fingerprint: of the store.
        whole: what is kept of each part.
        each: records of a frame.
    """
    kept = kept_in(out, paths[0].parent, fingerprint) or 0
    counts = [each * whole.kept_in(number) for number in range(len(paths))]
    needed = (path for path, end in zip(paths, accumulate(counts), strict=True) if end > kept)
    return all(path.exists() for path in needed) or _is_whole(out, fingerprint)


def _is_whole(out: Path, fingerprint: str) -> bool:
    return out.exists() and StoreDataset(out).meta["fingerprint"] == fingerprint


def merge_parts(
    paths: Sequence[Path],
    out: Path,
    fingerprint: str,
    meta: dict[str, Any],
    graph: RadiusGraph | None,
    whole: Whole,
    progress: bool,
    each: int = 1,
) -> None:
    """Make the store of all parts, and remove each when it is in there and on disk.

    Args:
        paths: of the parts, in order; the store grows beside them.
        out: the store, which appears when it is complete.
        fingerprint: kept in it.
        meta: likewise.
        graph: of the neighbour lists that the parts hold.
        whole: which frames are kept, and of which systems they are.
        progress: show how far it is.
        each: records of a frame.

    Raises:
        DataError: a record of a part is damaged; names it.
        OSError: the disk is full or not writable; names the path.
    """
    folder = paths[0].parent
    if kept_in(out, folder, fingerprint) is None:
        if not paths[0].exists() and _is_whole(out, fingerprint):
            return  # since before a kill
        remove(out, folder)
    large = progress and len(paths) > 100
    with (
        GrowingStore(out, folder, fingerprint, meta, graph) as store,
        Progress(f"copying {out.stem}", "part", len(paths), 0, large) as bar,
    ):
        begun, end = store.kept, 0
        copied: deque[tuple[int, Path]] = deque()
        for number, path in enumerate(paths):
            start, end = end, end + each * whole.kept_in(number)
            if end > begun:
                _copy_part(path, store, whole, number, each, max(0, begun - start))
            copied.append((end, path))
            while copied and store.kept and copied[0][0] <= store.kept:
                copied.popleft()[1].unlink(missing_ok=True)
            bar.update(1)
    for _, path in copied:
        path.unlink(missing_ok=True)


def _copy_part(
    path: Path, store: GrowingStore, whole: Whole, number: int, each: int, skipped: int
) -> None:
    """Append the records of a part that are kept, but for the first ones, which are there."""
    part = StoreDataset(path)
    chosen = whole.of_part(number, part.sids[::each])
    sids, kept = (np.repeat(one, each) for one in chosen)
    places = np.flatnonzero(kept)[skipped:]
    for start in range(0, len(places), _TOGETHER):
        _copy_records(part, store, places[start : start + _TOGETHER], sids)
    close_environment(path)


def _copy_records(part: StoreDataset, store: GrowingStore, places: Array, sids: Array) -> None:
    records = part.records(places.tolist())
    for at in np.flatnonzero(sids[places] != part.sids[places]).tolist():
        records[at] = with_sid(records[at], int(sids[places[at]]))
    try:
        store.add_records(records)
    except DataError as error:
        wrong = places[_first_wrong(records)]
        raise DataError(f"{part.where(wrong)} {error}; remove {part.path.parent}") from None


def _first_wrong(records: Sequence[bytes]) -> int:
    for number, record in enumerate(records):
        try:
            check_record(record)
        except DataError:
            return number
    return 0
