"""Asking a run to stop: signals set a flag, the loop checkpoints at the next step and ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Interrupt at the keyboard, `kill` and schedulers, and the time-limit warning of submitit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interrupted(Exception):
    """The run was asked to stop and has written a checkpoint; the same command continues it."""


class StopFlag:
    """True once one of `SIGNALS` has come."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def set(self, number: int, frame: FrameType | None) -> None:
        """Signal handler; the second interrupt ends the process at once."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Handlers for `SIGNALS` while the context lasts. Outside the main thread: a flag alone."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
