"""Numbers as they are printed."""

import math

from atomsweep import console

NOTHING = console.NOTHING
MINUS = "−"


def short(value: float, decimals: int = 4) -> str:
    """A number of unknown size: `0.0512`, `1 234`, `3.2e-05`."""
    if math.isnan(value):
        return NOTHING
    if value == 0 or 10.0**-decimals <= abs(value) < 1000:
        return number(value, decimals)
    return count(value) if 1000 <= abs(value) < 1e9 else f"{value:.2e}".replace("-", MINUS)


def number(value: float, decimals: int = 4) -> str:
    """`0.0512`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 4) -> str:
    """`+0.0199`, `−0.0010`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:+.{decimals}f}".replace("-", MINUS)


def times(value: float) -> str:
    """`0.53 ×`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.2f} ×"


def count(value: float) -> str:
    """`11 363 111`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{int(value):,}".replace(",", "\u202f")
