"""The section on inference: error against its cost, with the Pareto front."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.figures.style import INK, MUTED, SERIES, dress, plain_ticks
from atomsweep.report.read.tidy import METRIC, device_of, records
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import spelled
from atomsweep.report.tables.baselines import data_of
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.pareto import pareto, published_points
from atomsweep.report.tables.parts import Part
from atomsweep.report.tables.scaling import error_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes


THROUGHPUT = "cost/structures_per_second"
HOURS = "cost/device_hours_per_million"
MOST_NAMED = 8  # points; of more only those of the front have their name


def inference_section(part: Part, number: int) -> Section:
    """Error against device-hours per million structures, with the Pareto front."""
    section = Section(f"inference-{number}", "Error against inference cost")
    column = METRIC + (HOURS if METRIC + HOURS in part.frame else THROUGHPUT)
    error = error_column(part)
    theirs = published_points(part.reference, "inference")
    if column not in part.frame or error is None or len(set(_devices(part, column))) > 1:
        return section
    if len(data_of(part.frame)) > 1:
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
            Text(spelled.short(1e6 / 3600 / hours, 1)),
            Text(spelled.short(hours, 2)),
        ]
        lines.append([*shown, Text(spelled.short(value), bold=label in front)])
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


def draw_points(
    axes: "Axes", points: Mapping[str, tuple[float, float]], across: str, title: str
) -> None:
    """Named points of cost and error, the Pareto front among them joined."""
    dress(axes)
    front = pareto(points)
    for label, (cost, error) in points.items():
        colour = SERIES[0] if label in front else MUTED
        axes.plot([cost], [error], "o", color=colour, ms=5)
        if len(points) > MOST_NAMED and label not in front:
            continue
        axes.annotate(
            label, (cost, error), xytext=(5, 5), textcoords="offset points", fontsize=8, color=INK
        )
    ordered = sorted(points[label] for label in front)
    axes.plot(
        [c for c, _ in ordered], [e for _, e in ordered], color=SERIES[0], lw=1, dashes=(3, 2)
    )
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    plain_ticks(axes)
    axes.set_xlabel(across, color=MUTED)
    axes.set_title(title, loc="left", color=INK)
