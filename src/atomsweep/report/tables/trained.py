"""Runs that have finished and yet learnt too little to decide anything, and why.

Rotation about z makes x and y equivalent, and no direction is out of a network's reach, but a
component that is never left at the Median gets no gradient: such a run says how it began, not what
was compared. It is marked in tables and decides no claim.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from atomsweep.report.read.tidy import CHOICE, CONFIG, METRIC, records
from atomsweep.report.tables.baselines import BASELINE_MODEL, baselines_of
from atomsweep.tracking import schema

UNTRAINED = "untrained"  # column of runs: why a run decides nothing, "" where it may
APART = 2.0  # between the errors of two components
NEAR = 0.05  # of the Median
HARDLY = 0.05  # of the Median's largest component: a smaller one is no direction of these data
COMPONENTS = {
    "x": schema.FORCES_X_MAE,
    "y": schema.FORCES_Y_MAE,
    "z": schema.FORCES_Z_MAE,
}
WITHOUT_DIRECTION = (f"{CONFIG}model.edge_features", "only_dist")
"""A part of a model that reads no direction: x and y are out of its reach, and its row says so."""


def mark_untrained(df: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """The runs with the column `untrained`.

    Args:
        df: runs.
        everything: all runs that there are, the Median of each data set among them.
    """
    medians = {row["data_fingerprint"]: row for row in records(baselines_of(everything, df))}
    reasons = [why_untrained(run, medians.get(run["data_fingerprint"])) for run in records(df)]
    marked = df.assign(**{UNTRAINED: pd.Series(reasons, df.index, dtype=object)})
    marked.attrs.update(df.attrs)
    return marked


def why_untrained(run: Mapping[str, Any], median: Mapping[str, Any] | None) -> str:
    """Why a run has learnt too little; empty where it has learnt, or where nothing tells.

    One of its x, y, z errors is within 5 % of the Median's (or above it), or two of them differ by
    more than 2 ×; each is taken relative to the Median's where there is one, since data need not be
    alike in all directions, and what hardly exists in the data is left out.

    Args:
        run: a row.
        median: the row of the Median on the same data; None: there is none.
    """
    column, without = WITHOUT_DIRECTION
    if run["state"] != schema.FINISHED or run.get(f"{CHOICE}model") == BASELINE_MODEL:
        return ""
    if run.get(column) == without:
        return ""
    split = next((s for s in schema.VAL_SPLITS if _errors(run, s)), "")
    errors = _errors(run, split)
    if not errors:
        return ""
    theirs = _errors(median, split) if median is not None else {}
    if theirs:
        floor = HARDLY * max(theirs.values())
        errors = {a: error / theirs[a] for a, error in errors.items() if theirs[a] > floor}
        worst = max(errors, key=lambda axis: errors[axis], default="")
        if errors and errors[worst] >= 1 - NEAR:
            return f"{worst} is at {errors[worst]:.2f} of the Median on {split}"
    errors = {axis: error for axis, error in errors.items() if error > 0}
    low, high = (f(errors, key=lambda axis: errors[axis], default="") for f in (min, max))
    if errors and errors[high] > APART * errors[low]:
        times = errors[high] / errors[low]
        return f"the error of {high} is {times:.1f} times that of {low} on {split}"
    return ""


def components_of(metric: str) -> list[str]:
    """Full names of the errors of x, y and z that tell when a training leaves the Median."""
    if metric != schema.FORCES_MAE:
        return []
    return [schema.metric_name(schema.VAL_SPLITS[0], name) for name in COMPONENTS.values()]


def limits_of(median: Mapping[str, Any]) -> dict[str, float]:
    """Full name of a component's error -> below what it has left the Median; empty: not known."""
    split = schema.VAL_SPLITS[0]
    theirs = {
        schema.metric_name(split, COMPONENTS[a]): e for a, e in _errors(median, split).items()
    }
    floor = HARDLY * max(theirs.values(), default=math.inf)
    return {name: (1 - NEAR) * error for name, error in theirs.items() if error > floor}


def left_at(points: pd.DataFrame, limits: Mapping[str, float]) -> float:
    """Step of the evaluation from which on x, y and z are below the Median; NaN: not to the end.

    Args:
        points: of one run: metric, step and value of what `components_of` names.
        limits: from `limits_of`.
    """
    told = points[points["metric"].isin(limits)].drop_duplicates(["metric", "step"], keep="last")
    if told.empty:
        return math.nan
    below = told["value"] < told["metric"].map(limits)  # a value that is not finite is not below
    steps = below.groupby(told["step"])
    all_below = steps.all() & (steps.size() == len(limits))  # one that is not told is not below
    backwards = all_below.sort_index(ascending=False)
    left = backwards.index[backwards.cummin()]
    return float(left.min()) if len(left) else math.nan


def _errors(run: Mapping[str, Any], split: str) -> dict[str, float]:
    """Component → error on a split; empty unless all three are known."""
    named = {axis: run.get(f"{METRIC}{split}/{name}") for axis, name in COMPONENTS.items()}
    found = {axis: float(v) for axis, v in named.items() if isinstance(v, int | float)}
    known = len(found) == len(COMPONENTS) and all(map(math.isfinite, found.values()))
    return found if known else {}
