"""`atomsweep cancel | retry`: sweeps and runs stopped at a checkpoint, and launched again."""

import argparse
import os
import shlex
import sys
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.shared import add_root, need_root
from atomsweep.launch.control import cancel, plan_of, retry_command
from atomsweep.launch.plan import is_planned
from atomsweep.tracking.find import find_runs


def add(commands: Any) -> None:
    """Enter both commands into the parser."""
    cancel = commands.add_parser("cancel", help="stop a sweep or a run at its next checkpoint")
    cancel.add_argument("what", help="name of a sweep, or name or identity of a run")
    cancel.set_defaults(command=_cancel)

    retry = commands.add_parser("retry", help="launch a sweep again: what failed or is missing")
    retry.add_argument("sweep", help="its name")
    retry.set_defaults(command=_retry)
    add_root(cancel, retry)


def _cancel(options: argparse.Namespace) -> int:
    need_root(options.root)
    runs = find_runs(options.root)
    if is_planned(options.root, options.what):
        wanted = {str(cell["identity"]) for cell in plan_of(options.root, options.what)["cells"]}
        chosen, sweep = [run for run in runs if run.identity in wanted], options.what
    else:
        chosen, sweep = [r for r in runs if options.what in (r.name, r.identity)], None
        if not chosen:
            raise UserError(f"{options.root} has neither a sweep nor a run {options.what}")
    told = cancel(options.root, sweep, chosen)
    print("\n".join(told) if told else "nothing of it is running")
    return 0


def _retry(options: argparse.Namespace) -> int:
    need_root(options.root)
    try:
        words = retry_command(plan_of(options.root, options.sweep), options.root)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(shlex.join(["atomsweep", "run", *words]), flush=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "atomsweep", "run", *words])
    raise AssertionError("exec does not return")
