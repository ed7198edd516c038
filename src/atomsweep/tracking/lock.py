"""One holder of a file at a time, on one machine or over a network file system, by `flock`.

The kernel lets go when the holder ends in any way, so a killed process leaves nothing to clean up.
Lock files are never deleted: deleting one would let two processes hold "the same" lock.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atomsweep.tracking.files import read_file

log = logging.getLogger(__name__)

GRACE_S = 1.0  # a look from outside (`is_locked`) holds a lock for microseconds: try again
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_held: set[int] = set()  # file descriptors of this process


class Locked(RuntimeError):
    """Somebody else holds the lock; `holder` has its pid and host, as far as it is known."""

    def __init__(self, message: str, holder: dict[str, Any]) -> None:
        super().__init__(message)
        self.holder = holder


@contextmanager
def exclusive(path: Path, wait_s: float = GRACE_S) -> Iterator[None]:
    """Hold `path` alone.

    Args:
        path: lock file; made when missing, in a directory that exists.
        wait_s: how long to try.

    Raises:
        Locked: another process, or another part of this one, has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(fd)
    try:
        _wait_for(fd, path, wait_s)
        _sign(fd)
        yield
    finally:
        if fd in _held:
            _held.remove(fd)
            os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether some process holds `path` now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError):  # whoever may not open it will not hold it either
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        raise
    finally:
        os.close(fd)
    return False


def holder_of(path: Path) -> dict[str, Any]:
    """Last known holder: `pid`, `host`, `since`; {} when that cannot be read."""
    try:
        holder = json.loads(read_file(path))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _sign(fd: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
    except OSError as error:  # a full disk: the lock holds all the same, without a name on it
        log.debug("cannot name the holder of a lock: %s", error)


def _wait_for(fd: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                log.warning(
                    "the file system of %s has no locks: nothing keeps a second process out", path
                )
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() >= deadline:
                holder = holder_of(path)
                raise Locked(
                    f"{path} is held by process {holder.get('pid', '?')} "
                    f"on {holder.get('host', '?')}",
                    holder,
                ) from None
            time.sleep(min(0.05, wait_s))
        else:
            return


def _let_go_in_child() -> None:
    """A forked data worker must not keep the lock of its parent after the parent was killed."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
