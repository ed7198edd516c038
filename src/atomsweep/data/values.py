"""Values of other programs' files, taken for what they say or refused: nothing is guessed.

A reader that asks numpy for floats gets 1.0 for True, 1000.0 for the text 1_000 and NaN for None.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from atomsweep.data.structure import Array, DataError

_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE
)
_TRUE = frozenset(("t", "true", ".true.", ".t.", "y", "yes", "on", "1"))
_FALSE = frozenset(("f", "false", ".false.", ".f.", "n", "no", "off", "0"))
_WORD = re.compile(r"[^\s,;()\[\]{}\"']+")


def number(name: str, value: Any) -> float:
    """One number, given as such, as an array of one, or as text. NaN and Inf are let through.

    Raises:
        DataError: it is something else: nothing, a flag, other text, several numbers.
    """
    array = numbers(name, value)
    if array.size != 1:
        raise DataError(f"{name} must be one number, got {_shown(value)}")
    return float(array.ravel()[0])


def numbers(name: str, value: Any) -> Array:
    """Numbers as float64, in the shape they have.

    Raises:
        DataError: one is no number.
    """
    array = _array(name, value)
    if array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.dtype.kind == "U":
        texts = array.ravel().tolist()
        wrong = next((text for text in texts if not _NUMBER.fullmatch(text)), None)
        if wrong is None:
            return np.array([float(text) for text in texts]).reshape(array.shape)
        value = wrong
    raise DataError(
        f"{name} must be {'a number' if np.ndim(value) == 0 else 'numbers'}, got {_shown(value)}"
    )


def integers(name: str, value: Any) -> Array:
    """Whole numbers as int64, in the shape they have.

    Raises:
        DataError: one is no whole number.
    """
    found = numbers(name, value)
    whole = (found == np.rint(found)) & (np.abs(found) < 2.0**53)
    if not whole.all():
        raise DataError(f"{name} must be whole numbers, got {found[~whole][0]}")
    return found.astype(np.int64)


def flags(name: str, value: Any) -> Array:
    """True and false, in the shape they have: T/F, yes/no, on/off, .true./.false., 1/0.

    Raises:
        DataError: one is no flag.
    """
    array = _array(name, value)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iufU":
        found = [_flag(one) for one in array.ravel().tolist()]
        if None not in found:
            return np.array(found, dtype=bool).reshape(array.shape)
        value = array.ravel()[found.index(None)].item()
    raise DataError(f"{name} must be flags (T and F, yes and no, or 1 and 0), got {_shown(value)}")


def directions(value: Any) -> Array:
    """(3,) bool: the directions in which a structure is periodic.

    Three flags, also run together (TTF, 110); one flag for all three; `none`.

    Raises:
        DataError: it says none of these.
    """
    said = value
    if isinstance(value, str):
        words = [word.lower() for word in _WORD.findall(value.removeprefix("_JSON"))]
        if words == ["none"]:
            words = ["f"]
        if len(words) == 1 and len(words[0]) == 3 and set(words[0]) <= set("tfyn10"):
            words = list(words[0])
        said = words
    try:
        found = flags("pbc", said).ravel()
    except DataError:
        found = np.zeros(0, dtype=bool)
    if found.size not in (1, 3):
        raise DataError(f"pbc must be three flags such as T T F, got {_shown(value)}")
    return np.broadcast_to(found, 3).copy()


def is_value(word: str) -> bool:
    """Whether a word is a number or a flag."""
    return bool(_NUMBER.fullmatch(word)) or word.lower() in _TRUE | _FALSE


def _flag(value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        if not _NUMBER.fullmatch(word):
            return None
        value = float(word)
    return bool(value) if value in (0, 1) else None


def _array(name: str, value: Any) -> Array:
    if value is None:
        raise DataError(f"{name} has no value")
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        raise DataError(f"{name} is no regular array") from None


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
