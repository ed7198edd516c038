"""Cells of a table laid out as a grid: as papers print it, rows against columns, beside the paper.

Asked and spelling only, no arithmetic.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from atomsweep.report.read.tidy import by_row
from atomsweep.report.tables.grids import STALE_MARK, UNTRAINED_MARK, Grid, Text
from atomsweep.report.tables.spelled import NOTHING, number, short, signed, times
from atomsweep.report.tables.titles import (
    axis_of,
    better,
    column_title,
    label,
    split_title,
    title_of,
)


def cell_text(cell: Mapping[str, Any] | pd.Series, decimals: int = 4) -> Text:
    """`0.0512`, `0.0512 ± 0.0011`, – for nothing, `0.0512 (2 of 3)` where seeds are missing."""
    marks = {STALE_MARK: cell["stale"], UNTRAINED_MARK: cell["untrained"]}
    mark = "".join(f" {sign}" for sign, number in marks.items() if number)
    if math.isnan(cell["mean"]):
        if math.isnan(cell["so_far"]):
            return Text(NOTHING)
        part = f" ({cell['n']} of {cell['planned']})"
        return Text(short(cell["so_far"], decimals) + part + mark)
    same = cell["half_width"] == 0 and better(cell["metric"]) == "neither"  # as is to be expected
    alone = same or math.isnan(cell["half_width"])
    spread = "" if alone else f" ± {short(cell['half_width'], decimals)}"
    return Text(short(cell["mean"], decimals) + spread + mark, bool(cell["best"]))


def paper_grid(
    cells: pd.DataFrame,
    rows: Sequence[str],
    reference: str | None = None,
    baseline_name: str | None = "Median",
    baseline_line: bool = True,
    alone: bool = False,
    only_last: bool = False,
) -> Grid:
    """One line per row, one column per split, as papers print it; first the baseline.

    After the splits: the first split's ratio to the baseline, then, where cells have the paper's
    numbers, that of the last split (the average) and the difference; where the paper has no
    average, its numbers of all splits. Without a baseline's name neither its line nor the ratio are
    shown; without its line it is a row like others.

    Args:
        cells: from `cells_of`.
        rows: columns that tell table rows apart.
        reference: published table that gives the words.
        baseline_name: of the baseline; None for no line and no ratio.
        baseline_line: whether the baseline has a line.
        alone: the data have one validation split.
        only_last: a narrow table, of the last split alone.
    """
    if only_last:
        cells = cells[cells["split"] == cells["split"].iloc[-1]]
    splits = list(dict.fromkeys(cells["split"]))
    first, last = splits[0], splits[-1]
    metric = cells["metric"].iloc[0]
    decimals = title_of(metric)[2]
    told = set(cells.loc[cells["published"].notna(), "split"])
    beside = [last] if last in told else [s for s in splits if s in told]
    differs = len(beside) == 1 and better(metric) != "neither"
    seeds = bool((cells["planned"] > 1).any())
    header = [axis_of(column, reference).title for column in rows]
    header += ["Seeds"] * seeds + [column_title(s, metric, alone) for s in splits]
    if baseline_name:
        header += [f"{split_title(first, alone)} ÷ {baseline_name}"]
    header += [f"Paper {column_title(s, metric, alone)}" for s in beside] + ["Difference"] * differs
    lines = []
    if baseline_name and baseline_line:
        for labels, values in baseline_lines(cells, rows, reference, baseline_name):
            top = [*labels, *[""] * seeds, *values, NOTHING if values[0] == NOTHING else times(1.0)]
            lines.append([Text(t) for t in top + [NOTHING] * (len(beside) + differs)])
    for _, group in by_row(cells, rows):
        at = group.set_index("split")
        line = [Text(label(c, group[c].iloc[0], reference)) for c in rows]
        if seeds:
            line.append(Text(str(group["n"].max())))
        line += [cell_text(at.loc[s], decimals) for s in splits]
        if baseline_name:
            line.append(Text(times(at.loc[first, "ratio"])))
        line += [
            Text(short(at.loc[s, "published"], decimals), bool(at.loc[s, "published_best"]))
            for s in beside
        ]
        line += [Text(signed(at.loc[s, "difference"], decimals)) for s in beside if differs]
        lines.append(line)
    return Grid(header, lines, "l" * len(rows) + "r" * (len(header) - len(rows)))


def baseline_lines(
    cells: pd.DataFrame, rows: Sequence[str], reference: str | None, name: str = "Median"
) -> list[tuple[list[str], list[str]]]:
    """A line for each baseline: its row labels, and its values by split.

    One baseline of all rows has no label but its name; of several, each has those that only the
    rows held against it share, such as the molecule.
    """
    decimals = title_of(cells["metric"].iloc[0])[2]
    held: dict[tuple[str, ...], list[list[str]]] = {}
    for _, group in by_row(cells, rows):
        values = tuple(number(value, decimals) for value in group["baseline"])
        held.setdefault(values, []).append([label(c, group[c].iloc[0], reference) for c in rows])
    lines = []
    for values, members in held.items():
        shared = [words[0] if len(set(words)) == 1 else "" for words in zip(*members, strict=True)]
        labels = shared if len(held) > 1 else [""] * len(rows)
        labels[0] = f"{name}, {labels[0]}" if labels[0] else name
        lines.append((labels, list(values)))
    return lines


def matrix_grid(
    cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], reference: str | None = None
) -> Grid:
    """Rows against columns, as the sweep file has them, at the last split (the average)."""
    here = cells[cells["split"] == cells["split"].iloc[-1]]
    decimals = title_of(cells["metric"].iloc[0])[2]
    across = dict(by_row(here, columns))
    header = [axis_of(column, reference).title for column in rows]
    header += [
        ", ".join(label(c, group[c].iloc[0], reference) for c in columns)
        for group in across.values()
    ]
    lines = []
    for _, group in by_row(here, rows):
        at = {key: one.iloc[0] for key, one in by_row(group, columns)}
        line = [Text(label(c, group[c].iloc[0], reference)) for c in rows]
        line += [cell_text(at[key], decimals) if key in at else Text("") for key in across]
        lines.append(line)
    return Grid(header, lines, "l" * len(rows) + "r" * len(across))


def beside_grid(cells: pd.DataFrame, rows: Sequence[str], reference: str) -> Grid:
    """One line per row and split: ours, the paper's, the difference."""
    header = [axis_of(column, reference).title for column in rows]
    header += ["Split", "Ours", "÷ Median", "Paper", "Difference"]
    lines = []
    for _, group in by_row(cells, rows):
        for _, cell in group.iterrows():
            line = [Text(label(c, cell[c], reference)) for c in rows]
            line += [Text(split_title(cell["split"])), cell_text(cell, title_of(cell["metric"])[2])]
            line += [Text(times(cell["ratio"]))]
            line += [Text(number(cell["published"]), bool(cell["published_best"]))]
            line += [Text(signed(cell["difference"]))]
            lines.append(line)
    return Grid(header, lines, "l" * (len(rows) + 1) + "rrrr")
