"""Whether the pages of an LMDB file can be read: LMDB itself ends the process on a damaged one.

The layout is that of LMDB 0.9 (`struct MDB_page`, `MDB_meta`, `MDB_node` of its `mdb.c`): a tree of
pages, of which the two first say where the root is. All numbers are little-endian.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from pathlib import Path

import numpy as np

from atomsweep.data.structure import DataError

MOST_PAGES = 1 << 14  # 64 MiB of 4 KiB; of a larger tree so many are looked at, from the root down

_HEADER = struct.Struct("<QHHHH")  # page number, -, flags, lower and upper end of the free space
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct("<IHHQQQQQ")  # page size or -, flags, depth, 3 counts of pages, entries, root
_LAST = struct.Struct("<QQ")  # last page, transaction
_MAGIC, _VERSION, _EMPTY = 0xBEEFC0DE, 1, (1 << 64) - 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_KIND = 0x2F  # flags that say what a page is
_FIXED_MAP = 1  # the file asks to be mapped at its address
_BIG = 1  # flag of an entry that lies in pages of its own
_KEYS = 511  # bytes of the longest key


class _Damaged(Exception):
    """Says what is wrong."""


def page_fault(path: Path) -> str | None:
    """What is wrong with an LMDB file, in words that follow its name, or None."""
    size = path.stat().st_size
    if size < 2 * _META_END:
        return f"is not an LMDB file: it has {size} bytes"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _check(data, size)
        except _Damaged as error:
            return str(error)
    return None


def place_of(path: Path, key: bytes) -> tuple[int, int] | None:
    """Offset in the file and size of the value of a key; None where there is no such key.

    So that a large value can be mapped alone, and by any process without reading it.

    Raises:
        DataError: a page on the way to it is damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            page_size, _, depth, _, root, last, _ = _newest(data)
            if root == _EMPTY:
                return None
            tree = _Tree(data, page_size, last)
            try:
                return tree.find(root, depth, key)
            finally:
                del tree.whole  # or the map could not be closed
        except _Damaged as error:
            raise DataError(f"{path} {error}; fetch or build it again") from None


