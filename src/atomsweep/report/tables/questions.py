"""What a launch needs to know of claims: which comparisons are open, and what they wait for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from atomsweep.report.tables.evidence import Evidence, Member, members_of
from atomsweep.report.tables.verdicts import FAILS, UNDECIDED, Comparison, Judged, judge
from atomsweep.sweep.looks import Look, Question


def look_at(evidence: Evidence) -> Look:
    """Claims that are settled, and the comparisons that the others wait for."""
    judged, members = judge(evidence), members_of(evidence)
    settled = [(claim.text, claim.verdict) for claim in judged if claim.verdict != UNDECIDED]
    return Look(settled, [question for claim in judged for question in _open(claim, members)])


def _open(claim: Judged, members: Sequence[Member]) -> list[Question]:
    if claim.verdict != UNDECIDED:
        return []
    if not claim.comparisons:  # the table has not the cells that it speaks of
        return [Question(claim.text, "", frozenset(), frozenset(), 0, None, hindrance=claim.note)]
    return [
        Question(
            claim=claim.text,
            words=_words(c),
            left=frozenset(members[c.sides[0]].identities),
            right=frozenset(members[c.sides[1]].identities),
            pairs=c.n,
            needed=c.needed,
            fewest=c.fewest,
            fails_alone=c.fails_alone,
            hindrance=c.note if c.hindered else "",
        )
        for c in claim.comparisons
        if _is_open(c)
    ]


def _is_open(comparison: Comparison) -> bool:
    """Undecided, or false at a level that does not yet make its whole claim false."""
    failing = comparison.verdict == FAILS and not comparison.certain
    return comparison.verdict == UNDECIDED or failing


def with_reasons(judged: Sequence[Judged], claims: Mapping[str, Any]) -> list[Judged]:
    """The same, undecided comparisons with what a launch has said of why they are open.

    Where there are other pairs than it has seen, or none would help, what it said is of no use.

    Args:
        judged: claims with their verdicts.
        claims: of a plan; empty where no launch has looked at them.
    """
    said = {(one["claim"], one["comparison"]): one for one in claims.get("open") or []}

    def told(claim: Judged, comparison: Comparison) -> Comparison:
        one = said.get((claim.text, _words(comparison)), {})
        why = one.get("why") if one.get("pairs", comparison.n) == comparison.n else ""
        is_open = claim.verdict == UNDECIDED and _is_open(comparison)
        if not is_open or comparison.hindered or not why or why in comparison.note:
            return comparison
        return replace(comparison, note="; ".join(filter(None, (comparison.note, why))))

    return [replace(c, comparisons=tuple(told(c, one) for one in c.comparisons)) for c in judged]


def _words(comparison: Comparison) -> str:
    return f"{comparison.left} and {comparison.right}"
