"""One spelling for values that are compared: numbers, text, moments."""

import math
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{7,64}")  # identities, fingerprints, commits: "8643446e4577" is one
_EXACT = 1 << 53  # up to there a float is a whole number of its own


def normal(value: Any) -> str:
    """One spelling for a value of an axis: 0.05, "5e-2" and 0.050 are the same; "" for none.

    Hashes stay as they are, though some look like numbers, and so do whole numbers of any size.
    """
    if isinstance(value, np.generic):  # of a column that pandas has typed
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (not _NUMBER.fullmatch(value) or _HASH.fullmatch(value)):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)
    if isinstance(value, str) and math.isinf(number):
        return value
    if isinstance(value, int) or (number.is_integer() and abs(number) < _EXACT):
        return str(int(value if isinstance(value, int) else number))
    return f"{number:.12g}"


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
