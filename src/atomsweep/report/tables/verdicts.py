"""Claims of a sweep file against runs: a verdict, with effect, interval and seeds.

The grammar is in `atomsweep.sweep.claims`, what a verdict means in docs/sweep-files.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from atomsweep.report.read import published
from atomsweep.report.read.tidy import METRIC, is_shared, is_timed
from atomsweep.report.tables.evidence import (
    Evidence,
    Member,
    differences,
    members_of,
    metric_of_claim,
    never_trained,
    published_of,
    taken_off,
    unlike,
    untrained_of,
    values_of,
)
from atomsweep.report.tables.statistics import (
    MOST_SEEDS,
    chi2_quantile,
    paired_interval,
    seeds_to_decide,
    t_quantile,
)
from atomsweep.sweep.claims import Claim, ClaimError, comparisons, parse
from atomsweep.sweep.looks import Looks, looks_of
from atomsweep.tracking import schema

HOLDS, FAILS, EQUAL, UNDECIDED = "holds", "fails", "equal", "undecided"
LEVEL = 0.95
OF_KINDS = (schema.FORCES_MAE, schema.FORCES_COS)  # measured on each kind of frames


@dataclass(frozen=True)
class Comparison:
    """Two cells, as one claim compares them.

    Attributes:
        left: in words.
        right: in words.
        effect: mean of left − right over the seeds that both have, factors applied.
        half_width: of its 95 % interval, adjusted where it is looked at after every seed; NaN
            below two seeds, or before the first look.
        n: seeds that both have.
        verdict: `holds`, `fails`, `equal` or `undecided`, at 95 %.
        certain: it fails also at the stricter level 1 − 0.05/m of a claim with m comparisons.
        needed: guess of the further seeds that would decide; None: nobody can tell.
        fewest: seeds in all that would, were the effect as large as these pairs still allow (one
            bound at 95 %); None: nobody can tell.
        fails_alone: whether the effect is on the side of failing, its interval apart.
        paper: the paper's two numbers, None where it has none.
        paper_holds: whether those satisfy the claim.
        note: why there is no verdict.
        sides: positions of the two cells among `members_of`.
        hindered: no number of seeds decides it: the cells must not be compared, or one of them
            does not learn.
    """

    left: str
    right: str
    effect: float
    half_width: float
    n: int
    verdict: str
    certain: bool
    needed: int | None
    fewest: int | None
    fails_alone: bool
    paper: tuple[float, float] | None
    paper_holds: bool | None
    note: str = ""
    sides: tuple[int, int] = (-1, -1)
    hindered: bool = False


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
        timed: it is of time, or after equal time.
        minus: full name of the number that a gap begins at.
    """

    text: str
    metric: str
    verdict: str
    comparisons: tuple[Comparison, ...]
    paper_holds: bool | None
    note: str = ""
    timed: bool = False
    minus: str | None = None

    @property
    def needed(self) -> int | None:
        """Further seeds that would decide all of it; None: nobody can tell."""
        open_ = [c.needed for c in self.comparisons if c.needed != 0]
        known = [n for n in open_ if n is not None]
        return max(known) if open_ and len(known) == len(open_) else None


def judge(evidence: Evidence) -> list[Judged]:
    """Every claim of the sweep file."""
    cells = members_of(evidence)
    judged = []
    for text in evidence.asked.statement.claims:
        try:
            judged.append(_judged(parse(text), cells, evidence))
        except ClaimError as error:  # of a part of the table, as when values were typed
            judged.append(Judged(text, "", UNDECIDED, (), None, str(error)))
    return judged


def judge_kinds(evidence: Evidence) -> list[dict[str, Judged]]:
    """Claims on forces at the end of training, judged on each kind of frames: kind → verdict.

    Those are left out whose split has not both kinds. They are no further claims: each says whether
    what the table concludes is so for frames of relaxations, and for rattled ones.
    """
    cells, found = members_of(evidence), []
    for text in evidence.asked.statement.claims:
        try:
            claim = parse(text)
            split, _, bare = metric_of_claim(claim, evidence).rpartition("/")
            claim = replace(claim, split=split)
            parts = {kind: _on_kind(claim, kind) for kind in schema.FRAME_KINDS}
            names = {kind: metric_of_claim(part, evidence) for kind, part in parts.items()}
            bases = [taken_off(part, names[kind]) for kind, part in parts.items()]
            needed = {METRIC + name for name in (*names.values(), *bases) if name is not None}
            if claim.hours is None and bare in OF_KINDS and needed <= {*evidence.df.columns}:
                found.append({k: _judged(part, cells, evidence) for k, part in parts.items()})
        except ClaimError:
            continue  # `judge` says why
    return found


def _on_kind(claim: Claim, kind: str) -> Claim:
    """The claim on one kind of the frames of its splits."""

    def part(split: str | None) -> str | None:
        return None if split is None else schema.part_name(split, kind)

    return replace(claim, split=part(claim.split), minus=part(claim.minus))


def _judged(claim: Claim, cells: Sequence[Member], evidence: Evidence) -> Judged:
    pairs = comparisons(claim, [member.cell for member in cells])
    metric = metric_of_claim(claim, evidence)
    found = tuple(
        replace(_comparison(claim, cells[i], cells[j], metric, evidence, len(pairs)), sides=(i, j))
        for i, j in pairs
    )
    verdict = UNDECIDED
    if any(c.verdict == FAILS and c.certain for c in found):
        verdict = FAILS
    elif all(c.verdict in (HOLDS, EQUAL) for c in found):
        verdict = EQUAL if any(c.verdict == EQUAL for c in found) else HOLDS
    told = [c.paper_holds for c in found if c.paper_holds is not None]
    paper = all(told) if len(told) == len(found) else (False if False in told else None)
    base = taken_off(claim, metric)
    notes = [f"minus {base}"] if base else []
    if claim.hours is not None:
        when = (
            f"at {claim.hours:g} device-hours of training"
            if claim.hours
            else "at equal training time"
        )
        notes.append(f"{when}, of the best value until then")
    timed = claim.hours is not None or is_timed(metric)
    if timed and is_shared(evidence.df):
        notes.append("wall time on a shared machine")
    return Judged(claim.text, metric, verdict, found, paper, "; ".join(notes), timed, base)


