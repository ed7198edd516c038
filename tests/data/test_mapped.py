"""Pages of large mapped arrays are given back, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest

from atomsweep.data import mapped
from atomsweep.data.mapped import give_back, take

COUNT = 3 << 20  # numbers of 8 bytes


def in_memory_kib(path):
    """What this process has mapped of a file, by the kernel."""
    total, ours = 0, False
    with Path("/proc/self/smaps").open(encoding="utf-8") as file:
        for line in file:
            if "-" in line.split(" ", 1)[0]:
                ours = line.rstrip().endswith(str(path))
            elif ours and line.startswith("Rss:"):
                total += int(line.split()[1])
    return total


@pytest.fixture
def path(tmp_path):
    np.arange(COUNT).tofile(tmp_path / "column.bin")
    return tmp_path / "column.bin"


@pytest.mark.parametrize("view", [np.asarray, lambda array: np.asarray(array)[1:]])
def test_what_was_read_at_random_is_not_kept(path, view, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1 << 20)
    column = view(np.memmap(path, np.int64, "r"))
    places = np.arange(0, len(column), 512)
    values = np.array(column[places])
    assert np.array_equal(values, places + values[0])
    assert in_memory_kib(path) > 8 * COUNT / 1024 / 2  # the test can see pages
    assert np.array_equal(take(column, places), values)
    assert in_memory_kib(path) == 0
    assert np.array_equal(take(column, places[::-1]), values[::-1])  # still readable


def test_what_is_written_is_not_lost(path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1)
    private = np.memmap(path, np.int64, "c")  # writes to pages of its own, which no file has
    private[7] = -1
    frozen = private[:]
    frozen.flags.writeable = False
    give_back(frozen)
    assert private[7] == -1


def test_small_and_unmapped_arrays_are_left_alone(path):
    array = np.arange(5)
    array.flags.writeable = False
    assert take(array, np.array([3, 1])).tolist() == [3, 1]
    column = np.memmap(path, np.int64, "r")  # 24 MiB are not worth it
    assert take(column, np.array([3, 1])).tolist() == [3, 1]
    assert in_memory_kib(path) > 0
