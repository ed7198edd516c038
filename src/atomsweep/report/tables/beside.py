"""The paper's numbers beside ours: joined to cells by every axis of the published table."""

from collections.abc import Sequence

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.papers import Table
from atomsweep.report.read.values import normal
from atomsweep.report.tables.comparable import groups_of
from atomsweep.tracking import schema


def _published_best(table: Table, values: pd.Series, within: float, better: str) -> pd.Series:
    """The paper's best, among the rows of one data set where an axis of its table tells them."""
    apart = [i for i, axis in enumerate(table.axes) if groups_of([axis.column]) & {"data", "task"}]
    keys = pd.Series([" ".join(normal(row.key[i]) for i in apart) for row in table.rows])
    found = pd.Series(False, values.index)
    for _, rows in keys.groupby(keys):
        chosen = values.iloc[rows.index]
        found.loc[chosen.index] = best_of(chosen, within, better)
    return found


def published_key(members: pd.DataFrame, reference: str | None) -> tuple[str, ...]:
    """What a row is on each axis of the published table; empty text where its runs differ."""
    found = []
    for axis in published.table(reference).axes if reference else ():
        told = members[axis.column] if axis.column in members else pd.Series(dtype=object)
        values = {published.key_of(axis, value) for value in told} - {""}
        found.append(values.pop() if len(values) == 1 else "")
    return tuple(found)


def beside(cells: pd.DataFrame, own: pd.Series, metric: str, reference: str) -> pd.DataFrame:
    """Fill `published` and `published_best`, joined on every axis of the published table.

    Args:
        cells: of the table.
        own: key of each in the published table.
        metric: without split.
        reference: the published table.
    """
    table = published.table(reference)
    numbers = published.numbers(reference)
    theirs = [tuple(normal(value) for value in row.key) for row in table.rows]
    for column in published.measured(table):
        split = cells["split"].str.removesuffix(f"_{schema.FRAME_KINDS[0]}")  # as OC20's frames are
        here = split + "/" + metric == column.full_name
        if not here.any():
            continue
        within = table.within(column.metric)
        better = "neither" if column.split in schema.OF_RUN else column.better or "low"
        best = _published_best(table, numbers[column.name], within, better)
        value_of = dict(zip(theirs, numbers[column.name] * column.to_ours, strict=True))
        best_of = dict(zip(theirs, best, strict=True))
        cells.loc[here, "published"] = own[here].map(value_of).astype(float)
        cells.loc[here, "published_best"] = own[here].map(best_of).map(lambda b: b is True)
    return cells


def in_order(df: pd.DataFrame, rows: Sequence[str], reference: str | None) -> pd.DataFrame:
    """Cells or runs in the order of the paper's rows; values that it does not have come last."""
    if reference is None or "label" in rows:
        return df
    ranks: dict[str, dict[str, int]] = {}
    table = published.table(reference)
    for index, axis in enumerate(table.axes):
        values = list(dict.fromkeys(normal(row.key[index]) for row in table.rows))
        values += [normal(v) for v in axis.labels if normal(v) not in values]
        ranks[axis.column] = {value: rank for rank, value in enumerate(values)}
    order = pd.DataFrame(
        {
            column: df[column].map(lambda v, c=column: ranks.get(c, {}).get(normal(v), 10**6))
            for column in rows
        },
        index=df.index,
    )
    return df.loc[order.sort_values(list(rows), kind="stable").index].reset_index(drop=True)


def best_of(values: pd.Series, within: float, better: str) -> pd.Series:
    """The best and all within `within` of it; NaN never is. 1e-9 forgives the last binary digit."""
    if better == "neither":
        return pd.Series(False, values.index)
    if better == "high":
        return values >= values.max() - within - 1e-9
    return values <= values.min() + within + 1e-9
