"""Verdicts on claims as grids and as a DataFrame."""

import math
from collections.abc import Sequence

import pandas as pd

from atomsweep.report.tables import grids, spelled
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.statistics import MOST_SEEDS, reach
from atomsweep.report.tables.verdicts import EQUAL, FAILS, HOLDS, UNDECIDED, Comparison, Judged
from atomsweep.sweep.looks import Looks

INTERVAL = "the 95 % interval of Student’s t"
MEANING = (
    "Effects are left − right, paired by seed, with {interval}; a claim over several comparisons "
    "holds when each holds, and fails when one fails at 1 − 0.05/m for m of them. Seeds to decide "
    "are a guess at 80 % power. “equal”: the whole interval lies within the paper’s tolerance on "
    "both sides, so neither is better for practical purposes; a claim over several comparisons is "
    "equal when each holds or is equal. A sentence of the paper need not follow from its own "
    "table: the column on the paper’s numbers says whether it does."
)


def claims_note(looks: Looks | None) -> str:
    """What a reader must know of the verdicts.

    Args:
        looks: after how many seeds claims are looked at; None: once.
    """
    if looks is None:
        return MEANING.format(interval=INTERVAL)
    factors = ", ".join(f"{reach(n, first=looks.first):.2f} for {n}" for n in _shown(looks))
    return (
        f"Claims are looked at after {looks.first} seeds and after each further one, up to "
        f"{looks.most}, so intervals are wider than Student’s: effect ± c s/√n with c = {factors} "
        "seeds. The chance that a claim gets a wrong verdict at any of the looks is 5 % at most "
        "over the whole sequence, where differences of seeds are normally distributed. "
        + MEANING.format(interval="this adjusted 95 % interval")
    )


def _shown(looks: Looks) -> list[int]:
    """Numbers of seeds that the note gives factors of."""
    wanted = (looks.first, looks.first + 1, 5, 8, 12, looks.most)
    return sorted({n for n in wanted if looks.first <= n <= min(looks.most, 16)})


def claims_df(claims: list[Judged]) -> pd.DataFrame:
    """One line per comparison, as numbers."""
    rows = [
        {
            "claim": claim.text,
            "verdict": claim.verdict,
            "metric": claim.metric,
            "left": c.left,
            "right": c.right,
            "effect": c.effect,
            "half_width": c.half_width,
            "n": c.n,
            "comparison": c.verdict,
            "seeds_needed": c.needed,
            "paper_left": c.paper[0] if c.paper else None,
            "paper_right": c.paper[1] if c.paper else None,
            "paper_holds": c.paper_holds,
            "note": c.note,
        }
        for claim in claims
        for c in claim.comparisons
    ]
    return pd.DataFrame(rows)


def paper_words(holds: bool | None) -> str:
    """Whether the paper's own numbers satisfy a claim."""
    return {True: "satisfied", False: "not satisfied", None: "no numbers"}[holds]


def _needed_words(claim: Judged) -> str:
    """How many further seeds would decide."""
    if claim.verdict != UNDECIDED:
        return ""
    open_ = [c for c in claim.comparisons if c.needed != 0]
    if not open_ or not all(map(_has_guess, open_)):
        return "cannot tell"
    return _needed(claim.needed)


def _has_guess(c: Comparison) -> bool:
    """Whether its pairs say how many more it takes."""
    return not math.isnan(c.half_width) and not c.hindered


def _needed(seeds: int | None) -> str:
    """A guess of further seeds in words; None is more than anybody would train."""
    return f"more than {MOST_SEEDS}" if seeds is None else f"about {seeds} more"


def claims_grid(claims: list[Judged]) -> Grid:
    """One claim per line."""
    rows = [
        [
            Text(f"`{claim.text}`"),
            Text(claim.verdict, bold=claim.verdict != UNDECIDED),
            Text(tally([c.verdict for c in claim.comparisons])),
            Text(_needed_words(claim)),
            Text(paper_words(claim.paper_holds)),
            Text("; ".join(t for t in (claim.metric, claim.note) if t)),
        ]
        for claim in claims
    ]
    header = ["Claim", "Verdict", "Comparisons", "Seeds to decide", "Paper's numbers", "Of"]
    return Grid(header, rows, "llllll")


def comparisons_grid(claims: list[Judged]) -> Grid:
    """One comparison per line."""
    header = ["Claim", "Left", "Right", "Left − right", "n", "Verdict", "Paper", "Note"]
    rows = [
        [
            f"{i}",
            c.left,
            c.right,
            _effect_words(c),
            str(c.n),
            c.verdict,
            _paper_numbers(c),
            _comparison_note(c),
        ]
        for i, claim in enumerate(claims, 1)
        for c in claim.comparisons
    ]
    return grids.plain(header, rows, "rllrrlll")


def kinds_grid(claims: list[Judged], by_kind: list[dict[str, Judged]]) -> Grid:
    """One claim per line, on all frames and on those of each kind."""
    whole = {claim.text: claim for claim in claims}
    rows = []
    for found in by_kind:
        text = next(iter(found.values())).text
        rows.append([f"`{text}`", *(_in_short(one) for one in (whole[text], *found.values()))])
    header = ["Claim", "All frames", *(kind.capitalize() for kind in by_kind[0])]
    return grids.plain(header, rows, "llll")


def _in_short(claim: Judged) -> str:
    """`holds, −0.0130 ± 0.0021`, `fails (1 holds, 1 fails)`."""
    if len(claim.comparisons) == 1:
        return f"{claim.verdict}, {_effect_words(claim.comparisons[0])}"
    return f"{claim.verdict} ({tally([c.verdict for c in claim.comparisons])})"


def _effect_words(c: Comparison) -> str:
    """`−0.0130 ± 0.0021`."""
    told = spelled.signed(c.effect)
    return told if math.isnan(c.half_width) else f"{told} ± {spelled.short(c.half_width)}"


def _paper_numbers(c: Comparison) -> str:
    """`0.0360, 0.0373`."""
    return ", ".join(spelled.short(v) for v in c.paper) if c.paper else spelled.NOTHING


def _comparison_note(c: Comparison) -> str:
    """Why there is no verdict, or what would bring one."""
    more = ""
    if c.needed != 0 and _has_guess(c):
        more = f"{_needed(c.needed)} {'seed' if c.needed == 1 else 'seeds'} to decide"
    return "; ".join(t for t in (c.note, more) if t)


def tally(verdicts: Sequence[str]) -> str:
    """How many hold, fail and are undecided, in words."""
    counted = ((verdicts.count(v), v) for v in (HOLDS, EQUAL, FAILS, UNDECIDED) if v in verdicts)
    plural = {HOLDS: "hold", FAILS: "fail", EQUAL: "are equal"}
    return ", ".join(f"{n} {v if n == 1 else plural.get(v, v)}" for n, v in counted)
