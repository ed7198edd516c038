"""`python -m atomsweep status | cancel | retry | sync | ui | evaluate | relax`, from any shell."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.evaluate import add_commands
from atomsweep.launch.control import (
    NoSuchSweep,
    Standing,
    cancel,
    job_of,
    plan_of,
    retry_command,
    standing,
    sweeps,
)
from atomsweep.launch.costs import Costs
from atomsweep.launch.plan import plan_path
from atomsweep.launch.survey import aligned, duration, state_of
from atomsweep.tracking.run import RunDirectory, find_runs

COLUMNS = ("run", "state", "step", "metric", "device time", "process or job", "heard of")
SWEEP_COLUMNS = ("sweep", "cells", "states", "device time", "still to come")


class UsageError(Exception):
    """One sentence for the person at the shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (UsageError, UserError, NoSuchSweep, OSError, RuntimeError) as error:
        print(f"atomsweep {options.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atomsweep", description=__doc__)
    commands = parser.add_subparsers(
        dest="name",
        required=True,
        metavar="status | cancel | retry | sync | ui | evaluate | relax",
    )

    sync = commands.add_parser("sync", help="bring MLflow to the state of the run directories")
    sync.add_argument("--follow", action="store_true", help="go on until standard input ends")
    sync.add_argument("--every", type=float, default=30.0, help="seconds between passes")
    sync.add_argument("--reports", type=Path, default=Path("reports"), help="where reports are")
    sync.set_defaults(command=_sync)

    status = commands.add_parser("status", help="tables of sweeps and runs")
    status.add_argument("sweep", nargs="?", help="only this sweep, every cell of it")
    status.set_defaults(command=_status)

    cancel = commands.add_parser("cancel", help="stop a sweep or a run at its next checkpoint")
    cancel.add_argument("what", help="name of a sweep, or name or identity of a run")
    cancel.set_defaults(command=_cancel)

    retry = commands.add_parser("retry", help="launch a sweep again: what failed or is missing")
    retry.add_argument("sweep", help="its name")
    retry.set_defaults(command=_retry)

    ui = commands.add_parser("ui", help="open MLflow's own pages on the store")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(command=_ui)

    add_commands(commands)
    for command in (sync, status, cancel, retry, ui):
        command.add_argument("--root", type=Path, default=Path("runs"), help="where runs are")
    for command in (sync, ui):
        command.add_argument("--uri", help="MLflow store; default: the one that the runs name")
        command.add_argument("--experiment", help="MLflow experiment")
    return parser


def _sync(options: argparse.Namespace) -> int:
    from atomsweep.tracking.mlflow.mirror import EXPERIMENT, attach_report, follow, sync

    if options.follow:
        targets = list(_targets(options)) if options.root.is_dir() else []
        default = (_default_uri(options.root), options.experiment or EXPERIMENT)
        if len(targets) > 1:
            raise UsageError(
                "the runs name several stores: "
                f"{', '.join(sorted({uri for uri, _ in targets}))}; choose one with --uri"
            )
        uri, experiment = targets[0] if targets else default
        os.nice(10)  # training goes first
        return 0 if follow(options.root, uri, experiment, options.every, _warn) else 1
    _need_root(options.root)
    complete = True
    for (uri, experiment), runs in _targets(options).items():
        report = sync(options.root, uri, experiment, runs)
        if report.busy:
            raise UsageError(
                f"another process is mirroring {options.root}; it will complete what is there, "
                "or try again when it is done"
            )
        print(
            f"{uri}: {report.runs} runs, {report.changed} changed, {report.created} new, "
            f"{report.values} values"
        )
        for problem in report.problems:
            _warn(problem)
        complete &= not report.problems
        for sweep, files in _reports(options, runs).items():
            attach_report(options.root, uri, sweep, files, experiment)
            print(f"{uri}: {len(files)} files of the report of {sweep}")
    return 0 if complete else 1


def _reports(options: argparse.Namespace, runs: list[RunDirectory] | None) -> dict[str, list[Path]]:
    """Files of the reports on sweeps of `runs` (None: of all), where `analysis` wrote them."""
    found = {}
    for sweep in sweeps(options.root):
        files = [path for path in sorted((options.reports / sweep).glob("*")) if path.is_file()]
        cells = {cell["run"] for cell in plan_of(options.root, sweep)["cells"]}
        if files and (runs is None or cells & {run.name for run in runs}):
            found[sweep] = files
    return found


