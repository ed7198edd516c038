"""What a description keeps of many frames: ranges, a few numbers of many, reasons, identities."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory

import numpy as np

from atomsweep.data.frames import Frame
from atomsweep.data.store.record import digests, encode
from atomsweep.data.store.systems import ROW, table, told_apart
from atomsweep.data.store.whole import Buckets, copies_in
from atomsweep.data.structure import Array

SHOWN = 5  # reasons
REASONS = 200  # that are counted each
IN_MEMORY = 16 << 20  # bytes of identities, beyond which they are in a temporary file
PIECE, WAITING = 1 << 20, 4096  # frames
_NUMBERS = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.IGNORECASE)


class Range:
    """Least, largest, mean and spread of numbers, and which frames have the two."""

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

    @property
    def std(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self._squares / max(1, self.count)))

    def ends(self, form: str = ".4f") -> str:
        """Both ends and whose they are."""
        (low, first), (high, last) = self.least, self.largest
        return f"{low:{form}} ({first}) to {high:{form}} ({last})"


class Drawn:
    """Some of many numbers, each as likely as any other: all of them while there are few."""

    def __init__(self, most: int = 100_000) -> None:
        self.most, self.count = most, 0
        self._values = array("d")
        self._random = np.random.default_rng(0)

    def add(self, value: float) -> None:
        """Take or pass over one more."""
        self.count += 1
        if len(self._values) < self.most:
            self._values.append(value)
        elif (place := int(self._random.integers(self.count))) < self.most:
            self._values[place] = value

    @property
    def values(self) -> Array:
        """Those that were taken."""
        return np.array(self._values)


class Reasons:
    """Messages about frames, counted by what they say but for its numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        kind = _NUMBERS.sub("#", reason)
        if kind not in self.counts and len(self.counts) >= REASONS:
            kind = reason = "other reasons"
        self.counts[kind] += 1
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
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (goes with this object)
        self._waiting: list[tuple[int, ...]] = []

    def add(self, frame: Frame, file: int) -> None:
        """Take a frame."""
        assert frame.structure is not None
        structure = frame.structure
        content, atoms = digests(encode(structure))
        atoms = 0 if frame.numbered else atoms  # a file without ids is one system
        ids = (structure.sid, structure.fid, file)
        self._waiting.append((*ids, content, atoms, self.count, int(frame.numbered)))
        self.count += 1
        if len(self._waiting) == WAITING:
            self._write()

    def _write(self) -> None:
        self._file.seek(0, 2)
        self._file.write(np.array(self._waiting, ROW).tobytes())
        self._waiting = []

    def rows(self) -> Iterator[Array]:
        """All frames in order, as `ROW`s."""
        if self._waiting:
            self._write()
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


def share(count: int, frames: int) -> str:
    """How many of all frames, also in percent."""
    return f"{count} ({100 * count / max(1, frames):.3g} %)"
