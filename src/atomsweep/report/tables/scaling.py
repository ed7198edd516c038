"""Power laws of error over size, and which sizes a table lets one fit over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from atomsweep.report.read.tidy import METRIC
from atomsweep.report.tables.statistics import t_quantile
from atomsweep.report.tables.table import Table
from atomsweep.tracking import schema

SIZES = {
    "config.model.hidden_channels": "width",
    "config.model.num_layers": "depth",
    "config.optim.batch_size": "batch size",
    "count.train": "training structures",
    "parameters": "parameters",
}
"""Columns that a scaling law is fitted over, where a table has three or more values of one."""


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


def alone(finished: pd.DataFrame, table: Table, column: str) -> bool:
    """Whether the size is what the rows differ in; parameters stand for width and depth."""
    others = [row for row in table.rows if row != column and row not in SIZES and row != "name"]
    return all(finished[row].nunique() <= 1 for row in others)


def error_column(table: Table) -> str | None:
    """The average of the table's metric, or its first split."""
    for split in reversed(list(dict.fromkeys(table.cells["split"]))):
        column = METRIC + schema.metric_name(split, table.metric)
        if column in table.df and table.df[column].notna().any():
            return column
    return None
