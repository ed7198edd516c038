"""What claims are judged by: cells with their runs, our numbers by seed, the paper's numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.asked import LABEL, Asked
from atomsweep.report.read.tidy import (
    CHOICE,
    CONFIG,
    METRIC,
    OF_THE_RUN,
    device_of,
    is_of_cost,
    is_timed,
    records,
)
from atomsweep.report.read.values import normal
from atomsweep.report.tables.baselines import BASELINE_MODEL
from atomsweep.report.tables.compute import Curve
from atomsweep.report.tables.trained import UNTRAINED
from atomsweep.sweep.claims import Claim, Setting, is_split
from atomsweep.tracking import schema

Cell = tuple[str | None, Setting]


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by.

    Attributes:
        asked: of the sweep file.
        df: its runs.
        reference: published table, or None.
        curves: metric → identity → learning curve.
        words: label and setting of a cell → how it is called.
    """

    asked: Asked
    df: pd.DataFrame
    reference: str | None
    curves: Callable[[str], Mapping[str, Curve]]
    words: Callable[[Cell], str]


@dataclass(frozen=True)
class Member:
    """A cell of the table with its runs by seed."""

    cell: Cell
    runs: dict[float, dict[str, Any]]
    identities: tuple[str, ...] = ()


def members_of(evidence: Evidence) -> list[Member]:
    """Every cell of the table with the runs that there are of it."""
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for identity, (label, setting) in evidence.asked.settings.items():
        key = (label, tuple((k, normal(v)) for k, v in sorted(setting.items())))
        grouped.setdefault(key, []).append(identity)
    rows = {row["identity"]: row for row in records(evidence.df)}
    members = []
    for identities in grouped.values():
        runs = [rows[i] for i in identities if i in rows]
        cell = evidence.asked.settings[identities[0]]
        members.append(Member(cell, {r["seed"]: r for r in runs}, tuple(identities)))
    return members


def metric_of_claim(claim: Claim, evidence: Evidence) -> str:
    """Full name of the number that is compared."""
    name = claim.metric or evidence.asked.statement.metrics[0]
    if name in OF_THE_RUN:
        return name
    first, slash, rest = name.partition("/")
    spread = rest in schema.EVALUATED_BY_SPLIT.get(first, ())
    if slash and not spread and not is_split(first):
        return name
    own_split, bare = (first, rest) if slash and not spread else (None, rest if spread else name)
    before = f"{first}/" if spread else ""
    split = claim.split or own_split
    if split is None:
        table = published.table(evidence.reference) if evidence.reference else None
        papers = [c.split for c in table.columns if c.split and c.metric == bare] if table else []
        splits = (schema.VAL_AVERAGE, *papers, *schema.VAL_SPLITS)
        names = {s: METRIC + before + schema.metric_name(s, bare) for s in splits}
        there = [s for s in splits if names[s] in evidence.df.columns]
        split = there[0] if there else schema.VAL_AVERAGE
    return before + schema.metric_name(split, bare)


def values_of(
    claim: Claim, left: Member, right: Member, metric: str, evidence: Evidence
) -> list[dict[float, float]]:
    """Seed → number of both sides; at a time, of the seeds that both have measured at it."""
    counted = counts if _asks_for_learning(claim, left, right, metric) else all_finished
    if claim.hours is None:
        column = metric if metric in OF_THE_RUN else METRIC + metric
        return [
            {
                seed: float(run[column])
                for seed, run in member.runs.items()
                if counted(run) and _is_number(run.get(column))
            }
            for member in (left, right)
        ]
    curves = evidence.curves(metric)
    sides: list[dict[float, float]] = [{}, {}]
    for seed in sorted(set(left.runs) & set(right.runs)):
        if not all(counted(member.runs[seed]) for member in (left, right)):
            continue
        pair = [curves.get(member.runs[seed]["identity"]) for member in (left, right)]
        if pair[0] is None or pair[1] is None or not (pair[0].times and pair[1].times):
            continue
        time = 3600 * claim.hours or min(pair[0].times[-1], pair[1].times[-1])
        values = [pair[0].at(time), pair[1].at(time)]
        if all(map(math.isfinite, values)):
            sides[0][seed], sides[1][seed] = values
    return sides


def counts(run: Mapping[str, Any]) -> bool:
    """Whether a run decides claims: finished, and trained."""
    return all_finished(run) and not run.get(UNTRAINED)


def all_finished(run: Mapping[str, Any]) -> bool:
    """Whether a run decides claims that do not ask for learning."""
    return bool(run["state"] == schema.FINISHED)


