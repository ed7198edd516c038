"""Ctrl-C before anything is begun: one sentence, no traceback. Imports next to nothing."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
STOPPED = "stopped; the same command continues\n"


def leave_when_asked(*numbers: signal.Signals) -> None:
    """From here on these signals end this process at once, with a sentence and no traceback.

    For the start, when nothing needs a clean end: half-done work is left as after kill -9, which
    every file survives. A signal that is ignored already (Ctrl-C of a shell's background job) stays
    ignored. Outside the main thread nothing changes.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # another thread than the main one
                signal.signal(number, leave)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """Signal handler: end at once, with a sentence."""
    with suppress(OSError):
        os.write(2, STOPPED.encode())
    os._exit(EXIT_INTERRUPTED)
