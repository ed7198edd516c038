"""What several commands share: where runs are, how a table and a warning are printed."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

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
    print_whole("\n".join(aligned(rows)))


def warn(message: str) -> None:
    """A sentence on standard error; the command goes on."""
    print(f"WARNING: {message}", file=sys.stderr, flush=True)


def print_whole(text: str) -> None:
    """Print for a reader that may stop reading, such as `head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        leave_quietly()


def leave_quietly() -> NoReturn:
    """End although nobody reads what is written; Python would complain once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
