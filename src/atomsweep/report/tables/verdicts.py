"""Claims of a sweep file against runs: holds, fails or undecided, with effect, interval and seeds.

The grammar is in `atomsweep.sweep.claims`, what a verdict means in docs/sweep-files.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atomsweep.report.read import published
from atomsweep.report.read.tidy import is_shared, is_timed
from atomsweep.report.tables.evidence import (
    Evidence,
    Member,
    differences,
    members_of,
    metric_of_claim,
    published_of,
    taken_off,
    unlike,
    values_of,
)
from atomsweep.report.tables.statistics import paired_interval, seeds_to_decide
from atomsweep.sweep.claims import Claim, ClaimError, comparisons, parse

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
LEVEL = 0.95


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


def _judged(claim: Claim, cells: Sequence[Member], evidence: Evidence) -> Judged:
    pairs = comparisons(claim, [member.cell for member in cells])
    metric = metric_of_claim(claim, evidence)
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
    if base := taken_off(claim, metric):
        note = f"minus {base}"
    if claim.hours:
        note = f"at {claim.hours:g} device-hours of training, of the best value until then"
    if (claim.hours is not None or is_timed(metric)) and is_shared(evidence.frame):
        note = "; ".join(t for t in (note, "wall time on a shared machine") if t)
    return Judged(claim.text, metric, verdict, found, paper, note)


def _comparison(
    claim: Claim, left: Member, right: Member, metric: str, evidence: Evidence, tries: int
) -> Comparison:
    note = unlike(claim, left, right, metric)
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
    effect, half, n, verdict, certain, needed = compare(one, other, claim.order, tolerance, tries)
    if not note and n == 0:
        note = "no seed that both have finished"
    elif not note and n == 1:
        note = "one seed has no interval"
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
