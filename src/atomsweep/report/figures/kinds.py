"""The section on kinds of frames: those of relaxations and rattled ones are two questions."""

import math
from itertools import product
from typing import Any

from atomsweep.report.figures.sections import Section
from atomsweep.report.read import published
from atomsweep.report.read.tidy import METRIC, by_row
from atomsweep.report.read.values import as_float, normal
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.statistics import interval
from atomsweep.report.tables.table import Table
from atomsweep.report.tables.verdicts import OF_KINDS
from atomsweep.tracking import schema

SPLITS = (schema.VAL_SPLITS[0], schema.VAL_AVERAGE)


def kinds_section(table: Table) -> Section:
    """Force MAE and cosine of each kind, and the paper's MAE beside the frames of relaxations."""
    section = Section("kinds", "Kinds of frames")
    for split in SPLITS:
        if _kinds(table, split):
            where = titles.split_title(split, table.alone)
            caption = f"Force MAE in eV/Å and force cosine on {where}."
            section.grids.append((caption, _grid(table, split)))
    if section.grids:
        section.text.append(
            "Rattled frames are displaced at random, as no relaxation is, and their forces are "
            "many times larger: they decide the mean over all frames. OC20’s S2EF validation has "
            "frames of relaxations alone, so the paper’s numbers belong beside those."
        )
    return section


def kind_metrics(table: Table) -> list[str]:
    """Full names of the numbers that the section shows, e.g. `val_id_rattled/forces_mae`."""
    return [name for split in SPLITS for name in _shown(table, split)]


def _grid(table: Table, split: str) -> Grid:
    """A line for each row of the table."""
    paper = _paper(table, split)
    lines = []
    for _, members in by_row(table.df, table.rows):
        done = members[members["state"] == schema.FINISHED]
        line = [Text(titles.label(c, members[c].iloc[0], table.reference)) for c in table.rows]
        line += [_mean(done, name) for name in _shown(table, split)]
        if paper:
            line.append(Text(paper.get(_key(table, members.iloc[0]), spelled.NOTHING)))
        lines.append(line)
    header = [titles.axis_of(c, table.reference).title for c in table.rows]
    header += [
        f"{kind.capitalize()}, {titles.title_of(metric)[0]}"
        for kind, metric in product(_kinds(table, split), OF_KINDS)
    ]
    header += [f"Paper, {titles.title_of(OF_KINDS[0])[0]}"] if paper else []
    return Grid(header, lines, "l" * len(table.rows) + "r" * (len(header) - len(table.rows)))


def _paper(table: Table, split: str) -> dict[tuple[str, ...], str]:
    """Key of a row in the published table → its force MAE on a split; empty without one."""
    if table.paper is None:
        return {}
    paper = published.table(table.paper)
    for place, column in enumerate(paper.columns):
        if column.full_name == f"{split}/{OF_KINDS[0]}":
            numbers = ((row.key, row.values[place]) for row in paper.rows)
            return {
                tuple(normal(value) for value in key): spelled.short(number * column.to_ours)
                for key, number in numbers
                if number is not None
            }
    return {}


def _kinds(table: Table, split: str) -> list[str]:
    """Kinds of frames whose forces were measured; none where all are of one kind."""
    found = []
    for kind in schema.FRAME_KINDS:
        column = METRIC + schema.metric_name(schema.part_name(split, kind), OF_KINDS[0])
        if column in table.df and table.df[column].notna().any():
            found.append(kind)
    return found if len(found) > 1 else []


def _shown(table: Table, split: str) -> list[str]:
    """Full names of what is shown of a split."""
    kinds = product(_kinds(table, split), OF_KINDS)
    return [schema.metric_name(schema.part_name(split, kind), metric) for kind, metric in kinds]


def _mean(done: Any, name: str) -> Text:
    """Mean over seeds, ± its interval."""
    values = [as_float(v) for v in done[METRIC + name].dropna()] if METRIC + name in done else []
    mean, half = interval(values)
    if math.isnan(mean):
        return Text(spelled.NOTHING)
    return Text(spelled.short(mean) + ("" if math.isnan(half) else f" ± {spelled.short(half)}"))


def _key(table: Table, run: Any) -> tuple[str, ...]:
    """Of a row in the published table."""
    axes = published.table(table.paper).axes if table.paper else ()
    return tuple(published.key_of(axis, run.get(axis.column)) for axis in axes)