def _status(options: argparse.Namespace) -> int:
    _need_root(options.root)
    runs = find_runs(options.root)
    found = {run.identity: run for run in runs}
    names = sweeps(options.root) if options.sweep is None else [options.sweep]
    if options.sweep is not None and not plan_path(options.root, options.sweep).exists():
        names, runs = [], _of_sweep(options.root, options.sweep, runs)
    if names:
        costs = Costs.of(runs)
        standings = [standing(options.root, name, found, costs) for name in names]
        _print_table([SWEEP_COLUMNS, *(_sweep_row(s) for s in standings)])
        print()
    rows = [_row(run, state_of(run)) for run in runs]
    if options.sweep is not None and names:
        (one,) = standings
        runs = [run for run in one.runs if run is not None]
        cells = zip(plan_of(options.root, one.name)["cells"], one.runs, one.states, strict=True)
        nothing = ("–",) * (len(COLUMNS) - 2)
        rows = [
            (str(cell.get("name")), state, *nothing) if run is None else _row(run, state)
            for cell, run, state in cells
        ]
    _print_table([COLUMNS, *rows])
    states = [row[1] for row in rows]
    print(f"{len(rows)} runs" + "".join(f", {states.count(s)} {s}" for s in dict.fromkeys(states)))
    for run in runs:
        for problem in run.problems():
            _warn(problem)
    return 0


def _cancel(options: argparse.Namespace) -> int:
    _need_root(options.root)
    runs = find_runs(options.root)
    if plan_path(options.root, options.what).exists():
        wanted = {str(cell["identity"]) for cell in plan_of(options.root, options.what)["cells"]}
        chosen, sweep = [run for run in runs if run.identity in wanted], options.what
    else:
        chosen, sweep = [r for r in runs if options.what in (r.name, r.identity)], None
        if not chosen:
            raise UsageError(f"{options.root} has neither a sweep nor a run {options.what}")
    told = cancel(options.root, sweep, chosen)
    print("\n".join(told) if told else "nothing of it is running")
    return 0


def _retry(options: argparse.Namespace) -> int:
    _need_root(options.root)
    try:
        arguments, directory = retry_command(plan_of(options.root, options.sweep))
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"in {directory}: {shlex.join(['python', *arguments])}", flush=True)
    os.chdir(directory)
    os.execv(sys.executable, [sys.executable, *arguments])
    raise AssertionError("exec does not return")


def _ui(options: argparse.Namespace) -> int:
    from atomsweep.tracking.mlflow.connect import ARTIFACTS, absolute, sqlite_path

    targets = list(_targets(options)) if options.root.is_dir() else []
    uri = absolute(targets[0][0] if len(targets) == 1 else _default_uri(options.root))
    if uri.startswith(("http://", "https://")):
        print(f"the store is a server: open {uri}")
        return 0
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise UsageError(
            f"there is no MLflow store at {database}; train something, or run "
            f"`python -m atomsweep sync --root {options.root}` first"
        )
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--workers", "1"]
    if database is not None:
        command += ["--default-artifact-root", (database.parent / ARTIFACTS).as_uri()]
    print(f"http://127.0.0.1:{options.port}", flush=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # six idle processes
    os.execv(sys.executable, [sys.executable, *command, "--port", str(options.port)])
    raise AssertionError("exec does not return")


def _targets(options: argparse.Namespace) -> dict[tuple[str, str], list[RunDirectory] | None]:
    """Stores to write, with the runs that name each; None: all runs."""
    from atomsweep.tracking.mlflow.mirror import EXPERIMENT

    if options.uri is not None:
        return {(options.uri, options.experiment or EXPERIMENT): None}
    targets: dict[tuple[str, str], list[RunDirectory] | None] = {}
    silent = 0
    for run in find_runs(options.root):
        try:
            config = run.config()
            tracking = config.get("tracking")
            if not tracking:
                silent += 1
                continue
            uri = str(tracking["uri"])
            if uri == _default_uri(config.get("root")):  # wherever the root is now
                uri = _default_uri(options.root)
            experiment = options.experiment or str(tracking.get("experiment", EXPERIMENT))
        except (KeyError, ValueError, OSError) as error:
            _warn(f"{run.path}: {error}")
            continue
        found = targets.setdefault((uri, experiment), [])
        assert found is not None
        found.append(run)
    if silent and not targets:
        _warn(f"{silent} runs have tracking=none; give --uri to mirror them all the same")
    return targets


def _default_uri(root: Any) -> str:
    return f"sqlite:///{root}/mlflow.db"


def _of_sweep(root: Path, sweep: str, runs: list[RunDirectory]) -> list[RunDirectory]:
    """Runs that name a sweep whose plan is lost."""
    found = [run for run in runs if run.run.get("sweep") == sweep]
    if not found:
        known = {str(run.run["sweep"]) for run in runs if run.run.get("sweep")} | {*sweeps(root)}
        raise UsageError(
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
    except (ValueError, OSError):
        return "–"
    value = (result.get("metrics") or status.get("values") or {}).get(name)
    return "–" if value is None else f"{name} {float(value):.5g}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(aligned(rows)))


def _need_root(root: Path) -> None:
    if not root.is_dir():
        raise UsageError(f"there is no directory {root}; say where the runs are with --root")


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
