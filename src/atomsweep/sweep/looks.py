"""`seeds: {first: 3, most: 16}`: how often claims may be looked at, and what a look finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Looks(BaseModel):
    """Seeds 0 … first − 1 of every cell, then further ones where a claim is undecided.

    Attributes:
        first: seeds that every cell is trained with before anybody looks; two have an interval.
        most: seeds that a cell has in the end at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: Annotated[int, Field(ge=2, strict=True)] = 3
    most: Annotated[int, Field(ge=2, le=1000, strict=True)] = 16

    @model_validator(mode="after")
    def _in_order(self) -> "Looks":
        if self.most < self.first:
            raise ValueError(f"most must be at least first, got {self.most} and {self.first}")
        return self


def looks_of(statement: Any) -> Looks | None:
    """Of a sweep file; None where its seeds are named."""
    return statement.seeds if isinstance(statement.seeds, Looks) else None


@dataclass(frozen=True)
class Question:
    """A comparison that further seeds may decide.

    Attributes:
        claim: that it belongs to, as the file has it.
        words: the two cells.
        left: identities of the runs that there are or are wanted of the left cell.
        right: of the right cell.
        pairs: seeds that both have, and that count.
        needed: guess of the further pairs that decide it; None: nobody can tell.
        fewest: pairs in all that would, were the effect as large as these still allow; None: no
            number that anybody trains.
        fails_alone: whether its effect is on the side that makes the claim fail.
        hindrance: why no seed can decide it; empty if one may.
    """

    claim: str
    words: str
    left: frozenset[str]
    right: frozenset[str]
    pairs: int
    needed: int | None
    fewest: int | None = None
    fails_alone: bool = False
    hindrance: str = ""


@dataclass(frozen=True)
class Look:
    """What claims look like now.

    Attributes:
        settled: claim and verdict of those that have one.
        open: comparisons that the others wait for.
    """

    settled: Sequence[tuple[str, str]] = ()
    open: Sequence[Question] = ()


def told(claims: Mapping[str, Any]) -> list[str]:
    """What a plan remembers of its claims, in lines; none where nobody has looked."""
    settled, open_ = claims.get("settled") or [], claims.get("open") or []
    if not settled and not open_:
        return []
    still = len({str(one["claim"]) for one in open_})
    lines = [f"claims: {len(settled)} settled, {still} open"]
    lines += [f"  {one['verdict']}: {one['claim']}" for one in settled]
    parts = [[one["claim"], one["comparison"], one["why"] or one.get("waits", "")] for one in open_]
    return lines + [f"  open: {': '.join(filter(None, part))}" for part in parts]
