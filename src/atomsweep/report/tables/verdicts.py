"""Claims of a sweep file against runs: holds, fails or undecided, with effect, interval and seeds.

The grammar is in `atomsweep.sweep.claims`, what a verdict means in docs/sweep-files.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.layout import LABEL, Layout
from atomsweep.report.read.tidy import CHOICE, CONFIG, METRIC, device_of, is_timed, normal, records
from atomsweep.report.tables.compute import Curve
from atomsweep.report.tables.statistics import paired_interval, seeds_to_decide
from atomsweep.sweep.claims import Claim, ClaimError, Setting, comparisons, is_split, parse
from atomsweep.tracking import schema

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
LEVEL = 0.95
OF_THE_RUN = ("device_seconds", "eval_seconds", "gpu_days", "parameters")
"""Columns of a run that a claim may be about, beside metrics."""

Cell = tuple[str | None, Setting]


@dataclass(frozen=True)
class Comparison:
    """Two cells, as one claim compares them.

    Attributes:
        left: in words.
        right: in words.
        effect: mean of left − right over the seeds that both have, factors applied.
        half_width: of its 95 % interval; NaN below two seeds.
        n: seeds that both have.
        verdict: `holds`, `fails` or `undecided`, at 95 %.
        certain: it fails even at the level that its claim's number of comparisons asks for.
        needed: guess of the further seeds that would decide; None: nobody can tell.
        paper: the paper's two numbers, None where it has none.
        paper_holds: whether those satisfy the claim.
        note: why there is no verdict.
    """

    left: str
    right: str
    effect: float
    half_width: float
    n: int
    verdict: str
    certain: bool
    needed: int | None
    paper: tuple[float, float] | None
    paper_holds: bool | None
    note: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes:
        text: as the file has it.
        metric: what was compared, `val_avg/forces_mae`.
        verdict: of all comparisons together.
        comparisons: each.
        paper_holds: whether the paper's own numbers satisfy it; None where they do not tell.
        note: what the comparison was restricted to, or why there is none.
    """

    text: str
    metric: str
    verdict: str
    comparisons: tuple[Comparison, ...]
    paper_holds: bool | None
    note: str = ""

    @property
    def needed(self) -> int | None:
        """Further seeds that would decide all of it; None: nobody can tell."""
        open_ = [c.needed for c in self.comparisons if c.verdict == UNDECIDED]
        known = [n for n in open_ if n is not None]
        return max(known) if open_ and len(known) == len(open_) else None


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by.

    Attributes:
        layout: of the sweep file.
        frame: its runs.
        reference: published table, or None.
        curves: metric → identity → learning curve.
        words: label and setting of a cell → how it is called.
    """

    layout: Layout
    frame: pd.DataFrame
    reference: str | None
    curves: Callable[[str], Mapping[str, Curve]]
    words: Callable[[Cell], str]


def judge(evidence: Evidence) -> list[Judged]:
    """Every claim of the sweep file."""
    cells = _cells(evidence)
    judged = []
    for text in evidence.layout.statement.claims:
        try:
            judged.append(_judged(parse(text), cells, evidence))
        except ClaimError as error:  # of a part of the table, as when values were typed
            judged.append(Judged(text, "", UNDECIDED, (), None, str(error)))
    return judged


def compare(
    left: Mapping[float, float],
    right: Mapping[float, float],
    order: str,
    tolerance: float = 0.0,
    tries: int = 1,
) -> tuple[float, float, int, str, bool, int | None]:
    """Effect, half-width, pairs, verdict at 95 %, whether it fails at 1 − 0.05/tries, seeds needed.

    Args:
        left: seed → value.
        right: seed → value.
        order: `<`, `<=`, `>` or `>=`.
        tolerance: by which `<=` and `>=` forgive.
        tries: comparisons of the claim.
    """
    effect, half, n = paired_interval(left, right, LEVEL)
    if n < 2:
        return effect, math.nan, n, UNDECIDED, False, None
    sign = 1.0 if order in ("<", "<=") else -1.0
    limit = tolerance if order in ("<=", ">=") else 0.0
    _, wide, _ = paired_interval(left, right, 1 - (1 - LEVEL) / tries)
    verdict = _verdict(sign * effect, half, order, limit)
    certain = _verdict(sign * effect, wide, order, limit) == FAILS
    if verdict != UNDECIDED:
        return effect, half, n, verdict, certain, 0
    spread = _spread(left, right)
    wanted = seeds_to_decide(sign * effect - limit, spread, LEVEL)
    return effect, half, n, verdict, certain, None if wanted is None else max(wanted - n, 1)


def satisfied(left: float, right: float, order: str, tolerance: float) -> bool:
    """Whether two printed numbers satisfy a claim."""
    sign = 1.0 if order in ("<", "<=") else -1.0
    difference = sign * (left - right)
    strict = order in ("<", ">")
    return difference < -1e-12 if strict else difference <= tolerance + 1e-9


def _verdict(effect: float, half: float, order: str, limit: float) -> str:
    low, high = effect - half, effect + half
    if order in ("<", ">"):
        return HOLDS if high < 0 else FAILS if low >= 0 else UNDECIDED
    return HOLDS if high <= limit else FAILS if low > limit else UNDECIDED


def _spread(left: Mapping[float, float], right: Mapping[float, float]) -> float:
    """Standard deviation of the paired differences."""
    values = [left[s] - right[s] for s in left if s in right]
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


# One claim


@dataclass(frozen=True)
class _Member:
    """A cell of the table with its runs by seed."""

    cell: Cell
    runs: dict[float, dict[str, Any]]


def _cells(evidence: Evidence) -> list[_Member]:
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for identity, (label, setting) in evidence.layout.settings.items():
        key = (label, tuple((k, normal(v)) for k, v in sorted(setting.items())))
        grouped.setdefault(key, []).append(identity)
    rows = {row["identity"]: row for row in records(evidence.frame)}
    members = []
    for identities in grouped.values():
        runs = [rows[i] for i in identities if i in rows]
        members.append(
            _Member(evidence.layout.settings[identities[0]], {r["seed"]: r for r in runs})
        )
    return members


def _judged(claim: Claim, cells: Sequence[_Member], evidence: Evidence) -> Judged:
    pairs = comparisons(claim, [member.cell for member in cells])
    metric = _metric(claim, evidence)
    found = tuple(
        _comparison(claim, cells[i], cells[j], metric, evidence, len(pairs)) for i, j in pairs
    )
    verdict = UNDECIDED
    if any(c.verdict == FAILS and c.certain for c in found):
        verdict = FAILS
    elif all(c.verdict == HOLDS for c in found):
        verdict = HOLDS
    told = [c.paper_holds for c in found if c.paper_holds is not None]
    paper = all(told) if len(told) == len(found) else (False if False in told else None)
    note = "" if claim.hours is None else "at equal training time, of the best value until then"
    if base := _taken_off(claim, metric):
        note = f"minus {base}"
    if claim.hours:
        note = f"at {claim.hours:g} device-hours of training, of the best value until then"
    return Judged(claim.text, metric, verdict, found, paper, note)


def _metric(claim: Claim, evidence: Evidence) -> str:
    """Full name of the number that is compared."""
    name = claim.metric or evidence.layout.statement.metrics[0]
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
        there = [s for s in splits if names[s] in evidence.frame.columns]
        split = there[0] if there else schema.VAL_AVERAGE
    return before + schema.metric_name(split, bare)


def _comparison(
    claim: Claim, left: _Member, right: _Member, metric: str, evidence: Evidence, tries: int
) -> Comparison:
    note = _unlike(claim, left, right, metric)
    ours: list[dict[float, float]] = [{}, {}]
    if not note:
        ours = _values(claim, left, right, metric, evidence)
        if base := _taken_off(claim, metric):
            ours = _gaps(ours, _values(claim, left, right, base, evidence))
    one, other = (
        {seed: factor * value for seed, value in side.items()}
        for factor, side in zip(claim.factors, ours, strict=True)
    )
    tolerance = published.table(evidence.reference).within(metric) if evidence.reference else 0.0
    effect, half, n, verdict, certain, needed = compare(one, other, claim.order, tolerance, tries)
    if not note and n == 0:
        note = "no seed that both have finished"
    elif not note and n == 1:
        note = "one seed has no interval"
    theirs = [_told(claim, member, metric, evidence) for member in (left, right)]
    paper, paper_holds = None, None
    if claim.hours is None and theirs[0] is not None and theirs[1] is not None:
        paper = (theirs[0], theirs[1])
        paper_holds = satisfied(
            claim.factors[0] * paper[0],
            claim.factors[1] * paper[1],
            claim.order,
            tolerance,
        )
    return Comparison(
        left=evidence.words(left.cell),
        right=evidence.words(right.cell),
        effect=effect,
        half_width=half,
        n=n,
        verdict=verdict,
        certain=certain,
        needed=needed,
        paper=paper,
        paper_holds=paper_holds,
        note=note,
    )


def _values(
    claim: Claim, left: _Member, right: _Member, metric: str, evidence: Evidence
) -> list[dict[float, float]]:
    """Seed → number of both sides; at a time, of the seeds that both have measured at it."""
    if claim.hours is None:
        column = metric if metric in OF_THE_RUN else METRIC + metric
        return [
            {
                seed: float(run[column])
                for seed, run in member.runs.items()
                if run["state"] == schema.FINISHED and _is_number(run.get(column))
            }
            for member in (left, right)
        ]
    curves = evidence.curves(metric)
    sides: list[dict[float, float]] = [{}, {}]
    for seed in sorted(set(left.runs) & set(right.runs)):
        pair = [curves.get(member.runs[seed]["identity"]) for member in (left, right)]
        if pair[0] is None or pair[1] is None or not (pair[0].times and pair[1].times):
            continue
        time = 3600 * claim.hours or min(pair[0].times[-1], pair[1].times[-1])
        values = [pair[0].at(time), pair[1].at(time)]
        if all(map(math.isfinite, values)):
            sides[0][seed], sides[1][seed] = values
    return sides


def _taken_off(claim: Claim, metric: str) -> str | None:
    """Full name of the number that a gap begins at; None where the claim is of no gap."""
    if claim.minus is None:
        return None
    return metric.replace(f"{claim.split}/", f"{claim.minus}/")


def _gaps(
    values: Sequence[Mapping[float, float]], bases: Sequence[Mapping[float, float]]
) -> list[dict[float, float]]:
    """Seed → value − base of each side, of the seeds that have both."""
    return [
        {seed: value - base[seed] for seed, value in side.items() if seed in base}
        for side, base in zip(values, bases, strict=True)
    ]


def _unlike(claim: Claim, left: _Member, right: _Member, metric: str) -> str:
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


def _told(claim: Claim, member: _Member, metric: str, evidence: Evidence) -> float | None:
    """The paper's number of a cell, or its gap between two splits."""
    value, base = _published(member, metric, evidence), _taken_off(claim, metric)
    if value is None or base is None:
        return value
    taken = _published(member, base, evidence)
    return None if taken is None else value - taken


def _published(member: _Member, metric: str, evidence: Evidence) -> float | None:
    """The paper's number of a cell."""
    if evidence.reference is None:
        return None
    table = published.table(evidence.reference)
    columns = [i for i, c in enumerate(table.columns) if f"{c.split}/{c.metric}" == metric]
    if not columns:
        return None
    wanted = [published.key_of(axis, _value(member, axis.column)) for axis in table.axes]
    for row in table.rows:
        if [normal(value) for value in row.key] == wanted:
            value = row.values[columns[0]]
            return None if value is None else value * table.columns[columns[0]].to_ours
    return None


def _value(member: _Member, column: str) -> Any:
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
