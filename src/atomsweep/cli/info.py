"""`atomsweep info <run> [other]`: what a run is, where it lies, how it ended; a page of it.

Of two runs also what they differ in.
"""

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.cli.shared import add_root, print_table
from atomsweep.console import duration
from atomsweep.launch.control import job_of
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_run
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.state import state_of

if TYPE_CHECKING:
    from atomsweep.report.read.one import OneRun

LINES = 12  # of the log
SHOWN = ("forces_mae", "energy_mae", "loss")
BLOCKS = "▁▂▃▄▅▆▇█"


def add(commands: Any) -> None:
    """Enter the command into the parser."""
    info = commands.add_parser(
        "info", help="what a run is, how it ended, its log, a page; of two, what they differ in"
    )
    info.add_argument("run", help="directory, name or identity")
    info.add_argument("other", nargs="?", help="a second run, and what the two differ in")
    info.add_argument("--lines", type=int, default=LINES, help=f"of the log, default {LINES}")
    info.set_defaults(command=_info)
    add_root(info)


def _info(options: argparse.Namespace) -> int:
    from atomsweep.report.read.one import read_one  # pandas is not for --help
    from atomsweep.report.read.row import fill_command

    run = find_run(options.run, options.root)
    runs = [run, *([find_run(options.other, options.root)] if options.other else [])]
    full = [
        read_one(one, fill_command(one.run.get("overrides") or []), options.lines) for one in runs
    ]
    rows = [*_rows(run), *_facts(full[0]), ("page", str(_page(full)))]
    width = max(len(name) for name, _ in rows)
    for name, told in rows:
        print(f"{name:<{width}}  {told}")
    for problem in run.problems():
        print(f"problem: {problem}")
    if len(full) > 1:
        _print_differences(full)
    if full[0].log:
        print(f"\n{run.path / schema.LOG}, its last {len(full[0].log)} lines:")
        print("\n".join(f"  {line}" for line in full[0].log))
    return 0


def _page(runs: "Sequence[OneRun]") -> Path:
    """Write the page of the run or runs below `reports/` of the present folder."""
    from atomsweep.report.pages.run import write_runs

    name = "-and-".join(run.name if len(runs) == 1 else run.identity for run in runs)
    return write_runs(runs, Path("reports") / "runs" / f"{name}.html")


def _facts(run: "OneRun") -> Iterator[tuple[str, str]]:
    """Data, curves and the command that makes this run alone."""
    for key in ("file", "source", "hash"):
        if key in run.data:
            yield f"data {key}", run.data[key]
    for metric, points in run.curves.items():
        if len(points) > 1 and _is_shown(metric):
            values = [value for _, value in points]
            yield f"curve, {metric}", f"{values[0]:.5g} {spark(values)} {values[-1]:.5g}"
    yield "make it", run.again


def _print_differences(runs: "Sequence[OneRun]") -> None:
    from atomsweep.report.read.one import differences

    one, other = runs
    told = differences(one.config, other.config)
    told += differences({"data hash": one.data.get("hash")}, {"data hash": other.data.get("hash")})
    told += differences(one.made, other.made)
    results = ({k: v for k, v in run.metrics.items() if _is_shown(k)} for run in runs)
    told += differences(*results)
    print(f"\n{one.identity} and {other.identity} differ in {len(told) or 'nothing'}:")
    print_table(
        [("", one.identity, other.identity), *((k, _text(a), _text(b)) for k, a, b in told)]
    )


def _is_shown(metric: str) -> bool:
    return metric.rpartition("/")[2] in SHOWN


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def spark(values: Sequence[float]) -> str:
    """A curve as a word of eight heights, at most 32 letters long."""
    chosen = [values[round(i * (len(values) - 1) / 31)] for i in range(32)]
    chosen = list(values) if len(values) <= 32 else chosen
    low, high = min(chosen), max(chosen)
    return "".join(BLOCKS[round(7 * (v - low) / ((high - low) or 1.0))] for v in chosen)


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
        if _is_shown(name):
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
