"""One style for each setting, the same in every figure of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atomsweep.report.read.values import normal


@dataclass(frozen=True)
class Style:
    """How a setting is drawn; no two settings of a page have both numbers in common.

    Attributes:
        hue: colour and marker, by the first axis of the table.
        dash: pattern of the line, by its other axes together.
    """

    hue: int
    dash: int


@dataclass
class Styles:
    """Styles that were given so far, in the order in which settings came."""

    hues: dict[tuple[str, str], int] = field(default_factory=dict)
    dashes: dict[tuple[str, ...], int] = field(default_factory=dict)

    def of(self, run: Mapping[str, Any], rows: Sequence[str]) -> Style:
        """The style of a run, which is that of its table row.

        Args:
            run: a row of `df`.
            rows: columns that tell table rows apart.
        """
        keys = [normal(run.get(column)) for column in rows]
        hue = self.hues.setdefault((rows[0], keys[0]), len(self.hues))
        return Style(hue, self.dashes.setdefault(tuple(keys[1:]), len(self.dashes)))
