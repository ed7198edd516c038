"""Building a data directory once: one process builds, the others wait; whole or not at all."""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from atomsweep.data.store.writer import sync_directory
from atomsweep.tracking.lock import Locked, exclusive

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
    with _alone(directory, what):
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


@contextmanager
def _alone(directory: Path, what: str) -> Iterator[None]:
    """Hold the lock of a directory; waits for another process that has it."""
    with ExitStack() as stack:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            lock = directory.with_name(directory.name + ".lock")
            try:
                stack.enter_context(exclusive(lock, 0.0))
            except Locked:
                log.warning("another process is building %s in %s; waiting for it", what, directory)
                stack.enter_context(exclusive(lock, math.inf))
        except PermissionError as error:
            raise PermissionError(
                errno.EACCES,
                f"cannot build {what} here; set data.root to a writable directory",
                str(directory),
            ) from error
        yield
