"""What the frames of all parts tell together: copies and systems, in memory that is bounded.

Frames that may be alike share an id or a hash. Where there are many they are dealt by it to buckets
on disk, and each bucket is looked at alone.
"""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from atomsweep.data.dataset import OnError
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.parts import HINT, Part, Report
from atomsweep.data.store.systems import ROW, copies, table, told_apart
from atomsweep.data.structure import Array, DataError
from atomsweep.tracking.files import write_atomic

BUCKET = 1 << 21  # frames, which take 0.3 GB as a table
_DEALT = 1 << 17  # frames dealt at once

log = logging.getLogger(__name__)


@dataclass
class Whole:
    """What came out of all parts; frames are numbered through.

    Attributes:
        report: of all parts.
        starts: place of the first frame of each part, and of one behind the last.
        dropped: places of copies that are left out, ascending.
        renamed: places of frames that are of another system than their id says, ascending.
        systems: of those.
    """

    report: Report
    starts: list[int]
    dropped: Array
    renamed: Array
    systems: Array

    def kept_in(self, number: int) -> int:
        """How many frames of a part are kept."""
        first, end = self.starts[number : number + 2]
        dropped = _within(self.dropped, first, end - first)
        return end - first - (dropped.stop - dropped.start)

    def of_part(self, number: int, sids: Array) -> tuple[Array, Array]:
        """Systems of a part's frames, whose ids are `sids`, and which are kept."""
        first = self.starts[number]
        sids, kept = sids.copy(), np.ones(len(sids), dtype=bool)
        kept[self.dropped[_within(self.dropped, first, len(sids))] - first] = False
        news = _within(self.renamed, first, len(sids))
        sids[self.renamed[news] - first] = self.systems[news]
        return sids, kept

    def save(self, path: Path) -> None:
        """Keep all of it in a file, whole or not at all, on disk."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("starts", *_PLACES)}
        report = np.frombuffer(json.dumps(vars(self.report)).encode(), "u1")
        np.savez(buffer, report=report, **arrays)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Whole | None:
        """From such a file; None where there is none, or not all of it."""
        try:
            with np.load(path, allow_pickle=False) as file:
                told = json.loads(file["report"].tobytes())
                report = Report(**told | {name: Counter(told[name]) for name in _COUNTS})
                return cls(report, file["starts"].tolist(), *(file[name] for name in _PLACES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning("beginning anew, %s is damaged: %s", path, error)
            return None


_PLACES = ("dropped", "renamed", "systems")
_COUNTS = ("tags", "unkept")


def _within(places: Array, first: int, count: int) -> slice:
    return slice(*np.searchsorted(places, [first, first + count]).tolist())


def combined(
    parts: Sequence[Part],
    paths: Sequence[Path],
    on_error: OnError,
    folder: Path,
    contents: Path | None = None,
) -> Whole:
    """Reports of all parts as one, systems told apart, and copies found.

    Args:
        parts: of a conversion.
        paths: their stores.
        on_error: "skip" leaves copies under one id out.
        folder: for buckets, which are removed again.
        contents: file for the hash of each frame that is kept, uint64.

    Raises:
        DataError: two equal frames have the same ids and `on_error` is "raise"; names both.
    """
    found = _Frames(parts, paths)
    none = np.zeros(0, dtype=np.int64)
    whole = Whole(found.report, found.starts, none, none, none)
    with Buckets(found, folder, "sid") as by_sid:
        whole.dropped = _copies_of_one_id(found, by_sid, on_error)
        renamed = [_renamed(rows, whole.dropped) for rows in by_sid]
    with Buckets(found, folder, "content") as by_content:
        _tell_of_copies(found, by_content, whole.dropped)
    places, systems = (np.concatenate(one) for one in zip(*renamed, strict=True))
    order = np.argsort(places)
    whole.renamed, whole.systems = places[order], systems[order]
    if len(places):
        log.warning(
            "%d frames, the first %s, have an id that stands for more than one system (of other "
            "atoms, in another file, or with its frame's number again); they are kept as systems "
            "of their own",
            len(places),
            found.called(int(whole.renamed[0])),
        )
    whole.report.frames = found.count - len(whole.dropped)
    if contents is not None:
        with contents.open("wb") as file:
            for rows in found.rows():
                kept = ~np.isin(rows["place"], whole.dropped)
                file.write(rows["content"][kept].tobytes())
            file.flush()
            os.fsync(file.fileno())
    return whole


def found_in(contents: Path, others: Path) -> Array:
    """Which hashes of a file, as `combined` makes it, another has; of that a piece is in memory."""
    values = np.fromfile(contents, "u8")
    found = np.zeros(len(values), dtype=bool)
    with others.open("rb") as file:
        while len(piece := np.fromfile(file, "u8", BUCKET)):
            found |= np.isin(values, piece)
    return found


class _Frames:
    """Frames of all parts in order, read from the parts' stores."""

    def __init__(self, parts: Sequence[Part], paths: Sequence[Path]) -> None:
        self.parts, self.paths = parts, paths
        self.report = Report()
        self.starts: list[int] = []
        self.count = 0
        for path in paths:
            store = StoreDataset(path)
            told = store.meta["report"]
            self.report.skipped += told["skipped"]
            self.report.filtered += told["filtered"]
            self.report.tags.update(told["tags"])
            self.report.unkept.update(told["unkept"])
            self.starts.append(self.count)
            self.count += len(store)
            close_environment(path)
        self.starts.append(self.count)

    def rows(self) -> Iterator[Array]:
        """Frames as `ROW`s, those of one part after another."""
        for part, path, start in zip(self.parts, self.paths, self.starts, strict=False):
            store = StoreDataset(path)
            told, rows = store.meta["report"], np.zeros(len(store), ROW)
            digests = np.frombuffer(bytes.fromhex(told["digests"]), "<u8").reshape(-1, 2)
            bits = np.frombuffer(bytes.fromhex(told["numbered"]), "u1")
            rows["numbered"] = np.unpackbits(bits, count=len(store))
            rows["sid"], rows["fid"], rows["file"] = store.sids, store.fids, part.number
            rows["content"] = digests[:, 0]
            # a file without ids is one system
            rows["atoms"] = np.where(rows["numbered"], 0, digests[:, 1])
            rows["place"] = start + np.arange(len(store))
            close_environment(path)
            yield rows

    def called(self, place: int) -> str:
        """How messages name a frame: by its number in its file."""
        of = bisect_right(self.starts, place) - 1
        number = self.parts[of].start + place - self.starts[of]
        for left_out in StoreDataset(self.paths[of]).meta["report"]["dropped"]:  # in order
            number += left_out <= number
        close_environment(self.paths[of])
        return f"frame {number} of {self.parts[of].file}"