def _asks_for_learning(claim: Claim, left: Member, right: Member, metric: str) -> bool:
    """Whether a run must be trained to decide a claim.

    Not where it is held against the Median: whether it has left that is what is asked, and to leave
    out those that have not would be to choose runs by the answer. Nor where time, memory or
    parameters are compared, which are the same whatever a network has learnt.
    """
    sides = ({run.get(f"{CHOICE}model") for run in side.runs.values()} for side in (left, right))
    if any(models == {BASELINE_MODEL} for models in sides):
        return False
    return claim.hours is not None or not is_of_cost(metric)


def never_trained(claim: Claim, left: Member, right: Member, metric: str, first: int) -> bool:
    """Whether a claim asks for learning, and of a cell that has `first` seeds no run has learnt."""
    done = [[r for r in side.runs.values() if all_finished(r)] for side in (left, right)]
    return _asks_for_learning(claim, left, right, metric) and any(
        len(runs) >= first and not any(map(counts, runs)) for runs in done
    )


def untrained_of(claim: Claim, left: Member, right: Member, metric: str, evidence: Evidence) -> str:
    """Which seeds of two cells decide nothing since they have not learnt; empty where none."""
    if not _asks_for_learning(claim, left, right, metric):
        return ""
    told = []
    for member in (left, right):
        why = {s: run[UNTRAINED] for s, run in sorted(member.runs.items()) if run.get(UNTRAINED)}
        if why:
            first, *more = (f"{seed:g}" for seed in why)
            seeds = f"seeds {', '.join([first, *more])}" if more else f"seed {first}"
            are, of_first = ("are", f"seed {first}: ") if more else ("is", "")
            because = f"{of_first}{next(iter(why.values()))}"
            told.append(f"{seeds} of {evidence.words(member.cell)} {are} not trained ({because})")
    return "; ".join(told)


def taken_off(claim: Claim, metric: str) -> str | None:
    """Full name of the number that a gap begins at; None where the claim is of no gap."""
    if claim.minus is None:
        return None
    return metric.replace(f"{claim.split}/", f"{claim.minus}/")


def differences(
    values: Sequence[Mapping[float, float]], bases: Sequence[Mapping[float, float]]
) -> list[dict[float, float]]:
    """Seed → value − base of each side, of the seeds that have both."""
    return [
        {seed: value - base[seed] for seed, value in side.items() if seed in base}
        for side, base in zip(values, bases, strict=True)
    ]


def unlike(claim: Claim, left: Member, right: Member, metric: str) -> str:
    """Why two cells must not be compared; empty if they may."""
    runs = [
        run
        for member in (left, right)
        for run in member.runs.values()
        if run["state"] == schema.FINISHED
    ]
    axes = {axis.partition(".")[0] for axis in (*left.cell[1], *right.cell[1])}
    if "data" not in axes and len({run["data_fingerprint"] for run in runs}) > 1:
        return "different data sets"
    if claim.hours is not None or is_timed(metric):
        there = sorted({device_of(run, metric) for run in runs})
        if len(there) > 1:
            return f"times on unlike devices: {', '.join(there)}"
    return ""


def published_of(claim: Claim, member: Member, metric: str, evidence: Evidence) -> float | None:
    """The paper's number of a cell, or its gap between two splits."""
    value, base = _published(member, metric, evidence), taken_off(claim, metric)
    if value is None or base is None:
        return value
    taken = _published(member, base, evidence)
    return None if taken is None else value - taken


def _published(member: Member, metric: str, evidence: Evidence) -> float | None:
    """The paper's number of a cell."""
    if evidence.reference is None:
        return None
    table = published.table(evidence.reference)
    metric = metric.replace(f"_{schema.FRAME_KINDS[0]}/", "/")  # OC20's frames are of relaxations
    columns = [i for i, c in enumerate(table.columns) if f"{c.split}/{c.metric}" == metric]
    if not columns:
        return None
    wanted = [published.key_of(axis, _value(member, axis.column)) for axis in table.axes]
    for row in table.rows:
        if [normal(value) for value in row.key] == wanted:
            value = row.values[columns[0]]
            return None if value is None else value * table.columns[columns[0]].to_ours
    return None


def _value(member: Member, column: str) -> Any:
    """Value of a column in a cell: what the file sets, else what its runs have in common."""
    if column == LABEL:
        return member.cell[0]
    bare = column.removeprefix(CHOICE).removeprefix(CONFIG)
    if bare in member.cell[1]:
        return member.cell[1][bare]
    values = {normal(run.get(column)) for run in member.runs.values()} - {""}
    return values.pop() if len(values) == 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
