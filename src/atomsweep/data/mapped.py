"""Large arrays that lie in a file: what was read of one does not stay in a process's memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from atomsweep.data.structure import Array

LARGE = 1 << 26  # bytes of an array whose pages are given back
AT_ONCE = 256  # values that are read in between


def take(array: Array, places: Array) -> Array:
    """`array[places]`, a copy; pages of a large mapped file that this touched are given back.

    The kernel maps 64 kB to 2 MB around each value, so without it a process soon holds all of the
    file. The pages stay in the machine's cache, for this process and the others.
    """
    if not _base(array):
        return array[places]
    values = np.empty(len(places), array.dtype)
    ascending = np.argsort(places)  # neighbours lie on the same pages
    for start in range(0, len(places), AT_ONCE):
        some = ascending[start : start + AT_ONCE]
        values[some] = array[places[some]]
        give_back(array)
    return values


def give_back(array: Array) -> None:
    """Let go of the pages of a large read-only mapped file that `array` is a view of.

    The array stays as it is: what is read again is mapped again. Of any other array nothing
    happens.
    """
    if base := _base(array):
        base.madvise(mmap.MADV_DONTNEED)


def _base(array: Array) -> mmap.mmap | None:
    if array.nbytes < LARGE or array.flags.writeable:
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and memoryview(base).readonly:  # what is written would be lost
        return base
    return None
