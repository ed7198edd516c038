"""What several commands share: where runs are, how a table and a warning are printed."""

import argparse
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from atomsweep.build import UserError
from atomsweep.console import aligned


def add_root(*commands: argparse.ArgumentParser) -> None:
    """The option that says where runs are."""
    for command in commands:
        command.add_argument("--root", type=Path, default=Path("runs"), help="where runs are")


def need_root(root: Path) -> None:
    """Refuse a root that is not there.

    Raises:
        UserError: names it.
    """
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; say where the runs are with --root")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns of equal width, on standard output."""
    print("\n".join(aligned(rows)))


def warn(message: str) -> None:
    """A sentence on standard error; the command goes on."""
    print(f"WARNING: {message}", file=sys.stderr, flush=True)


@contextmanager
def for_a_reader() -> Iterator[None]:
    """A command whose reader may stop reading, such as `head`: then it ends without a word.

    What is written is flushed here, not at the end of Python, where nobody could catch it.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it may be closed
                sys.stdout.flush()
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:  # the pipe of some process of ours
            raise
        for stream in unread:  # Python flushes them once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)


def _is_unread(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file at all
        return False
