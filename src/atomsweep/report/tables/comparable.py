"""Which runs may share a table: one data set, one task, one budget, and one run for each seed."""

from collections.abc import Sequence

import pandas as pd

from atomsweep.report.read.tidy import CHOICE, CONFIG, varying
from atomsweep.report.read.values import normal
from atomsweep.tracking import schema


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


def comparable(df: pd.DataFrame, axes: Sequence[str] = ()) -> list[pd.DataFrame]:
    """Split runs into parts of one data set, task and budget each, largest first.

    What a sweep file declares as an axis (`data`, `engine.steps`) may differ: its rows say so. A
    run that has not told one of these (it is missing or failed early) joins the first part that it
    does not contradict.

    Args:
        df: runs of a sweep.
        axes: what its file declares, as keys or columns.
    """
    declared = groups_of(axes)
    keys = [column for column, group in UNLIKE if column in df and group not in declared]
    if not keys:
        return [df]
    finished = df[df["state"] == schema.FINISHED]
    parts: dict[tuple[str, ...], list[int]] = {}
    sizes = finished[keys].map(normal).value_counts(sort=True) if len(finished) else pd.Series()
    for key in sizes.index:
        parts[key if isinstance(key, tuple) else (key,)] = []
    for position, values in enumerate(df[keys].map(normal).itertuples(index=False)):
        own = tuple(values)
        fits = [key for key in parts if all(a in ("", b) for a, b in zip(own, key, strict=True))]
        parts.setdefault(fits[0] if fits else own, []).append(position)
    split = [df.iloc[positions].reset_index(drop=True) for positions in parts.values() if positions]
    for part in split:
        part.attrs.update(df.attrs)
    return split


def check_comparable(df: pd.DataFrame, axes: Sequence[str]) -> None:
    """Refuse runs of several data sets, tasks or budgets that no axis declares."""
    finished = df[df["state"] == schema.FINISHED]
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


def check_one_row(members: pd.DataFrame, rows: Sequence[str]) -> None:
    """Runs of one table row may differ by seed and by nothing else."""
    if not members["seed"].map(normal).duplicated().any():
        return
    names = ", ".join(str(name) for name in members["name"])
    other = [c for c in varying(members) if c not in rows and c != f"{CONFIG}seed"]
    differ = f"they differ in {', '.join(other)}" if other else "nothing told apart"
    raise UnlikeRuns(f"runs {names} fall into one table row with one seed; {differ}")
