"""Building a data directory once: a lock between processes, a rename at the end, no halves."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from atomsweep.data.store.native import sync_directory

log = logging.getLogger(__name__)


def build_once(directory: Path, build: Callable[[Path], None], what: str) -> None:
    """Make `directory` by `build(partial)` unless it exists.

    `build` fills `<directory>.partial` and may find there what an earlier, killed build left; the
    directory appears under its name only when it is complete. Of several processes one builds, the
    others wait and say so.

    Args:
        directory: what must exist afterwards.
        build: fills the directory that it is given.
        what: how messages call it.

    Raises:
        OSError: the place cannot be written or is full; names the path.
    """
    if directory.is_dir():
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.with_name(directory.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process is building %s in %s; waiting for it", what, directory)
            lock.acquire()
    except PermissionError as error:
        raise PermissionError(
            errno.EACCES,
            f"cannot build {what} here; set data.root to a writable directory",
            str(directory),
        ) from error
    try:
        if directory.is_dir():
            return
        partial = directory.with_name(directory.name + ".partial")
        try:
            partial.mkdir(exist_ok=True)
            for left in partial.glob(".*.tmp"):  # half a file of a build that was killed
                left.unlink()
            build(partial)
            os.replace(partial, directory)  # noqa: PTH105
            sync_directory(directory.parent)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"the disk is full while building {what}; free space or set data.root elsewhere",
                str(error.filename if error.filename is not None else partial),
            ) from error
    finally:
        lock.release()


def remove_tree(path: Path) -> None:
    """Remove a directory if it is there."""
    if path.exists():
        shutil.rmtree(path)
