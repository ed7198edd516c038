"""Sections on cost: error against inference cost, scaling over size, the ledger of the sweep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from atomsweep.report.figures.budget import draw_points, pareto, published_points
from atomsweep.report.figures.curves import INK, MUTED, SERIES, dress
from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.read.tidy import CONFIG, METRIC, as_float, device_of, records
from atomsweep.report.tables import ablation as tables
from atomsweep.report.tables import grids as render
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.parts import Part
from atomsweep.report.tables.statistics import interval, t_quantile
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THROUGHPUT = "cost/structures_per_second"
HOURS = "cost/device_hours_per_million"
SIZES = {
    "config.model.hidden_channels": "width",
    "config.model.num_layers": "depth",
    "config.optim.batch_size": "batch size",
    "count.train": "training structures",
    "parameters": "parameters",
}
"""Columns that a scaling law is fitted over, where a table has three or more values of one."""


# Inference


def inference_section(part: Part, number: int) -> Section:
    """Error against device-hours per million structures, with the Pareto front."""
    section = Section(f"inference-{number}", "Error against inference cost")
    column = METRIC + (HOURS if METRIC + HOURS in part.frame else THROUGHPUT)
    error = _error_column(part)
    theirs = published_points(part.reference, "inference")
    if column not in part.frame or error is None or len(set(_devices(part, column))) > 1:
        return section
    if len(tables.data_of(part.frame)) > 1:
        section.text.append("Rows are on different data: no error is held against another's.")
        return section
    points: dict[str, tuple[float, float]] = {}
    lines = []
    for label, runs in part.members().items():
        rates = [as_float(run.get(column)) for run in runs.values()]
        if column == METRIC + HOURS:
            rates = [1e6 / 3600 / hours_ for hours_ in rates if hours_ > 0]
        rates = [rate for rate in rates if math.isfinite(rate) and rate > 0]
        errors = [as_float(run.get(error)) for run in runs.values()]
        errors = [value for value in errors if math.isfinite(value)]
        if rates and errors:
            hours = 1e6 / (sum(rates) / len(rates)) / 3600
            points[label] = (hours, sum(errors) / len(errors))
    if not points:
        return section
    front = pareto(points)
    for label, (hours, value) in sorted(points.items(), key=lambda item: item[1]):
        shown = [
            Text(label),
            Text(render.short(1e6 / 3600 / hours, 1)),
            Text(render.short(hours, 2)),
        ]
        lines.append([*shown, Text(render.short(value), bold=label in front)])
    device = _devices(part, column)[0]
    header = [
        "Setting",
        "Structures per second",
        "Device-hours per 10⁶",
        error.removeprefix(METRIC),
    ]
    section.grids.append(
        (f"Inference on {device}; bold: on the Pareto front.", Grid(header, lines, "lrrr"))
    )
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(9.6, 3.6) if theirs else (4.9, 3.6), layout=None)
    axes = figure.add_axes((0.07, 0.15, 0.38, 0.74) if theirs else (0.13, 0.15, 0.8, 0.74))
    draw_points(axes, points, "inference, device-hours per 10⁶ structures", "Ours")
    if theirs:
        right = figure.add_axes((0.58, 0.15, 0.38, 0.74))
        draw_points(right, theirs[0], f"inference, {theirs[1]}", "The paper, on its own data")
    title = "Error against inference cost, the Pareto front joined"
    section.pictures.append(
        Picture(f"inference-{number}", figure, title, f"{title}.", wide=theirs is not None)
    )
    return section


def _devices(part: Part, column: str) -> list[str]:
    runs = records(part.frame[part.frame[column].notna()])
    return [device_of(run, column.removeprefix(METRIC)) for run in runs]


def _error_column(part: Part) -> str | None:
    """The average of the table's metric, or its first split."""
    for split in reversed(list(dict.fromkeys(part.cells["split"]))):
        column = METRIC + schema.metric_name(split, part.metric)
        if column in part.frame and part.frame[column].notna().any():
            return column
    return None


# Scaling


@dataclass(frozen=True)
class Fit:
    """error = exp(intercept) · size^exponent, fitted by least squares of the logarithms."""

    exponent: float
    half_width: float
    intercept: float
    n: int


def power_law(sizes: Sequence[float], errors: Sequence[float]) -> Fit | None:
    """A power law with the 95 % interval of its exponent; None below three points or two sizes."""
    pairs = [(math.log(s), math.log(e)) for s, e in zip(sizes, errors, strict=True) if s > 0 < e]
    if len(pairs) < 3 or len({round(x, 9) for x, _ in pairs}) < 3:
        return None
    n = len(pairs)
    x_mean = math.fsum(x for x, _ in pairs) / n
    y_mean = math.fsum(y for _, y in pairs) / n
    spread = math.fsum((x - x_mean) ** 2 for x, _ in pairs)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in pairs) / spread
    start = y_mean - slope * x_mean
    left = math.fsum((y - start - slope * x) ** 2 for x, y in pairs)
    half = t_quantile(0.975, n - 2) * math.sqrt(left / (n - 2) / spread)
    return Fit(slope, half, start, n)


