"""The processes that launch sweeps: how others find them, and how they are asked to stop."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atomsweep.processes import leaving_when_asked
from atomsweep.tracking import schema
from atomsweep.tracking.lock import exclusive, holder_of, is_locked

LAUNCHER = ".launcher"  # ends the name of a file that a launch holds locked


@contextmanager
def launching(root: Path, sweep: str) -> Iterator[None]:
    """Be known as a launcher of `sweep` while the block runs; SIGTERM acts like Ctrl-C.

    Any number of processes may launch one sweep at once.
    """
    path = root / schema.PLANS / f"{sweep}.{socket.gethostname()}.{os.getpid()}{LAUNCHER}"
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in _files(root, sweep):  # of processes that were killed
        if not is_locked(old) and holder_of(old).get("host") == socket.gethostname():
            old.unlink(missing_ok=True)
    try:
        with leaving_when_asked(signal.SIGINT, signal.SIGTERM), exclusive(path):
            yield  # cells that run are stopped in order
    finally:
        with suppress(OSError):
            path.unlink()


def launchers(root: Path, sweep: str) -> list[dict[str, Any]]:
    """`pid` and `host` of every process that launches `sweep` now."""
    return [holder_of(path) for path in _files(root, sweep) if is_locked(path)]


def _files(root: Path, sweep: str) -> list[Path]:
    path = root / schema.PLANS / f"{sweep}.x"
    if not path.parent.is_dir():
        return []
    return [p for p in path.parent.glob(f"*{LAUNCHER}") if _is_of(p, path.stem)]


def _is_of(path: Path, name: str) -> bool:
    """Whether a launcher's file is that of a sweep: `lr.2` is none of the launchers of `lr`."""
    holder = holder_of(path)
    host = str(holder.get("host", socket.gethostname()))
    pattern = re.escape(f"{name}.{host}.") + r"\d+" + re.escape(LAUNCHER)
    return re.fullmatch(pattern, path.name) is not None