def end_of_pages(path: Path) -> int:
    """Offset behind the last page of an LMDB that `page_fault` finds fine."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        page_size, *_, last, _ = _newest(data)
    return (last + 1) * page_size


_META_END = _HEADER.size + _META.size + 2 * _TREE.size + _LAST.size


def _check(data: mmap.mmap, size: int) -> None:
    page_size, flags, depth, entries, root, last, _ = _newest(data)
    if (last + 1) * page_size > size:
        raise _Damaged(f"is cut off: {size} bytes, {(last + 1) * page_size} expected")
    if flags:
        raise _Damaged(f"is damaged, or a database of another kind (flags {flags})")
    if root == _EMPTY:
        if entries:
            raise _Damaged(f"is damaged: it says {entries} entries and has no root")
        return
    _Tree(data, page_size, last).walk(root, depth, entries)


def _newest(data: mmap.mmap) -> tuple[int, int, int, int, int, int, int]:
    """The head of the last transaction, as `_meta` gives it."""
    page_size, size = _meta(data, 0)[0], len(data)
    if page_size not in (1 << bits for bits in range(9, 17)) or size < 2 * page_size:
        raise _Damaged(f"is not an LMDB file: its pages would have {page_size} bytes")
    metas = [_meta(data, at) for at in (0, page_size)]
    if metas[1][0] != page_size:
        raise _Damaged("is damaged: its two heads tell different sizes of pages")
    return max(metas, key=lambda one: one[-1])


def _meta(data: mmap.mmap, at: int) -> tuple[int, int, int, int, int, int, int]:
    """Page size; flags, depth, entries and root of the tree; last page, transaction."""
    if at + _META_END > len(data):
        raise _Damaged("is cut off in its second page")
    _, _, kind, _, _ = _HEADER.unpack_from(data, at)
    at += _HEADER.size
    magic, version, _, _ = _META.unpack_from(data, at)
    if (magic, version, kind) != (_MAGIC, _VERSION, _META_PAGE):
        raise _Damaged("is not an LMDB file: its head is another")
    page_size, free_flags, *_ = _TREE.unpack_from(data, at + _META.size)
    _, flags, depth, *_, entries, root = _TREE.unpack_from(data, at + _META.size + _TREE.size)
    last, transaction = _LAST.unpack_from(data, at + _META.size + 2 * _TREE.size)
    if free_flags & _FIXED_MAP:
        raise _Damaged(f"is damaged, or a database of another kind (flags {free_flags})")
    return page_size, flags, depth, entries, root, last, transaction


class _Tree:
    """Pages of a file, looked at from the root down."""

    def __init__(self, data: mmap.mmap, page_size: int, last: int) -> None:
        self.data, self.page_size, self.last = data, page_size, last
        self.whole = np.frombuffer(data, "u1")

    def walk(self, root: int, depth: int, entries: int) -> None:
        """Level by level."""
        seen, found, level = {root}, 0, [root]
        for at in range(depth, 0, -1):
            below: list[int] = []
            for number in level:
                if len(seen) > MOST_PAGES and at == 1:
                    return
                if at > 1:
                    below += self._branch(number)
                else:
                    found += self._leaf(number)
            if len(set(below)) < len(below) or seen.intersection(below):
                raise _Damaged("is damaged: two of its pages name the same page below")
            seen.update(below)
            level = below
        if found != entries:
            raise _Damaged(f"is damaged: it says {entries} entries and has {found}")

    def find(self, number: int, depth: int, key: bytes) -> tuple[int, int] | None:
        """As `place_of`, from a page `depth` levels above the records."""
        for at in range(depth, 0, -1):
            page, low, high, flags, keys, starts = self._nodes(number, _BRANCH if at > 1 else _LEAF)
            if (starts + 8 + keys > self.page_size).any():
                raise _Damaged(f"is damaged: page {number} is not as it should be")
            first = 1 if at > 1 else 0  # the first key of a branch is empty
            names = [
                page[start + 8 : start + 8 + size].tobytes()
                for start, size in zip(starts[first:].tolist(), keys[first:].tolist(), strict=True)
            ]
            if at > 1:
                entry = bisect_right(names, key)
                number = int(low[entry] | high[entry] << 16 | flags[entry] << 32)
        if key not in names:
            return None
        entry = names.index(key)
        value, size = int(starts[entry] + 8 + keys[entry]), int(low[entry] | high[entry] << 16)
        if flags[entry] != _BIG:
            return number * self.page_size + value, size
        first = int.from_bytes(page[value : value + 8].tobytes(), "little")
        self._overflow(first, size)
        return first * self.page_size + _HEADER.size, size

    def _branch(self, number: int) -> list[int]:
        _, low, high, flags, keys, starts = self._nodes(number, _BRANCH)
        if len(starts) < 2 or (starts + 8 + keys > self.page_size).any():
            raise _Damaged(f"is damaged: page {number} is not as it should be")
        return (low | high << 16 | flags << 32).tolist()

    def _leaf(self, number: int) -> int:
        page, low, high, flags, keys, starts = self._nodes(number, _LEAF)
        sizes = low | high << 16
        big = flags == _BIG
        inside = np.where(big, 8, sizes)
        if (
            (flags > _BIG).any()
            or (keys < 1).any()
            or (keys > _KEYS).any()
            or (starts + 8 + keys + inside > self.page_size).any()
        ):
            raise _Damaged(f"is damaged: page {number} is not as it should be")
        for entry in np.flatnonzero(big).tolist():
            at = int(starts[entry] + 8 + keys[entry])
            first = int.from_bytes(page[at : at + 8].tobytes(), "little")
            self._overflow(first, int(sizes[entry]))
        return len(starts)

    def _overflow(self, first: int, size: int) -> None:
        own, _, kind, low, high = self._header(first)
        pages = low | high << 16
        if (
            own != first
            or kind & _KIND != _OVERFLOW
            or first + pages - 1 > self.last
            or size > pages * self.page_size - _HEADER.size
        ):
            raise _Damaged(f"is damaged: page {first} is not as it should be")

    def _header(self, number: int) -> tuple[int, int, int, int, int]:
        if not 2 <= number <= self.last:
            raise _Damaged(f"is damaged: it names page {number}, which it does not have")
        return _HEADER.unpack_from(self.data, number * self.page_size)

    def _nodes(self, number: int, expected: int) -> tuple[np.ndarray, ...]:
        """The page, and low, high, flags, size of key and start of each entry."""
        own, _, kind, lower, upper = self._header(number)
        page = self.whole[number * self.page_size : (number + 1) * self.page_size]
        if (
            own != number
            or kind & _KIND != expected
            or not _HEADER.size < lower <= upper <= self.page_size
            or lower % 2
        ):
            raise _Damaged(f"is damaged: page {number} is not as it should be")
        starts = page[_HEADER.size : lower].view("<u2").astype(np.int64)
        if (starts < upper).any() or (starts > self.page_size - 8).any() or (starts % 2).any():
            raise _Damaged(f"is damaged: page {number} is not as it should be")
        heads = page[starts[:, None] + np.arange(8)].view("<u2").astype(np.int64)
        return page, heads[:, 0], heads[:, 1], heads[:, 2], heads[:, 3], starts
