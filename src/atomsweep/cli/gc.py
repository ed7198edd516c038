"""`atomsweep gc`: what nothing refers to any more, listed; with `--delete`, deleted."""

import argparse
from typing import Any

from atomsweep.cli.shared import add_root, need_root, print_table, warn
from atomsweep.launch.unused import remove, unused


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    told = "snapshots, jobs' files and old results that nothing refers to; deletes when asked"
    gc = commands.add_parser("gc", help=told)
    gc.add_argument("--delete", action="store_true", help="delete them; else they are only listed")
    gc.set_defaults(command=_gc)
    add_root(gc)


def _gc(options: argparse.Namespace) -> int:
    need_root(options.root)
    found = unused(options.root)
    if not found:
        print(f"nothing in {options.root} is unused")
        return 0
    rows = [(str(one.path.relative_to(options.root)), _told(one.size), one.why) for one in found]
    print_table([("unused", "size", "why"), *rows])
    whole = _told(sum(one.size for one in found))
    if not options.delete:
        print(f"{len(found)} of {whole}; `atomsweep gc --delete` deletes them")
        return 0
    failed = 0
    for one in found:
        try:
            remove(one)
        except OSError as error:
            warn(f"{one.path}: {error}")
            failed += 1
    print(f"{len(found) - failed} of {len(found)} deleted, {whole}")
    return int(failed > 0)


def _told(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
