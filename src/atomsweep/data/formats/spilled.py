"""Numbers of many frames, in a file that grows, looked at a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile, TemporaryFile

import numpy as np

from atomsweep.data.structure import Array

IN_MEMORY = 16 << 20  # bytes, beyond which they are in a temporary file
PIECE = 1 << 21  # rows in memory at once
_WAITING = 4096


class Spilled:
    """Rows of numbers, one for each frame.

    Args:
        dtype: of the numbers.
        width: numbers of a row.
    """

    def __init__(self, dtype: str, width: int = 1) -> None:
        self.dtype, self.width = np.dtype(dtype), width
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (goes with this object)
        self._waiting: list[tuple[float, ...]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, *row: float) -> None:
        """Add a row."""
        self._waiting.append(row)
        self._count += 1
        if len(self._waiting) == _WAITING:
            self._write()

    def _write(self) -> None:
        self._file.seek(0, 2)
        self._file.write(np.array(self._waiting, self.dtype).tobytes())
        self._waiting = []

    def pieces(self) -> Iterator[Array]:
        """All rows, at most `PIECE` at a time. Shape: (S, width)."""
        if self._waiting:
            self._write()
        self._file.seek(0)
        size = PIECE * self.width * self.dtype.itemsize
        while data := self._file.read(size):
            yield np.frombuffer(data, self.dtype).reshape(-1, self.width)

    def total(self) -> float:
        """Sum of the first column; exact for integers."""
        return sum(piece[:, 0].sum().item() for piece in self.pieces())

    def std(self) -> float:
        """Standard deviation of the first column."""
        mean = self.total() / len(self)
        squares = sum(((piece[:, 0] - mean) ** 2).sum().item() for piece in self.pieces())
        return float(np.sqrt(squares / len(self)))

    def sample(self) -> Array:
        """(S,) the first column; of more than `PIECE` rows that many or more, evenly spread."""
        every, found, place = max(1, len(self) // PIECE), [np.zeros(0, self.dtype)], 0
        for piece in self.pieces():
            found.append(piece[-place % every :: every, 0])
            place += len(piece)
        return np.concatenate(found)

    def distinct(self, width: int) -> int:
        """Number of different rows, by their first `width` numbers."""
        buckets = max(1, -(-len(self) // PIECE))
        if buckets == 1:
            return sum(len(np.unique(piece[:, :width], axis=0)) for piece in self.pieces())
        count = 0
        with ExitStack() as stack:
            files = [stack.enter_context(TemporaryFile()) for _ in range(buckets)]
            for piece in self.pieces():
                mixed = np.zeros(len(piece), np.uint64)
                for column in range(width):
                    mixed = (mixed ^ piece[:, column].astype(np.uint64)) * np.uint64(_ODD)
                bucket = (mixed >> np.uint64(32)) % np.uint64(buckets)
                for number, file in enumerate(files):
                    file.write(piece[bucket == number, :width].tobytes())
            for file in files:
                file.seek(0)
                rows = np.frombuffer(file.read(), self.dtype).reshape(-1, width)
                count += len(np.unique(rows, axis=0))
        return count


_ODD = 0x9E3779B97F4A7C15
