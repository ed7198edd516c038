"""Frame of runs → cells of a table: mean over seeds with interval, baseline, ratio, the best.

A cell is a row of a long DataFrame: the columns that tell table rows apart, then those of `CELL`.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from atomsweep.report.read.tidy import METRIC, awaited, by_row, is_of_cost
from atomsweep.report.read.values import normal
from atomsweep.report.tables.baselines import data_of
from atomsweep.report.tables.beside import beside, best_of, published_key
from atomsweep.report.tables.comparable import check_comparable, check_one_row
from atomsweep.report.tables.statistics import interval
from atomsweep.report.tables.trained import UNTRAINED
from atomsweep.tracking import schema

SPLITS = (*schema.VAL_SPLITS, schema.VAL_AVERAGE)
CELL = (
    "split",
    "metric",
    "mean",  # over seeds; NaN unless all runs that it awaits are finished
    "half_width",  # of the 95 % interval; NaN for one seed
    "n",  # finished runs that have the metric
    "planned",  # runs that it awaits: further seeds that are on their way are not
    "stale",  # of the finished, how many were made with other code than the present
    "untrained",  # of the finished, how many have learnt too little for what is measured
    "so_far",  # mean of those finished, where some are not; the cell shows it with their number
    "best",  # of several trained seeds, within the paper's tolerance of the best mean of its split
    "baseline",
    "ratio",  # mean / baseline
    "published",
    "published_best",
    "difference",  # mean - published
)


def cells_of(
    df: pd.DataFrame,
    rows: Sequence[str],
    metric: str = schema.FORCES_MAE,
    splits: Sequence[str] = SPLITS,
    *,
    best_within: float = 0.0,
    better: str = "low",
    baselines: pd.DataFrame | None = None,
    reference: str | None = None,
    declared: Sequence[str] = (),
) -> pd.DataFrame:
    """Cells of a table: one per combination of `rows` in it and per split.

    Args:
        df: runs of one data set, task and budget; runs of one row differ by seed only.
        rows: columns that tell table rows apart, e.g. `["choice.basis", "choice.act"]`.
        metric: name without split, e.g. `forces_mae`.
        splits: columns of the table, in order.
        best_within: what is within this of a split's best is best too (0.0005 for ForceNet); rows
            on other data have a best of their own.
        better: "low", "high" or "neither".
        baselines: from `baselines_of`; a row is held against that of its data set.
        reference: a published table to stand beside, e.g. `forcenet.table5`.
        declared: axes of the sweep file; what they say may differ between rows.

    Returns:
        Long format: `rows`, then `CELL`. Rows in the order in which they came.

    Raises:
        UnlikeRuns: the runs must not share a table.
    """
    check_comparable(df, [*rows, *declared])
    found: list[dict[str, Any]] = []
    keys: list[tuple[str, ...]] = []
    data_sets: list[str] = []
    there = set(data_of(df))
    for _, members in by_row(df, rows):
        check_one_row(members, rows)
        # a row of which nothing has finished is on the data of the others
        data = set(members["data_fingerprint"]) & there or there
        baseline = _baseline(baselines, data)
        shown = {column: members[column].iloc[0] for column in rows}
        found += [
            shown | _cell(members, split, metric) | {"baseline": _value(baseline, split, metric)}
            for split in splits
        ]
        keys += [published_key(members, reference)] * len(splits)
        data_sets += [" ".join(sorted(map(normal, data)))] * len(splits)
    cells = pd.DataFrame(found, columns=[*rows, *CELL])
    cells["ratio"] = cells["mean"] / cells["baseline"]
    cells["best"] = False
    for _, column in cells.groupby(["split", pd.Series(data_sets, cells.index, dtype=object)]):
        trained = column["mean"].where(column["untrained"] == 0)
        best = best_of(trained, best_within, better)
        cells.loc[column.index, "best"] = best & (column["n"] > 1)  # one seed shows no best
    if reference is not None:
        cells = beside(cells, pd.Series(keys, cells.index, dtype=object), metric, reference)
    cells["difference"] = cells["mean"] - cells["published"]
    return cells


def _baseline(baselines: pd.DataFrame | None, data: Collection[str]) -> pd.Series | None:
    """The baseline on the data of a row; None where there is none, or the row is on several."""
    if baselines is None or len(data) != 1:
        return None
    on_it = baselines[baselines["data_fingerprint"] == next(iter(data))]
    return None if on_it.empty else on_it.iloc[-1]


def _cell(members: pd.DataFrame, split: str, metric: str) -> dict[str, Any]:
    column = f"{METRIC}{schema.metric_name(split, metric)}"
    done = members[members["state"] == schema.FINISHED]
    values = [float(v) for v in done[column].dropna()] if column in members else []
    mean, half_width = interval(values)
    of_learning = not is_of_cost(schema.metric_name(split, metric))
    planned = int(awaited(members).sum())
    complete = len(values) == planned
    return {
        "split": split,
        "metric": metric,
        "mean": mean if complete else math.nan,
        "half_width": half_width if complete else math.nan,
        "n": len(values),
        "planned": planned,
        "stale": sum(value is True for value in done["stale"]),
        "untrained": sum(map(bool, done.get(UNTRAINED, ()))) if of_learning else 0,
        "so_far": math.nan if complete else mean,
        "published": math.nan,
        "published_best": False,
    }


def _value(run: pd.Series | None, split: str, metric: str) -> float:
    if run is None:
        return math.nan
    return float(run.get(f"{METRIC}{schema.metric_name(split, metric)}", math.nan))
