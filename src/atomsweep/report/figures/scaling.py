"""The section on scaling: power laws of error over size."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.figures.style import INK, MUTED, SERIES, dress
from atomsweep.report.read.tidy import CONFIG, METRIC
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.scaling import SIZES, Fit, alone, error_column, power_law
from atomsweep.report.tables.table import Table
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scaling_section(table: Table, number: int) -> Section:
    """Power laws over every size of which the table has three values, other sizes equal."""
    section = Section(f"scaling-{number}", "Scaling")
    error = error_column(table)
    if error is None or titles.better(table.metric) == "high":
        return section
    finished = table.df[(table.df["state"] == schema.FINISHED) & table.df[error].notna()]
    found: dict[str, tuple[pd.DataFrame, Fit]] = {}
    for column, name in SIZES.items():
        if column not in finished or (column not in table.rows and column.startswith(CONFIG)):
            continue
        sizes = pd.to_numeric(finished[column], errors="coerce")
        fit = power_law(list(sizes.fillna(0)), list(finished[error]))
        if fit is not None and alone(finished, table, column):
            points = pd.DataFrame({"size": sizes, "error": finished[error]}).dropna()
            found[name] = (points, fit)
    if not found:
        return section
    lines = [
        [
            Text(name),
            Text(f"{spelled.signed(fit.exponent, 3)} ± {spelled.short(fit.half_width, 3)}"),
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
            partial(_draw_fits, found, error),
            "Error against size with fitted power laws",
            "Points are runs, lines the fits, drawn only over the measured sizes.",
        )
    )
    return section


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
