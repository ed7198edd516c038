"""A page for one run, or for two beside each other, and what a report says of each of its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from atomsweep.report.figures.curves import draw
from atomsweep.report.figures.files import inline
from atomsweep.report.pages.jinja import render
from atomsweep.report.read.one import OneRun, differences, read_one
from atomsweep.report.read.tidy import records
from atomsweep.report.tables import spelled, titles
from atomsweep.tracking import schema
from atomsweep.tracking.files import write_atomic
from atomsweep.tracking.run import RunDirectory

MOST_DETAILED = 60  # runs of a report that are told one by one
SPARK = (240.0, 56.0)  # units of a small curve


def write_runs(runs: Sequence[OneRun], out: Path) -> Path:
    """Write the page of one run, or of two with what they differ in; returns its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, runs_page(runs), durable=False)
    return out


def runs_page(runs: Sequence[OneRun]) -> str:
    """The page of one run, or of two with what they differ in."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    return render(
        "run.html",
        runs=runs,
        told=[told_of(run) for run in runs],
        configs=_side_by_side([run.config for run in runs]),
        differences=_apart(runs) if len(runs) > 1 else [],
        metrics=[(m, [_number(run.metrics.get(m)) for run in runs]) for m in metrics],
        figures=_figures(runs),
    )


def told_of(run: OneRun) -> dict[str, Any]:
    """What is shown of a run, in words: facts, commands to copy, log, small curves."""
    facts = [("directory", str(run.path)), ("identity", run.identity), ("state", run.state)]
    facts += [("message", run.message)] if run.message else []
    facts += [("sweep", ", ".join(run.sweeps))] if run.sweeps else []
    facts += [(f"data, {key}" if key != "name" else "data", v) for key, v in run.data.items()]
    facts += list(run.made.items())
    root = f" --root {run.path.parent}"
    commands = [("Make it", run.again)]
    if run.command and run.command != run.again:
        commands.append(("It was launched by", run.command))
    commands += [
        ("All of it", f"atomsweep info {run.identity}{root}"),
        ("Beside another run", f"atomsweep info {run.identity} OTHER{root}"),
        ("Follow its log", f"tail -f {run.path / schema.LOG}"),
    ]
    sparks = [
        small_curve(metric, points)
        for metric, points in run.curves.items()
        if _is_drawn(metric, points)
    ]
    return {"run": run, "facts": facts, "commands": commands, "sparks": sparks[:2]}


def details_of(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The first runs of a report one by one; only those whose directory is there."""
    found = []
    for row in records(df.head(MOST_DETAILED)):
        path = Path(str(row["path"]))
        if (path / schema.RUN).is_file():
            found.append(told_of(read_one(RunDirectory(path), str(row["command"]))))
    return found


def compared(details: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Identity → what tells the runs of a report apart: key → value, of keys that differ."""
    flat = {one["run"].identity: _flat(one["run"]) for one in details}
    keys = dict.fromkeys(key for own in flat.values() for key in own)
    apart = [k for k in keys if len({own.get(k) for own in flat.values()}) > 1]
    return {
        identity: {key: own[key] for key in apart if key in own} for identity, own in flat.items()
    }


def _flat(run: OneRun) -> dict[str, str]:
    """Config, data, origin and result of a run, as one list of texts."""
    told = {key: _text(value) for key, value in run.config.items()}
    told |= {f"data hash, {key}": v for key, v in run.data.items() if key == "hash"}
    told |= {key: run.made[key] for key in ("commit", "device", "host") if key in run.made}
    return told | {f"result, {key}": _number(value) for key, value in run.metrics.items()}


def _apart(runs: Sequence[OneRun]) -> list[tuple[str, str, str]]:
    one, other = (_flat(run) for run in runs[:2])
    return [
        (key, spelled.NOTHING if a is None else a, spelled.NOTHING if b is None else b)
        for key, a, b in differences(one, other)
    ]


def _side_by_side(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Every key of the configs with the value of each run."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        (key, [_text(c[key]) if key in c else spelled.NOTHING for c in configs]) for key in keys
    ]


def _figures(runs: Sequence[OneRun]) -> list[dict[str, str]]:
    """Curves of the metrics that were logged, both runs in one panel."""
    labels = [run.identity for run in runs]
    metrics = [
        metric
        for metric in dict.fromkeys(m for run in runs for m in run.curves)
        if any(_is_drawn(metric, run.curves.get(metric, ())) for run in runs)
    ]
    found = []
    for metric in metrics:
        points = pd.DataFrame(
            [
                (label, label, i, i, 0, True, step, 0.0, value)
                for i, (label, run) in enumerate(zip(labels, runs, strict=True))
                for step, value in run.curves.get(metric, ())
            ],
            columns=["identity", "label", "hue", "dash", "rank", "finished", "step",
                     "device_seconds", "value"],
        )  # fmt: skip
        split, _, quantity = metric.rpartition("/")
        title = titles.full_title(split, quantity)
        svg = inline(draw(points, title, ""), f"run-{metric.replace('/', '-')}", title)
        found.append({"svg": svg, "caption": f"{metric} against steps.", "metric": metric})
    return found


def _is_drawn(metric: str, points: Sequence[tuple[float, float]]) -> bool:
    drawn = (schema.FORCES_MAE, schema.ENERGY_MAE, schema.LOSS)
    return len(points) > 1 and metric.rpartition("/")[2] in drawn


def small_curve(metric: str, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A small curve: its corners as SVG has them, and where it begins and ends in numbers."""
    width, height = SPARK
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = max(steps) - min(steps) or 1.0, high - low or 1.0
    corners = [
        f"{width * (s - min(steps)) / across:.1f},{height * (1 - (v - low) / up):.1f}"
        for s, v in points
    ]
    told = f"{spelled.short(values[0])} at step {spelled.count(steps[0])}, "
    told += f"{spelled.short(values[-1])} at step {spelled.count(steps[-1])}"
    return {"metric": metric, "corners": " ".join(corners), "told": told}


def _number(value: float | None) -> str:
    return spelled.NOTHING if value is None else f"{value:.5g}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
