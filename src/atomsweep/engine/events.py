"""What a fit tells while it runs, and the error that ends one whose loss is lost."""

from collections.abc import Mapping
from dataclasses import dataclass


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Update:
    """What a progress display is told.

    Attributes:
        step: steps done.
        fraction: share of the budget that is used.
        seconds_left: estimate from this process's own speed; None before there is one.
        values: latest loss and metrics by name.
    """

    step: int
    fraction: float
    seconds_left: float | None
    values: Mapping[str, float]
