"""`atomsweep status`: what runs, how far, at what cost; what is missing and why."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.shared import add_root, need_root, print_table, warn
from atomsweep.console import NOTHING, duration
from atomsweep.launch.control import plan_of
from atomsweep.launch.overview import Line, Overview, Seen, Standing, counts, slowest
from atomsweep.launch.plan import is_planned
from atomsweep.sweep.looks import told as told_of_claims
from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps
from atomsweep.tracking.run import RunDirectory

COLUMNS = ("run", "state", "step", "metric", "device time", "process or job", "heard of")
SWEEP_COLUMNS = ("sweep", "cells", "states", "device time", "still to come")
MOST = 40  # lines of a table; of more runs those are told that one looks for
MOST_OF = {schema.RUNNING: 10, schema.FAILED: 10, schema.INTERRUPTED: 5}  # the slowest, the newest
MOST_REASONS = 5
EVERY = 2.0  # seconds between two looks, and at least REST times the CPU seconds of one
REST = 20.0
FORMAT = 1  # of the JSON: raised where a field changes its meaning or goes
FIELDS = (
    "name", "identity", "sweep", "state", "step", "total_steps", "fraction", "seconds_left",
    "metric", "value", "device_seconds", "process", "heartbeat", "message", "path",
)  # fmt: skip
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    status = commands.add_parser("status", help="tables of sweeps and runs")
    status.add_argument("sweep", nargs="?", help="only this sweep, its cells one by one")
    status.add_argument(
        "--all", action="store_true", help=f"a line for every run, also of more than {MOST}"
    )
    how = status.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    how.add_argument("--json", action="store_true", help="for scripts: every sweep and run")
    status.set_defaults(command=_status)
    add_root(status)


def _status(options: argparse.Namespace) -> int:
    need_root(options.root)
    overview = Overview(options.root)
    if options.watch:
        return _watch(overview, options)
    seen, lines = _look(overview, options.sweep)
    if options.json:
        print(dumps(_document(options.root, seen, lines), indent=1))
        return 0
    _print(seen, lines, options)
    return 0


def _watch(overview: Overview, options: argparse.Namespace) -> int:
    """The tables again and again, on a screen that is cleared where there is one."""
    _look(overview, options.sweep)  # it reads everything, and the next what has changed
    while True:
        start = time.process_time()
        seen, lines = _look(overview, options.sweep)
        took = time.process_time() - start
        if sys.stdout.isatty():
            print(CLEAR, end="")
        print(f"{options.root} at {time.strftime('%H:%M:%S')}; Ctrl-C ends this\n")
        _print(seen, lines, options)
        sys.stdout.flush()
        time.sleep(max(EVERY, REST * took))


def _look(overview: Overview, sweep: str | None) -> tuple[Seen, Sequence[Line]]:
    """What is to be told, and the lines of it: of a sweep its cells, else every run.

    Raises:
        UserError: there is no such sweep.
    """
    root = overview.root
    if sweep is None:
        seen = overview.look()
        return seen, seen.lines
    if is_planned(root, sweep):
        seen = overview.look(only=sweep)
        return seen, seen.sweeps[sweep].lines
    seen = overview.look()
    lines = [line for line in seen.lines if line.sweep == sweep]  # its plan is lost
    if not lines:
        known = {line.sweep for line in seen.lines if line.sweep} | {*seen.sweeps}
        raise UserError(
            f"no runs of sweep {sweep!r} in {root}; known: "
            f"{', '.join(sorted(known)) or 'no sweep at all'}"
        )
    return Seen(lines, {}, seen.problems), lines


def _document(root: Path, seen: Seen, lines: Sequence[Line]) -> dict[str, Any]:
    """What `--json` prints; docs/running.md says what each field is."""
    return {
        "format": FORMAT,
        "root": root.absolute(),
        "time": time.time(),
        "sweeps": [
            {
                "name": standing.name,
                "cells": len(standing.lines),
                "states": standing.counts(),
                "device_seconds": standing.spent,
                "device_seconds_left": standing.left,
                "unknown": standing.unknown,
            }
            for standing in seen.sweeps.values()
        ],
        "runs": [{name: getattr(line, name) or None if name == "process" else getattr(line, name)
                  for name in FIELDS} for line in lines],
        "problems": list(seen.problems),
    }  # fmt: skip


def _print(seen: Seen, lines: Sequence[Line], options: argparse.Namespace) -> None:
    if seen.sweeps:
        standings = list(seen.sweeps.values())
        hidden = 0 if options.all else max(0, len(standings) - MOST)
        print_table([SWEEP_COLUMNS, *(_sweep_row(s) for s in standings[hidden:])])
        print(f"and {hidden} older sweeps; --all tells them\n" if hidden else "")
    told = list(lines) if options.all else _chosen(lines)
    if told or len(lines) <= MOST:
        print_table([COLUMNS, *map(_row, told)])
    if len(told) < len(lines):
        rest = len(lines) - len(told)
        print(f"and {rest} more, not told one by one; --all tells them, --json for scripts")
    if options.sweep in seen.sweeps:
        claims = plan_of(options.root, options.sweep).get(schema.CLAIMS) or {}
        print("".join(f"{line}\n" for line in told_of_claims(claims)), end="")
    states = counts(lines)
    print(f"{len(lines)} runs" + "".join(f", {n} {state}" for state, n in states.items()))
    _print_reasons(lines, told)
    directories = [RunDirectory(line.path) for line in told[:MOST] if line.path is not None]
    looked = [problem for run in directories for problem in run.problems()]
    for problem in dict.fromkeys([*seen.problems, *looked]):
        warn(problem)


def _chosen(lines: Sequence[Line]) -> list[Line]:
    """All lines of a few; of many the slowest that run and the newest that failed or stopped."""
    if len(lines) <= MOST:
        return list(lines)
    found = slowest(lines)[: MOST_OF[schema.RUNNING]]
    for state in (schema.FAILED, schema.INTERRUPTED):
        ended = [line for line in lines if line.state == state]
        found += sorted(ended, key=lambda line: -(line.heartbeat or 0.0))[: MOST_OF[state]]
    return found


def _print_reasons(lines: Sequence[Line], told: Sequence[Line]) -> None:
    """Why runs failed or were stopped: one by one of a few, else each reason with its number."""
    stopped = (schema.FAILED, schema.INTERRUPTED)
    why = [line for line in lines if line.message and line.state in stopped]
    if len(told) == len(lines) <= MOST:
        for line in why:
            print(f"{line.name}: {line.message}")
        return
    reasons = Counter((line.state, line.message) for line in why)
    for (state, message), number in reasons.most_common(MOST_REASONS):
        print(f"{number} {state}: {message}")
    if more := len(reasons) - MOST_REASONS:
        print(f"and {more} more reasons" if more > 0 else "", end="\n" if more > 0 else "")


def _sweep_row(standing: Standing) -> tuple[str, ...]:
    left = f"about {duration(standing.left)}" if standing.left else ""
    if standing.unknown:
        left += f"{' + ' if left else ''}{standing.unknown} cells unknown"
    return (
        standing.name,
        str(len(standing.lines)),
        ", ".join(f"{number} {state}" for state, number in standing.counts().items()),
        duration(standing.spent),
        left or NOTHING,
    )


def _row(line: Line) -> tuple[str, ...]:
    done, total = line.step, line.total_steps
    step = NOTHING if done is None else f"{done:.15g}" + (f"/{total:.15g}" if total else "")
    value = NOTHING if line.value is None else f"{line.metric} {line.value:.5g}"
    beat = line.heartbeat
    return (
        line.name,
        line.state,
        step,
        value,
        duration(line.device_seconds),
        line.process or NOTHING,
        NOTHING if beat is None else f"{duration(max(0.0, time.time() - beat))} ago",
    )
