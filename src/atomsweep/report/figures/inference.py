"""The section on inference: error against its cost, with the Pareto front."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from atomsweep.report.figures.pareto import draw_points
from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.read.tidy import METRIC, device_of, records
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import spelled
from atomsweep.report.tables.baselines import data_of
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.pareto import pareto, published_points
from atomsweep.report.tables.scaling import error_column
from atomsweep.report.tables.styles import Style
from atomsweep.report.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THROUGHPUT = "cost/structures_per_second"
HOURS = "cost/device_hours_per_million"

Points = dict[str, tuple[float, float]]  # label → cost, error


def inference_section(table: Table, number: int) -> Section:
    """Error against device-hours per million structures, with the Pareto front."""
    section = Section(f"inference-{number}", "Error against inference cost")
    column = METRIC + (HOURS if METRIC + HOURS in table.df else THROUGHPUT)
    error = error_column(table)
    theirs = published_points(table.reference, "inference")
    if column not in table.df or error is None or len(set(_devices(table, column))) > 1:
        return section
    if len(data_of(table.df)) > 1:
        section.text.append("Rows are on different data: no error is held against another's.")
        return section
    points = _points(table, column, error)
    if not points:
        return section
    device = _devices(table, column)[0]
    grid = _grid(points, error.removeprefix(METRIC))
    section.grids.append((f"Inference on {device}; bold: on the Pareto front.", grid))
    title = "Error against inference cost, the Pareto front joined"
    picture = Picture(
        f"inference-{number}", partial(_draw, points, theirs, table.styles), title, f"{title}."
    )
    picture.wide = theirs is not None
    section.pictures.append(picture)
    return section


def _points(table: Table, column: str, error: str) -> Points:
    """Label → device-hours per million structures and error, means over seeds."""
    points = {}
    for label, runs in table.members().items():
        rates = [as_float(run.get(column)) for run in runs.values()]
        if column == METRIC + HOURS:
            rates = [1e6 / 3600 / hours for hours in rates if hours > 0]
        rates = [rate for rate in rates if math.isfinite(rate) and rate > 0]
        errors = [as_float(run.get(error)) for run in runs.values()]
        errors = [value for value in errors if math.isfinite(value)]
        if rates and errors:
            hours = 1e6 / (sum(rates) / len(rates)) / 3600
            points[label] = (hours, sum(errors) / len(errors))
    return points


def _grid(points: Points, error: str) -> Grid:
    """A point per line, the cheapest first."""
    front = pareto(points)
    lines = [
        [
            Text(label),
            Text(spelled.short(1e6 / 3600 / hours, 1)),
            Text(spelled.short(hours, 2)),
            Text(spelled.short(value), bold=label in front),
        ]
        for label, (hours, value) in sorted(points.items(), key=lambda item: item[1])
    ]
    header = ["Setting", "Structures per second", "Device-hours per 10⁶", error]
    return Grid(header, lines, "lrrr")


def _draw(
    points: Points, theirs: tuple[Points, str] | None, styles: Mapping[str, Style]
) -> "Figure":
    """Ours, and beside it the paper's points, where it has some."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6) if theirs else (4.9, 3.6), layout=None)
    axes = figure.add_axes((0.07, 0.15, 0.38, 0.74) if theirs else (0.13, 0.15, 0.8, 0.74))
    draw_points(axes, points, "inference, device-hours per 10⁶ structures", "Ours", styles)
    if theirs:
        right = figure.add_axes((0.58, 0.15, 0.38, 0.74))
        draw_points(right, theirs[0], f"inference, {theirs[1]}", "The paper, on its own data")
    return figure


def _devices(table: Table, column: str) -> list[str]:
    runs = records(table.df[table.df[column].notna()])
    return [device_of(run, column.removeprefix(METRIC)) for run in runs]