class Frames(Protocol):
    """Frames in order, as `ROW`s."""

    count: int

    def rows(self) -> Iterator[Array]:
        """All of them, some at a time."""


class Buckets:
    """Frames dealt by a column, so that equal ones are together; each bucket keeps their order."""

    def __init__(self, frames: Frames, folder: Path, column: str) -> None:
        self.frames, self.column = frames, column
        self.number = max(1, -(-frames.count // BUCKET))
        self.files = [folder / f".{column}-{number}.tmp" for number in range(self.number)]

    def __enter__(self) -> Buckets:
        if self.number == 1:
            return self
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in self.files]
            for rows in _pieces(self.frames.rows()):
                mixed = rows[self.column].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
                bucket = (mixed >> np.uint64(32)) % np.uint64(self.number)
                order = np.argsort(bucket, kind="stable")
                ends = np.searchsorted(bucket[order], np.arange(self.number + 1))
                for file, start, end in zip(files, ends[:-1], ends[1:], strict=True):
                    file.write(rows[order[start:end]].tobytes())
        return self

    def __iter__(self) -> Iterator[Array]:
        if self.number == 1:
            yield np.concatenate(list(self.frames.rows()))
            return
        for path in self.files:
            yield np.fromfile(path, ROW)

    def __exit__(self, *_: object) -> None:
        for path in self.files:
            path.unlink(missing_ok=True)


def _pieces(parts: Iterator[Array]) -> Iterator[Array]:
    """Rows of many small parts together."""
    waiting: list[Array] = []
    for rows in parts:
        waiting.append(rows)
        if sum(map(len, waiting)) >= _DEALT:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _copies_of_one_id(frames: _Frames, buckets: Buckets, on_error: OnError) -> Array:
    """Places of frames that equal an earlier one under the same ids, ascending."""
    later, first = copies_in(buckets, ["sid", "fid", "content"], lambda rows: rows)
    if not len(later):
        return later
    one = next(rows for rows in frames.rows() if later[0] in rows["place"])
    one = one[one["place"] == later[0]][0]
    message = (
        f"{frames.called(first[0])} and {frames.called(later[0])} have the same sid {one['sid']} "
        f"and fid {one['fid']} and are equal, and {len(later)} frames in all repeat another's; "
        "remove the duplicates"
    )
    if on_error == "raise":
        raise DataError(f"{message} {HINT}")
    frames.report.skipped += [
        f"{frames.called(b)} equals {frames.called(a)}" for a, b in zip(first, later, strict=True)
    ]
    return later


def _tell_of_copies(frames: _Frames, buckets: Buckets, dropped: Array) -> None:
    later, first = copies_in(
        buckets, ["content"], lambda rows: rows[~np.isin(rows["place"], dropped)]
    )
    if len(later):
        log.warning(
            "%d frames equal another under another id, the first %s that equals %s; where these "
            "are copies, remove them: one may be in train and the other in val_id",
            len(later),
            frames.called(later[0]),
            frames.called(first[0]),
        )


def copies_in(
    buckets: Buckets, columns: list[str], chosen: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Places of copies, ascending, and of what each is a copy of."""
    pairs = []
    for every in buckets:
        rows = chosen(every)
        later, first = copies(table(rows), columns)
        pairs.append(rows["place"][np.stack([later, first])])
    later, first = np.concatenate(pairs, axis=1)
    order = np.argsort(later)
    return later[order], first[order]


def _renamed(rows: Array, dropped: Array) -> tuple[Array, Array]:
    """Places of frames that are of another system than their id says, and those systems."""
    rows = rows[~np.isin(rows["place"], dropped)]
    rows["place"] -= np.searchsorted(dropped, rows["place"])  # among those that are kept
    systems = told_apart(table(rows))
    changed = np.flatnonzero(systems != rows["sid"])
    places = rows["place"][changed]
    before = np.searchsorted(dropped - np.arange(len(dropped)), places, "right")
    return places + before, systems[changed]