def scaling_section(part: Part, number: int) -> Section:
    """Power laws over every size of which the table has three values, other sizes equal."""
    section = Section(f"scaling-{number}", "Scaling")
    error = _error_column(part)
    if error is None or render.better(part.metric) == "high":
        return section
    finished = part.frame[(part.frame["state"] == schema.FINISHED) & part.frame[error].notna()]
    found: dict[str, tuple[pd.DataFrame, Fit]] = {}
    for column, name in SIZES.items():
        if column not in finished or (column not in part.rows and column.startswith(CONFIG)):
            continue
        sizes = pd.to_numeric(finished[column], errors="coerce")
        fit = power_law(list(sizes.fillna(0)), list(finished[error]))
        if fit is not None and _alone(finished, part, column):
            points = pd.DataFrame({"size": sizes, "error": finished[error]}).dropna()
            found[name] = (points, fit)
    if not found:
        return section
    lines = [
        [
            Text(name),
            Text(f"{render.signed(fit.exponent, 3)} ± {render.short(fit.half_width, 3)}"),
            Text(str(points["size"].nunique())),
            Text(str(fit.n)),
        ]
        for name, (points, fit) in found.items()
    ]
    section.grids.append(
        (
            "error = a · size^b, least squares of the logarithms; ± is the 95 % interval of b. It "
            "says nothing outside of the measured sizes.",
            Grid(["Over", "Exponent b", "Sizes", "Runs"], lines, "lrrr"),
        )
    )
    section.pictures.append(
        Picture(
            f"scaling-{number}",
            _draw_fits(found, error),
            "Error against size with fitted power laws",
            "Points are runs, lines the fits, drawn only over the measured sizes.",
        )
    )
    return section


def _alone(finished: pd.DataFrame, part: Part, column: str) -> bool:
    """Whether the size is what the rows differ in; parameters stand for width and depth."""
    others = [row for row in part.rows if row != column and row not in SIZES and row != "name"]
    return all(finished[row].nunique() <= 1 for row in others)


def _draw_fits(found: Mapping[str, tuple[pd.DataFrame, Fit]], error: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9, 3.3), layout="constrained")
    for i, (name, (points, fit)) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), i + 1)
        dress(axes)
        axes.loglog(points["size"], points["error"], "o", color=SERIES[0], ms=4)
        ends = [points["size"].min(), points["size"].max()]
        line = [math.exp(fit.intercept) * size**fit.exponent for size in ends]
        axes.loglog(ends, line, color=SERIES[1], lw=1.4)
        axes.set_xlabel(name, color=MUTED)
        axes.set_title(error.removeprefix(METRIC) if i == 0 else "", loc="left", color=INK)
    return figure


# Ledger


def ledger_section(frame: pd.DataFrame) -> Section:
    """Device-hours of a sweep: trained, evaluated, lost, and a guess of what the rest will cost.

    Each kind of device is counted for itself; nothing converts one to another.
    """
    section = Section("ledger", "What it cost")
    begun = frame[frame["device_seconds"].notna() | frame["allocated_seconds"].notna()]
    if begun.empty:
        return section
    lines = []
    for device, runs in begun.groupby(begun["device"].map(lambda d: d or "not told"), sort=False):
        trained = runs["device_seconds"].sum()
        evaluated = runs["eval_seconds"].sum()
        useful = runs["state"] == schema.FINISHED
        failed = runs.loc[runs["state"] == schema.FAILED, "allocated_seconds"].sum()
        allocated = runs["allocated_seconds"].sum(min_count=1)  # NaN where nobody wrote it down
        kept = (runs["device_seconds"].fillna(0) + runs["eval_seconds"].fillna(0)).where(
            runs["state"] != schema.FAILED, 0.0
        )
        told = runs["allocated_seconds"].notna()
        lost = max(0.0, (runs["allocated_seconds"] - kept)[told].sum() - failed)
        lost = lost if told.any() else math.nan
        counts = [str(int(useful.sum())), str(len(runs))]
        times = [trained, evaluated, failed, lost, allocated]
        lines.append([Text(str(device)), *map(Text, counts), *(Text(hours(t)) for t in times)])
    header = ["Device", "Finished", "Begun", "Training", "Evaluation", "Failed runs"]
    header += ["Start-up and lost", "Allocated"]
    section.grids.append(
        (
            "Device-hours, each kind of device by itself. Allocated is what all processes held; "
            "start-up and lost is what of it is neither training nor evaluation of a run that "
            "counts: imports, data, and steps that a kill or requeue made again.",
            Grid(header, lines, "l" + "r" * 7),
        )
    )
    if rest := rest_of(frame):
        section.text.append(rest)
    again = frame["processes"] > 1
    if again.any():
        section.text.append(
            f"{int(again.sum())} runs took more than one process (requeued or continued), "
            f"{int(frame.loc[again, 'processes'].max())} at most."
        )
    return section


def rest_of(frame: pd.DataFrame) -> str:
    """A sentence on what the unfinished runs will cost, guessed from the finished ones."""
    finished = frame[frame["state"] == schema.FINISHED]
    left = frame[frame["state"] != schema.FINISHED]
    if left.empty:
        return ""
    spent = finished["device_seconds"] + finished["eval_seconds"]
    values = [float(v) for v in spent.dropna()]
    if not values or finished["device"].nunique() > 1:
        return f"{len(left)} runs are not finished; nothing tells what they will cost."
    mean, half = interval(values)
    begun = [
        min(1.0, as_float(r["step"]) / as_float(r["total_steps"]))
        for r in records(left)
        if as_float(r["total_steps"]) > 0 and as_float(r["step"]) > 0
    ]
    open_ = len(left) - sum(begun)
    spread = "" if math.isnan(half) else f" ± {hours(open_ * half)}"
    return (
        f"{len(left)} runs are not finished: about {hours(open_ * mean)}{spread} device-hours more "
        f"on {finished['device'].iloc[0]}, a guess from the {len(values)} that are."
    )


def hours(seconds: float) -> str:
    """`0.027`, `12.3`: seconds as hours with three figures."""
    value = seconds / 3600
    if math.isnan(value):
        return render.NOTHING
    return f"{value:.3g}" if value < 1000 else render.count(value)