def _comparison(
    claim: Claim, left: Member, right: Member, metric: str, evidence: Evidence, tries: int
) -> Comparison:
    hindrance = note = unlike(claim, left, right, metric)
    ours: list[dict[float, float]] = [{}, {}]
    if not note:
        ours = values_of(claim, left, right, metric, evidence)
        if base := taken_off(claim, metric):
            ours = differences(ours, values_of(claim, left, right, base, evidence))
    one, other = (
        {seed: factor * value for seed, value in side.items()}
        for factor, side in zip(claim.factors, ours, strict=True)
    )
    tolerance = published.table(evidence.reference).within(metric) if evidence.reference else 0.0
    looks = looks_of(evidence.asked.statement)
    equal_within = tolerance if claim.factors == (1.0, 1.0) else 0.0
    found = compare(one, other, claim.order, tolerance, tries, looks, equal_within)
    untrained = untrained_of(claim, left, right, metric, evidence)
    why_none = note or _why_none(found.n, looks, bool(untrained))
    note = "; ".join(filter(None, (why_none, untrained)))
    first = 2 if looks is None else looks.first
    theirs = [published_of(claim, member, metric, evidence) for member in (left, right)]
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
        **found._asdict(),
        paper=paper,
        paper_holds=paper_holds,
        note=note,
        hindered=bool(hindrance) or never_trained(claim, left, right, metric, first),
    )


def _why_none(n: int, looks: Looks | None, some_untrained: bool) -> str:
    """Why n pairs give no interval; empty where they do."""
    if n == 0:
        return f"no seed that both have {'finished and learnt' if some_untrained else 'finished'}"
    if looks is not None and n < looks.first:
        return f"{n} of the first {looks.first} seeds"
    return "one seed has no interval" if n == 1 else ""


class Compared(NamedTuple):
    """What a comparison comes to; the fields are those of `Comparison`."""

    effect: float
    half_width: float
    n: int
    verdict: str
    certain: bool
    needed: int | None
    fewest: int | None
    fails_alone: bool


def compare(
    left: Mapping[float, float],
    right: Mapping[float, float],
    order: str,
    tolerance: float = 0.0,
    tries: int = 1,
    looks: Looks | None = None,
    equal_within: float = 0.0,
) -> Compared:
    """Effect, interval, verdict at 95 %, whether it fails at 1 − 0.05/tries, seeds it would take.

    One interval gives every verdict, so the chance that any of them is wrong is 5 % at most. With
    `looks` that is the chance over the whole sequence of looks.

    Args:
        left: seed → value.
        right: seed → value.
        order: `<`, `<=`, `>` or `>=`.
        tolerance: by which `<=` and `>=` forgive.
        tries: comparisons of the claim.
        looks: there is one after every seed from the first ones on; None: one look.
        equal_within: two sides that surely differ by less than this are equal for practical
            purposes, where `<` or `>` is claimed; 0: no difference is too small.
    """
    first = None if looks is None else looks.first
    effect, half, n = paired_interval(left, right, LEVEL, first)
    sign = 1.0 if order in ("<", "<=") else -1.0
    limit = tolerance if order in ("<=", ">=") else 0.0
    fails_alone = _verdict(sign * effect, 0.0, order, limit) == FAILS
    if math.isnan(half):
        return Compared(effect, math.nan, n, UNDECIDED, False, None, None, fails_alone)
    verdict = _verdict(sign * effect, half, order, limit)
    certain = False
    to_fail = 1 - (1 - LEVEL) / tries  # level at which one comparison makes the whole claim fail
    if verdict != HOLDS and abs(effect) + half < equal_within:
        verdict = EQUAL
    elif verdict == FAILS:
        _, wide, _ = paired_interval(left, right, to_fail, first)
        certain = _verdict(sign * effect, wide, order, limit) == FAILS
    if verdict in (HOLDS, EQUAL) or certain:
        return Compared(effect, half, n, verdict, certain, 0, n, fails_alone)
    spread = _spread(left, right)

    def pairs(beyond: float, level: float, of_equals: float) -> int | None:
        """That decide in all, if the effect is so much farther from what it must not be."""
        ways = [(abs(sign * effect - limit) + beyond, spread, level)]
        inside = min(equal_within - abs(effect) + beyond, equal_within)
        if order in ("<", ">") and inside > 0:
            ways.append((inside, of_equals, LEVEL))
        last = MOST_SEEDS if looks is None else looks.most
        found = [seeds_to_decide(d, s, at, first=first, looks=last) for d, s, at in ways]
        return min((n for n in found if n is not None), default=None)

    needed = pairs(0.0, to_fail if fails_alone else LEVEL, spread)
    # an effect may be larger than it seems; of equals, whose effect has a bound, the spread less
    beyond = t_quantile(LEVEL, n - 1) * spread / math.sqrt(n)
    fewest = pairs(beyond, LEVEL, spread * math.sqrt((n - 1) / chi2_quantile(LEVEL, n - 1)))
    further = None if needed is None else max(needed - n, 1)
    return Compared(effect, half, n, verdict, certain, further, fewest, fails_alone)


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
