"""Ctrl-C before anything is begun: one sentence, no traceback. Imports next to nothing."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
STOPPED = "stopped; the same command continues\n"


def leave_when_asked(*numbers: signal.Signals) -> None:
    """From here on these signals end this process at once, with a sentence and no traceback.

    For the time in which nothing has to be brought to an end: what is half done is as after a
    kill -9, which every file survives. What is ignored, as Ctrl-C is in the background of a shell,
    stays ignored. Outside the main thread nothing changes.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # another thread than the main one
                signal.signal(number, leave)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """Signal handler: end at once, with a sentence."""
    with suppress(OSError):
        os.write(2, STOPPED.encode())
    os._exit(INTERRUPTED)
