"""`atomsweep sync | ui`: MLflow brought to the state of the run directories, and its pages."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.cli.shared import add_root, need_root, warn
from atomsweep.launch.control import plan_of, sweeps
from atomsweep.tracking.files import DamagedFile, told
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory


def add(commands: Any) -> None:
    """Enter both commands into the parser."""
    sync = commands.add_parser("sync", help="bring MLflow to the state of the run directories")
    sync.add_argument("--follow", action="store_true", help="go on until standard input ends")
    sync.add_argument("--every", type=float, default=30.0, help="seconds between passes")
    sync.add_argument("--reports", type=Path, default=Path("reports"), help="where reports are")
    sync.add_argument("--run", action="append", default=[], help="with --follow: a run, no other")
    sync.add_argument("--sweep", help="with --follow: the cells of a sweep, and no other run")
    sync.set_defaults(command=_sync)

    ui = commands.add_parser("ui", help="open MLflow's own pages on the store")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(command=_ui)
    add_root(sync, ui)
    for command in (sync, ui):
        command.add_argument("--uri", help="MLflow store; default: the one that the runs name")
        command.add_argument("--experiment", help="MLflow experiment")


def _sync(options: argparse.Namespace) -> int:
    from atomsweep.tracking.mlflow.mirror import EXPERIMENT, Scope, attach_report, follow, sync

    if options.follow:
        named = list(_targets(options)) if options.root.is_dir() else []
        default = (_default_uri(options.root), options.experiment or EXPERIMENT)
        if len(named) > 1:
            raise UserError(
                "the runs name several stores: "
                f"{', '.join(sorted({uri for uri, _ in named}))}; choose one with --uri"
            )
        uri, experiment = named[0] if named else default
        os.nice(10)  # training goes first
        scope = Scope(options.run, options.sweep) if options.run or options.sweep else None
        return 0 if follow(options.root, uri, experiment, options.every, warn, scope) else 1
    need_root(options.root)
    problems: list[str] = []
    targets = _targets(options, problems)
    complete = not problems
    for (uri, experiment), runs in targets.items():
        report = sync(options.root, uri, experiment, runs)
        if report.busy:
            raise UserError(
                f"another process is mirroring {options.root}; it will complete what is there, "
                "or try again when it is done"
            )
        print(
            f"{uri}: {report.runs} runs, {report.changed} changed, {report.created} new, "
            f"{report.values} values"
        )
        for problem in report.problems:
            warn(problem)
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
        try:
            cells = {cell.get("run") for cell in plan_of(options.root, sweep)["cells"]}
        except (DamagedFile, OSError) as error:
            warn(told(error))
            continue
        if files and (runs is None or cells & {run.name for run in runs}):
            found[sweep] = files
    return found


def _ui(options: argparse.Namespace) -> int:
    from atomsweep.tracking.mlflow.connect import ARTIFACTS, absolute, sqlite_path

    targets = list(_targets(options)) if options.root.is_dir() else []
    uri = absolute(targets[0][0] if len(targets) == 1 else _default_uri(options.root))
    if uri.startswith(("http://", "https://")):
        print(f"the store is a server: open {uri}")
        return 0
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise UserError(
            f"there is no MLflow store at {database}; train something, or run "
            f"`atomsweep sync --root {options.root}` first"
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


def _targets(
    options: argparse.Namespace, problems: list[str] | None = None
) -> dict[tuple[str, str], list[RunDirectory] | None]:
    """Stores to write, with the runs that name each; None: all runs.

    What cannot be read is told, and added to `problems`.
    """
    problems = [] if problems is None else problems
    from atomsweep.tracking.mlflow.mirror import EXPERIMENT

    if options.uri is not None:
        return {(options.uri, options.experiment or EXPERIMENT): None}
    targets: dict[tuple[str, str], list[RunDirectory] | None] = {}
    silent = 0
    for run in find_runs(options.root, problems):
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
            problems.append(f"{run.path} names no store of MLflow: {told(error)}")
            continue
        found = targets.setdefault((uri, experiment), [])
        assert found is not None
        found.append(run)
    for problem in problems:
        warn(problem)
    if silent and not targets:
        warn(f"{silent} runs have tracking=none; give --uri to mirror them all the same")
    return targets


def _default_uri(root: Any) -> str:
    return f"sqlite:///{root}/mlflow.db"
