"""One spelling for values that are compared: numbers, text, moments."""

import math
from datetime import UTC, datetime
from typing import Any


def normal(value: Any) -> str:
    """One spelling for a value of an axis: 0.05, "5e-2" and 0.050 are the same; "" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


def as_float(value: Any) -> float:
    """A number, NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def iso(moment: Any) -> str | None:
    """Seconds since 1970 as ISO text in UTC, None for no moment; text stays as it is."""
    if isinstance(moment, int | float):
        try:
            return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
        except (OverflowError, ValueError, OSError):  # no time that a clock has shown
            return None
    return str(moment) if moment else None
