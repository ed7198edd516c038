"""Frame of runs → cells of a table: mean over seeds with interval, baseline, published, difference.

All arithmetic of a table is here; layout and words are in `render.py`. A cell is one row of a long
frame with the columns of `CELL`, after the columns that tell table rows apart.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.papers import Table
from atomsweep.report.read.tidy import CHOICE, CONFIG, METRIC, normal, varying
from atomsweep.report.tables.statistics import interval
from atomsweep.tracking import schema

SPLITS = (*schema.VAL_SPLITS, schema.VAL_AVERAGE)
BASELINE_MODEL = "median"

CELL = (
    "split",
    "metric",
    "mean",  # over seeds; NaN unless all planned runs of the cell are finished
    "half_width",  # of the 95 % interval; NaN for one seed
    "n",  # finished runs that have the metric
    "planned",
    "stale",  # of the finished, how many were made with other code than the present
    "so_far",  # mean of those finished, where some are not; never shown in the cell
    "best",  # within the paper's tolerance of the best mean of this split on its data set
    "baseline",
    "ratio",  # mean / baseline
    "published",
    "published_best",
    "difference",  # mean - published
)


class UnlikeRuns(ValueError):
    """Runs that must not share a table: other data, task or budget, or two runs in one place."""


UNLIKE = (
    ("data_fingerprint", "data"),
    ("choice.task", "task"),
    ("choice.data", "data"),
    ("budget", "engine"),
)
"""Columns whose values must not share a table, and the group that, as an axis, says so in a row."""


def groups_of(axes: Sequence[str]) -> set[str]:
    """Config groups that axes belong to: `model` of `config.model.cutoff`."""
    return {axis.removeprefix(CHOICE).removeprefix(CONFIG).split(".")[0] for axis in axes}


def comparable(frame: pd.DataFrame, axes: Sequence[str] = ()) -> list[pd.DataFrame]:
    """Split a frame into parts of one data set, task and budget each, largest first.

    What a sweep file declares as an axis (`data`, `engine.steps`) may differ: its rows say so. A
    run that has not told one of these (it is missing or failed early) joins the first part that it
    does not contradict.

    Args:
        frame: runs of a sweep.
        axes: what its file declares, as keys or columns.
    """
    declared = groups_of(axes)
    keys = [column for column, group in UNLIKE if column in frame and group not in declared]
    if not keys:
        return [frame]
    finished = frame[frame["state"] == schema.FINISHED]
    parts: dict[tuple[str, ...], list[int]] = {}
    sizes = finished[keys].map(normal).value_counts(sort=True) if len(finished) else pd.Series()
    for key in sizes.index:
        parts[key if isinstance(key, tuple) else (key,)] = []
    for position, values in enumerate(frame[keys].map(normal).itertuples(index=False)):
        own = tuple(values)
        fits = [key for key in parts if all(a in ("", b) for a, b in zip(own, key, strict=True))]
        parts.setdefault(fits[0] if fits else own, []).append(position)
    split = [
        frame.iloc[positions].reset_index(drop=True) for positions in parts.values() if positions
    ]
    for part in split:
        part.attrs.update(frame.attrs)
    return split


def baselines_of(runs: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The newest finished Median run on each data set of `frame`, from whatever sweep.

    It is held against any task: all measure forces in the same way (tasks/force_metrics.py).
    """
    if "choice.model" not in runs:
        return runs.iloc[:0]
    median = (runs["choice.model"] == BASELINE_MODEL) & (runs["state"] == schema.FINISHED)
    found = runs[median].sort_values("created", key=lambda c: c.map(str), kind="stable")
    found = found.drop_duplicates("data_fingerprint", keep="last")
    return found[found["data_fingerprint"].isin(data_of(frame))]


def data_of(frame: pd.DataFrame) -> list[str]:
    """Fingerprints of what the finished runs were trained on, each once."""
    finished = frame.loc[frame["state"] == schema.FINISHED, "data_fingerprint"]
    return list(finished.dropna().unique())


