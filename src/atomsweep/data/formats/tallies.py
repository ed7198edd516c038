"""What `data describe` keeps of the frames it reads: ranges, a sample, reasons, which are equal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import IO

import numpy as np

from atomsweep.data.frames import Frame
from atomsweep.data.store.record import digests, encode
from atomsweep.data.store.systems import ROW, table, told_apart
from atomsweep.data.store.whole import Buckets, copies_in
from atomsweep.data.structure import Array

SHOWN = 5  # reasons in a report
REASONS = 200  # kinds of reasons counted apart
IN_MEMORY = 16 << 20  # bytes of identities, beyond which they are in a temporary file
PIECE = 1 << 20  # frames
WAITING = 4096  # numbers
_NUMBERS = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.IGNORECASE)


class Range:
    """Least, largest, mean and spread of numbers, and the frames with the least and the largest."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.least, self.largest = (np.inf, ""), (-np.inf, "")

    def add(self, value: float, where: str) -> None:
        """Take one more, by Welford's update."""
        self.count += 1
        change = value - self.mean
        self.mean += change / self.count
        self._squares += change * (value - self.mean)
        self.least = min(self.least, (value, where), key=lambda one: one[0])
        self.largest = max(self.largest, (value, where), key=lambda one: one[0])

    def merge(self, other: Range) -> None:
        """Take the numbers of another, which come after."""
        if not other.count:
            return
        both, change = self.count + other.count, other.mean - self.mean
        self._squares += other._squares + change**2 * self.count * other.count / both
        self.mean += change * other.count / both
        self.count = both
        self.least = min(self.least, other.least, key=lambda one: one[0])
        self.largest = max(self.largest, other.largest, key=lambda one: one[0])

    @property
    def std(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self._squares / max(1, self.count)))

    def ends(self, form: str = ".4f") -> str:
        """Both ends and whose they are."""
        (low, first), (high, last) = self.least, self.largest
        return f"{low:{form}} ({first}) to {high:{form}} ({last})"


class Drawn:
    """Some of many numbers, each as likely as any other: all of them while there are few.

    Each gets a random key by its place among all, and those with the least keys are kept, so that
    it does not matter in how many pieces they are looked at.
    """

    def __init__(self, most: int = 100_000, place: int = 0) -> None:
        self.most, self.place = most, place  # of the next number
        self._kept = np.zeros((2, 0))  # keys, values
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Take or pass over one more."""
        self._waiting.append(value)
        if len(self._waiting) == WAITING:
            self._draw()

    def _draw(self) -> None:
        count = len(self._waiting)
        keys = random_keys(np.arange(self.place, self.place + count))
        self._keep(np.stack([keys, self._waiting]))
        self.place, self._waiting = self.place + count, []

    def _keep(self, more: Array) -> None:
        every = np.concatenate([self._kept, more], axis=1)
        if every.shape[1] > 2 * self.most:
            every = self._least(every)
        self._kept = every

    def _least(self, every: Array) -> Array:
        if every.shape[1] <= self.most:
            return every
        places = np.sort(np.argpartition(every[0], self.most)[: self.most])
        return np.asarray(every[:, places])

    def merge(self, other: Drawn) -> None:
        """Take the numbers of another, whose places come after."""
        self._draw()
        other._draw()
        self._keep(other._kept)
        self.place = other.place

    @property
    def values(self) -> Array:
        """Those that were taken, in their order."""
        self._draw()
        return self._least(self._kept)[1]


def random_keys(places: Array) -> Array:
    """Numbers in [0, 1) that look random: SplitMix64 of each place. Shape: (K,) -> (K,)."""
    mixed = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53)


class Reasons:
    """Messages about frames, counted; those that differ only in numbers count as one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        self._add(_NUMBERS.sub("#", reason), 1, reason, where)

    def merge(self, other: Reasons) -> None:
        """Take the messages of another, which come after."""
        for kind, count in other.counts.items():
            self._add(kind, count, *other._first[kind])

    def _add(self, kind: str, count: int, reason: str, where: str) -> None:
        if kind not in self.counts and len(self.counts) >= REASONS:
            kind = reason = "other reasons"
        self.counts[kind] += count
        self._first.setdefault(kind, (reason, where))

    @property
    def first(self) -> str:
        """The message that came first."""
        reason, where = next(iter(self._first.values()))
        return f"{where}: {reason}"

    def text(self, frames: int) -> str:
        """How many of all frames, and why, the commonest reason first."""
        total = self.counts.total()
        lines = [share(total, frames)] if total else ["none"]
        for kind, count in self.counts.most_common(SHOWN):
            reason, where = self._first[kind]
            lines.append(f"{share(count, frames)}: {reason}, first {where}")
        if len(self.counts) > SHOWN:
            lines.append(f"and {len(self.counts) - SHOWN} other reasons")
        return "\n".join(lines)


class Identities:
    """Which frames are of one system, and which are equal: told as a conversion tells them.

    What is known of each is in a temporary file, so that memory does not grow with them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] | None = None

    def add(self, rows: Array) -> None:
        """Take frames as `ROW`s, numbered from 0."""
        rows = rows.copy()
        rows["place"] += self.count
        self.count += len(rows)
        if self._file is None:
            self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (goes with this object)
        self._file.seek(0, 2)
        self._file.write(rows.tobytes())

    def rows(self) -> Iterator[Array]:
        """All frames in order, as `ROW`s."""
        if self._file is None:
            return
        self._file.seek(0)
        while data := self._file.read(PIECE * ROW.itemsize):
            yield np.frombuffer(data, ROW)

    def report(self) -> list[tuple[str, str]]:
        """Rows of name and value."""
        ids, systems = 0, 0
        with TemporaryDirectory() as folder:
            with Buckets(self, Path(folder), "sid") as buckets:
                again, _ = copies_in(buckets, ["sid", "fid", "content"], lambda rows: rows)
                for rows in buckets:
                    ids += int(table(rows).duplicated(["sid", "fid"]).sum())
                    kept = rows[~np.isin(rows["place"], again)]
                    kept["place"] -= np.searchsorted(again, kept["place"])
                    systems += len(np.unique(told_apart(table(kept))))
            with Buckets(self, Path(folder), "content") as buckets:
                equal, _ = copies_in(
                    buckets, ["content"], lambda rows: rows[~np.isin(rows["place"], again)]
                )
        return [
            ("systems", str(systems)),
            ("frames that repeat another's ids", str(ids)),
            ("equal frames, ids included", str(len(again))),
            ("equal frames under other ids", str(len(equal))),
        ]


def row_of(frame: Frame, file: int, place: int) -> tuple[int, ...]:
    """The `ROW` of a usable frame."""
    assert frame.structure is not None
    structure = frame.structure
    content, atoms = digests(encode(structure))
    atoms = 0 if frame.numbered else atoms  # a file without ids is one system
    return structure.sid, structure.fid, file, content, atoms, place, int(frame.numbered)


def share(count: int, frames: int) -> str:
    """How many of all frames, also in percent."""
    return f"{count} ({100 * count / max(1, frames):.3g} %)"
