"""Asking a run to stop: a signal or a file is the wish; the loop checkpoints at the next step.

The file is how a study prunes a trial that trains in another process, or on another node.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from atomsweep.interrupts import leave

LOOK_S = 0.5  # between two looks for the file
# Interrupt at the keyboard, `kill` and schedulers, and the time-limit warning of submitit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interrupted(Exception):
    """The run was asked to stop and has written a checkpoint; the same command continues it."""


class StopFlag:
    """True once one of `SIGNALS` has come, or `file` is there."""

    def __init__(self, file: Path | None = None) -> None:
        self.signal: str | None = None
        self._file = file
        self._looked = -float("inf")
        self._at_once = False

    def __bool__(self) -> bool:
        now = time.monotonic()
        if self.signal is None and self._file is not None and now - self._looked >= LOOK_S:
            self._looked = now
            if self._file.exists():
                self.signal = "its study"
        return self.signal is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal raises while the block runs: for long work that a kill may cut off anywhere.

        Raises:
            Interrupted: one has come.
        """
        self._at_once = True
        try:
            if self.signal is not None:
                raise self._before_training()
            yield
        finally:
            self._at_once = False

    def _before_training(self) -> Interrupted:
        return Interrupted(
            f"stopped by {self.signal} before its first step; the same command continues"
        )

    def set(self, number: int, frame: FrameType | None) -> None:
        """Signal handler; the second interrupt ends the process at once, without a checkpoint."""
        if self.signal is not None and number == signal.SIGINT:
            leave(number, frame)
        self.signal = signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # whoever cleans up is not disturbed by the next one
            raise self._before_training()


@contextmanager
def stop_on_signals(file: Path | None = None) -> Iterator[StopFlag]:
    """Handlers for `SIGNALS` while the context lasts. Outside the main thread: a flag alone."""
    flag = StopFlag(file)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
