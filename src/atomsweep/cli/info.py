"""`atomsweep info <run>`: what a run is, where it lies, how it ended, and the end of its log."""

import argparse
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from atomsweep.cli.shared import add_root
from atomsweep.console import duration
from atomsweep.launch.control import job_of
from atomsweep.launch.survey import state_of
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_run
from atomsweep.tracking.run import RunDirectory

TAIL = 12  # lines of the log


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    info = commands.add_parser(
        "info", help="what a run is, where, how it ended, the end of its log"
    )
    info.add_argument("run", help="directory, name or identity")
    info.add_argument("--lines", type=int, default=TAIL, help=f"of the log, default {TAIL}")
    info.set_defaults(command=_info)
    add_root(info)


def _info(options: argparse.Namespace) -> int:
    run = find_run(options.run, options.root)
    rows = list(_rows(run))
    width = max(len(name) for name, _ in rows)
    for name, told in rows:
        print(f"{name:<{width}}  {told}")
    for problem in run.problems():
        print(f"problem: {problem}")
    log = run.path / schema.LOG
    if log.exists() and options.lines > 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-options.lines :]
        print(f"\n{log}, its last {len(lines)} lines:")
        print("\n".join(f"  {line}" for line in lines))
    return 0


def _rows(run: RunDirectory) -> Iterator[tuple[str, str]]:
    about, status, made = run.run, run.status, run.environment
    result = run.result or {}
    yield "run", run.name
    yield "directory", str(run.path.absolute())
    yield "identity", run.identity
    yield "state", state_of(run)
    if message := status.get("message"):
        yield "message", str(message)
    yield "command", str(about.get("command") or "–")
    if sweep := about.get("sweep"):
        yield "sweep", str(sweep)
    choices = about.get("choices") or {}
    yield "choices", " ".join(f"{k}={v}" for k, v in choices.items() if v != "none") or "–"
    yield "data", str((about.get("data") or {}).get("name", "–"))
    step, total = result.get("step", status.get("step")), status.get("total_steps")
    if step is not None:
        yield "step", f"{step} of {total}" if total else str(step)
    if (spent := result.get("device_seconds", status.get("device_seconds"))) is not None:
        yield "trained for", f"{duration(float(spent))} on {made.get('device', '?')}"
    for name, value in (result.get("metrics") or status.get("values") or {}).items():
        if name.rpartition("/")[2] in ("forces_mae", "energy_mae", "loss"):
            yield name, f"{value:.5g}"
    segments = run.segments()
    if segments:
        yield "processes", f"{len(segments)}, the last {job_of(run) or '–'}"
    if "created" in about:
        yield "created", datetime.fromtimestamp(float(about["created"])).isoformat(" ", "seconds")
    if made:
        commit = str(made.get("commit") or "unknown")[:12]
        yield "code", f"commit {commit}{', with changes' if made.get('dirty') else ''}"
    found = sorted(path.name for path in (run.path / schema.CHECKPOINTS).glob("*.pt"))
    yield "checkpoints", " ".join(found) or "none"