def ablation_table(
    frame: pd.DataFrame,
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
    """Cells of a table: one per combination of `rows` in the frame and per split.

    Args:
        frame: runs of one data set, task and budget; runs of one row differ by seed only.
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
        Long frame: `rows`, then `CELL`. Rows in the paper's order, then as they came.

    Raises:
        UnlikeRuns: the runs must not share a table.
    """
    _check_comparable(frame, [*rows, *declared])
    records: list[dict[str, Any]] = []
    keys = frame[list(rows)].map(normal) if len(rows) else pd.DataFrame(index=frame.index)
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(keys.itertuples(index=False)):
        groups.setdefault(tuple(key), []).append(position)
    keys_of: list[tuple[str, ...]] = []
    data_sets: list[str] = []
    on, there = list(frame["data_fingerprint"]), set(data_of(frame))
    by_data: dict[str, pd.Series] = {}
    if baselines is not None:
        by_data = {run["data_fingerprint"]: run for _, run in baselines.iterrows()}
    for positions in groups.values():
        members = frame.iloc[positions]
        _check_one_row(members, rows)
        shown = {column: members[column].iloc[0] for column in rows}
        # a row of which nothing has finished is on the data of the others
        data = {on[p] for p in positions} & there or there
        baseline = by_data.get(next(iter(data))) if len(data) == 1 else None
        records += [
            shown | _cell(members, split, metric) | {"baseline": _value(baseline, split, metric)}
            for split in splits
        ]
        keys_of += [_published_key(members, reference)] * len(splits)
        data_sets += [" ".join(sorted(map(normal, data)))] * len(splits)
    cells = pd.DataFrame(records, columns=[*rows, *CELL])
    cells["ratio"] = cells["mean"] / cells["baseline"]
    cells["best"] = False
    for _, column in cells.groupby(["split", pd.Series(data_sets, cells.index, dtype=object)]):
        cells.loc[column.index, "best"] = _best(column["mean"], best_within, better)
    if reference is not None:
        cells = _beside(cells, pd.Series(keys_of, cells.index, dtype=object), metric, reference)
    cells["difference"] = cells["mean"] - cells["published"]
    return cells


def in_order(frame: pd.DataFrame, rows: Sequence[str], reference: str | None) -> pd.DataFrame:
    """Cells or runs in the order of the paper's rows; values that it does not have come last."""
    if reference is None or "label" in rows:
        return frame
    ranks: dict[str, dict[str, int]] = {}
    table = published.table(reference)
    for index, axis in enumerate(table.axes):
        values = list(dict.fromkeys(normal(row.key[index]) for row in table.rows))
        values += [normal(v) for v in axis.labels if normal(v) not in values]
        ranks[axis.column] = {value: rank for rank, value in enumerate(values)}
    order = pd.DataFrame(
        {
            column: frame[column].map(lambda v, c=column: ranks.get(c, {}).get(normal(v), 10**6))
            for column in rows
        },
        index=frame.index,
    )
    return frame.loc[order.sort_values(list(rows), kind="stable").index].reset_index(drop=True)


def _check_comparable(frame: pd.DataFrame, axes: Sequence[str]) -> None:
    finished = frame[frame["state"] == schema.FINISHED]
    declared = groups_of(axes)
    for column, what, group in (
        ("data_fingerprint", "data sets", "data"),
        ("choice.task", "tasks", "task"),
        ("budget", "budgets", "engine"),
    ):
        if group in declared:
            continue
        values = sorted({normal(v) for v in finished.get(column, pd.Series(dtype=object))})
        if len(values) > 1:
            raise UnlikeRuns(
                f"runs of one table must share their {what}, got {', '.join(values)}; "
                f"split them with comparable()"
            )


def _check_one_row(members: pd.DataFrame, rows: Sequence[str]) -> None:
    """Runs of one table row may differ by seed and by nothing else."""
    if not members["seed"].map(normal).duplicated().any():
        return
    names = ", ".join(str(name) for name in members["name"])
    other = [c for c in varying(members) if c not in rows and c != f"{CONFIG}seed"]
    differ = f"they differ in {', '.join(other)}" if other else "nothing told apart"
    raise UnlikeRuns(f"runs {names} fall into one table row with one seed; {differ}")


def _cell(members: pd.DataFrame, split: str, metric: str) -> dict[str, Any]:
    column = f"{METRIC}{schema.metric_name(split, metric)}"
    done = members[members["state"] == schema.FINISHED]
    values = [float(v) for v in done[column].dropna()] if column in members else []
    mean, half_width = interval(values)
    complete = len(values) == len(members)
    return {
        "split": split,
        "metric": metric,
        "mean": mean if complete else math.nan,
        "half_width": half_width if complete else math.nan,
        "n": len(values),
        "planned": len(members),
        "stale": sum(value is True for value in done["stale"]),
        "so_far": math.nan if complete else mean,
        "published": math.nan,
        "published_best": False,
    }


def _value(run: pd.Series | None, split: str, metric: str) -> float:
    if run is None:
        return math.nan
    return float(run.get(f"{METRIC}{schema.metric_name(split, metric)}", math.nan))


def _best(values: pd.Series, within: float, better: str) -> pd.Series:
    """The best and all within `within` of it; NaN never is. 1e-9 forgives the last binary digit."""
    if better == "neither":
        return pd.Series(False, values.index)
    if better == "high":
        return values >= values.max() - within - 1e-9
    return values <= values.min() + within + 1e-9


def _published_best(table: Table, values: pd.Series, within: float, better: str) -> pd.Series:
    """The paper's best, among the rows of one data set where an axis of its table tells them."""
    apart = [i for i, axis in enumerate(table.axes) if groups_of([axis.column]) & {"data", "task"}]
    keys = pd.Series([" ".join(normal(row.key[i]) for i in apart) for row in table.rows])
    found = pd.Series(False, values.index)
    for _, rows in keys.groupby(keys):
        chosen = values.iloc[rows.index]
        found.loc[chosen.index] = _best(chosen, within, better)
    return found


def _published_key(members: pd.DataFrame, reference: str | None) -> tuple[str, ...]:
    """What a row is on each axis of the published table; empty text where its runs differ."""
    found = []
    for axis in published.table(reference).axes if reference else ():
        told = members[axis.column] if axis.column in members else pd.Series(dtype=object)
        values = {published.key_of(axis, value) for value in told} - {""}
        found.append(values.pop() if len(values) == 1 else "")
    return tuple(found)


def _beside(cells: pd.DataFrame, own: pd.Series, metric: str, reference: str) -> pd.DataFrame:
    """Fill `published` and `published_best`, joined on every axis of the published table.

    Args:
        cells: of the table.
        own: key of each in the published table.
        metric: without split.
        reference: the published table.
    """
    table = published.table(reference)
    numbers = published.frame(reference)
    theirs = [tuple(normal(value) for value in row.key) for row in table.rows]
    for column in published.measured(table):
        here = cells["split"] + "/" + metric == column.full_name
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
