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

_environments: dict[tuple[str, int, int], Any] = {}
_environments_lock = threading.Lock()
_sound: set[tuple[str, int, int, int]] = set()  # files whose pages were looked at


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _environments_lock
    _environments_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def open_environment(path: Path) -> Any:
    """The one reader of a file in this process; LMDB refuses to open a file twice.

    Keyed by inode too: a replaced file is another. A reader without locks only maps the file, so it
    goes on working in a forked child.

    Raises:
        DataError: the file is no LMDB, was cut off or is damaged; names it.
        lmdb.Error: it cannot be opened.
    """
    check_regular(path)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_ino, stat.st_dev)
    with _environments_lock:
        if key not in _environments:
            as_it_is = (*key, stat.st_mtime_ns)
            if as_it_is not in _sound and (fault := page_fault(path)):
                raise DataError(f"{path} {fault}; fetch or build it again")
            _sound.add(as_it_is)
            env = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False
            )
            _environments[key] = env
        return _environments[key]


def close_environment(path: Path) -> None:
    """Close the reader of a file, if there is one; whoever reads it again opens it anew."""
    with _environments_lock:
        for key in [key for key in _environments if key[0] == str(path.resolve())]:
            _environments.pop(key).close()
