"""LMDB files opened for reading, each once in a process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import lmdb

from atomsweep.data.store.pages import page_fault
from atomsweep.data.structure import DataError
from atomsweep.tracking.files import check_regular

_environments: dict[tuple[int, int], tuple[str, Any]] = {}  # of device and inode; with its path
_environments_lock = threading.Lock()
_sound: set[tuple[str, int, int, int]] = set()  # files whose pages were looked at


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _environments_lock
    _environments_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def open_environment(path: Path) -> Any:
    """The one reader of a file in this process; LMDB refuses to open a file twice.

    Keyed by inode: a replaced file is another. A reader without locks only maps the file, so it
    goes on working in a forked child.

    Raises:
        DataError: the file is no LMDB, was cut off or is damaged; names it.
        lmdb.Error: it cannot be opened.
    """
    check_regular(path)
    stat, key = path.stat(), _key(path)
    with _environments_lock:
        if key not in _environments:
            where = str(path.resolve())
            as_it_is = (where, *key, stat.st_mtime_ns)
            if as_it_is not in _sound and (fault := page_fault(path)):
                raise DataError(f"{path} {fault}; fetch or build it again")
            _sound.add(as_it_is)
            env = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False
            )
            _environments[key] = where, env
        return _environments[key][1]


def _key(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def close_environment(path: Path) -> None:
    """Close the reader of a file, if there is one; whoever reads it again opens it anew."""
    closed = str(path.resolve())
    now = _key(path) if path.exists() else None  # it may have been moved since
    with _environments_lock:
        for key in [k for k, (where, _) in _environments.items() if where == closed or k == now]:
            _environments.pop(key)[1].close()
