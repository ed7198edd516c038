"""`atomsweep status`: what runs, how far, at what cost; what is missing and why."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.shared import add_root, need_root, print_table, warn
from atomsweep.console import duration
from atomsweep.launch.control import Standing, job_of, plan_of, standing, sweeps
from atomsweep.launch.costs import Costs
from atomsweep.launch.plan import is_planned
from atomsweep.tracking import schema
from atomsweep.tracking.files import DamagedFile, told
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.state import by_identity, state_of

COLUMNS = ("run", "state", "step", "metric", "device time", "process or job", "heard of")
SWEEP_COLUMNS = ("sweep", "cells", "states", "device time", "still to come")


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    status = commands.add_parser("status", help="tables of sweeps and runs")
    status.add_argument("sweep", nargs="?", help="only this sweep, every cell of it")
    status.set_defaults(command=_status)
    add_root(status)


def _status(options: argparse.Namespace) -> int:
    need_root(options.root)
    problems: list[str] = []
    runs = find_runs(options.root, problems)
    found = by_identity(runs)
    names = sweeps(options.root) if options.sweep is None else [options.sweep]
    if options.sweep is not None and not is_planned(options.root, options.sweep):
        names, runs = [], _of_sweep(options.root, options.sweep, runs)
    if names:
        costs = Costs.of(runs)
        standings = []
        for name in names:
            try:
                standings.append(standing(options.root, name, found, costs))
            except (DamagedFile, OSError) as error:
                problems.append(told(error))
        print_table([SWEEP_COLUMNS, *(_sweep_row(s) for s in standings)])
        print()
    rows = [_row(run, state_of(run)) for run in runs]
    if options.sweep is not None and names:
        if not standings:
            raise UserError(*problems[-1:])
        (one,) = standings
        runs = [run for run in one.runs if run is not None]
        cells = zip(plan_of(options.root, one.name)["cells"], one.runs, one.states, strict=True)
        nothing = ("–",) * (len(COLUMNS) - 2)
        rows = [
            (str(cell.get("name")), state, *nothing) if run is None else _row(run, state)
            for cell, run, state in cells
        ]
    print_table([COLUMNS, *rows])
    states = [row[1] for row in rows]
    print(f"{len(rows)} runs" + "".join(f", {states.count(s)} {s}" for s in dict.fromkeys(states)))
    for run in runs:
        why = run.status.get("message")
        if why and run.state() in (schema.FAILED, schema.INTERRUPTED):
            print(f"{run.name}: {why}")
    for problem in [*problems, *(problem for run in runs for problem in run.problems())]:
        warn(problem)
    return 0


def _of_sweep(root: Path, sweep: str, runs: list[RunDirectory]) -> list[RunDirectory]:
    """Runs that name a sweep whose plan is lost."""
    found = [run for run in runs if run.run.get("sweep") == sweep]
    if not found:
        known = {str(run.run["sweep"]) for run in runs if run.run.get("sweep")} | {*sweeps(root)}
        raise UserError(
            f"no runs of sweep {sweep!r} in {root}; known: "
            f"{', '.join(sorted(known)) or 'no sweep at all'}"
        )
    return found


def _sweep_row(standing: Standing) -> tuple[str, ...]:
    states = list(standing.states)
    left = f"about {duration(standing.left)}" if standing.left else ""
    if standing.unknown:
        left += f"{' + ' if left else ''}{standing.unknown} cells unknown"
    return (
        standing.name,
        str(len(states)),
        ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        duration(standing.spent),
        left or "–",
    )


def _row(run: RunDirectory, state: str) -> tuple[str, ...]:
    status, result = run.status, run.result or {}
    step, total = status.get("step"), status.get("total_steps")
    step = result.get("step", step)
    progress = "–" if step is None else (f"{step}/{total}" if total else str(step))
    seconds = result.get("device_seconds", status.get("device_seconds"))
    beat = status.get("heartbeat")
    return (
        run.name,
        state,
        progress,
        _metric(run, status, result),
        "–" if seconds is None else duration(float(seconds)),
        job_of(run) or "–",
        "–" if beat is None else f"{duration(max(0.0, time.time() - float(beat)))} ago",
    )


def _metric(run: RunDirectory, status: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The metric that decides, from the result or else the last one heard of."""
    try:
        name = (run.config().get("engine") or {}).get("metric")
    except (DamagedFile, OSError):  # told below the table
        return "–"
    value = (result.get("metrics") or status.get("values") or {}).get(name)
    return "–" if value is None else f"{name} {float(value):.5g}"
