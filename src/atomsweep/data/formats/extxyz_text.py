"""The text of an extended XYZ frame: keys of its comment line and columns, taken as they stand.

ASE's reader guesses what each value is: a key without a value becomes True, any text that it does
not know as pbc becomes periodic in three directions, and a stress of another form than it expects
makes the frame unreadable. Here every value stays text until something asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atomsweep.data.structure import Array, DataError
from atomsweep.data.values import integers, is_value

_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
_PROPERTY = re.compile(r"([^\s]+?):([A-Za-z]):([0-9]{1,9})(?::|$)")
_PLAIN = "species:S:1:pos:R:3"
_ANY_CASE = ("Lattice", "Properties", "pbc")  # what decides about all the others
ALIASES = {"symbols": "species", "positions": "pos", "numbers": "Z"}


@dataclass(frozen=True)
class TextFrame:
    """One frame.

    Attributes:
        info: text of each key of the comment line; None where a key has no value.
        repeated: keys that occur more than once, with different values.
        columns: (N, C) texts of each column, by name.
        types: letter of each column: R, I, S, L.
    """

    info: dict[str, str | None]
    repeated: frozenset[str]
    columns: dict[str, list[list[str]]]
    types: dict[str, str]

    def value(self, key: str) -> str | None:
        """Text of a key; None where it is not there.

        Raises:
            DataError: it has no value, or several.
        """
        if key in self.repeated:
            raise DataError(f"{key} is given more than once, with different values")
        if key not in self.info:
            return None
        if not (text := self.info[key]):
            raise DataError(f"{key} has no value")
        return text

    def column(self, name: str, kind: str = "numbers") -> Array | None:
        """(N,) or (N, C) texts of a column; None where it is not there.

        Raises:
            DataError: it is given twice, or as flags where numbers are wanted.
        """
        if name not in self.columns:
            return None
        if name in self.repeated:
            raise DataError(f"the column {name} is given more than once")
        if kind == "numbers" and self.types[name] == "L":
            raise DataError(f"the column {name} must be {kind}, but is declared as flags (L)")
        texts = np.array(self.columns[name])
        return texts[:, 0] if texts.ndim == 2 and texts.shape[1] == 1 else texts


def parse_frame(comment: str, lines: Sequence[str]) -> TextFrame:
    """A frame from its comment line and the lines of its atoms.

    Raises:
        DataError: Properties, the comment's quotes or a line are malformed; says which.
    """
    info: dict[str, str | None] = {}
    repeated = set()
    for given, value in comment_fields(comment):
        key = next((one for one in _ANY_CASE if one.lower() == given.lower()), given)
        if info.setdefault(key, value) != value:
            repeated.add(key)
    frame = TextFrame(info, frozenset(repeated), {}, {})
    extended = "Properties" in info
    properties = list(_properties(frame.value("Properties") or _PLAIN))
    width = sum(columns for _, _, columns in properties)
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows):
        if len(row) < width or (extended and len(row) != width):
            raise DataError(
                f"not a frame of extended XYZ: the line of atom {number} has {len(row)} values, "
                f"expected {width}: {lines[number].strip()[:60]!r}"
            )
    begin, columns, types = 0, {}, {}
    for given, letter, count in properties:
        name = ALIASES.get(given, given)
        if name in columns:
            repeated.add(name)
        columns[name] = [row[begin : begin + count] for row in rows]
        types[name] = letter
        begin += count
    return TextFrame(info, frozenset(repeated), columns, types)


def atomic_numbers(frame: TextFrame) -> Array:
    """(N,) from the columns `Z` or `species`, which may hold symbols or numbers.

    Raises:
        DataError: neither is there, both and they differ, or one is no element.
    """
    from ase.data import atomic_numbers as known

    symbols, numbers = frame.column("species", "symbols"), frame.column("Z")
    found = None if numbers is None else integers("the column Z", numbers)
    if symbols is not None:
        of_symbols = np.array(
            [_number_of(one, known) for one in symbols.ravel().tolist()], dtype=np.int64
        )
        if found is not None and not np.array_equal(found, of_symbols):
            raise DataError("the columns species and Z name different elements")
        found = of_symbols
    if found is None:
        raise DataError("not a frame of extended XYZ: it has no column species and no column Z")
    return found


def comment_fields(comment: str) -> Iterator[tuple[str, str | None]]:
    """Keys and values of a comment line in order; the value of a key alone is None.

    Raises:
        DataError: a quote or bracket is not closed, so that what follows cannot be told.
    """
    if "=" not in comment:  # words
        return
    place, text = 0, comment.strip()
    last: tuple[str, str | None] | None = None
    while place < len(text):
        key, place = _word(text, place, "=")
        following = _skip(text, place)
        value = None
        if following < len(text) and text[following] == "=":
            value, following = _word(text, _skip(text, following + 1), "")
        place = _skip(text, following)
        if last is not None and last[1] and value is None and is_value(key):
            last = (last[0], f"{last[1]} {key}")  # as in pbc=T T F, where quotes are lacking
            continue
        if last is not None:
            yield last
        last = (key, value)
    if last is not None:
        yield last


def _properties(text: str) -> Iterator[tuple[str, str, int]]:
    """Name, type and number of columns of each; a name may hold colons."""
    place = 0
    while place < len(text):
        match = _PROPERTY.match(text, place)
        if match is None:
            raise DataError(f"not a frame of extended XYZ: Properties end in {text[place:]!r}")
        yield match[1], match[2].upper(), int(match[3])
        place = match.end()


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _word(text: str, place: int, end: str) -> tuple[str, int]:
    """A word up to a space or `end`, its quotes taken off, and the place behind it.

    Quotes and brackets open at a word's beginning alone: an apostrophe within it is a letter.
    """
    found = ""
    if place < len(text) and text[place] in _CLOSING:
        found, place = _quoted(text, place)
    begin = place
    while place < len(text) and not text[place].isspace() and text[place] != end:
        place += 1
    return found + text[begin:place], place


def _quoted(text: str, begin: int) -> tuple[str, int]:
    """What stands between quotes or brackets (which may be nested), and the place behind them."""
    opening, closing, depth = text[begin], _CLOSING[text[begin]], 1
    found, place = [], begin + 1
    while place < len(text):
        one = text[place]
        if one == "\\" and place + 1 < len(text):
            found.append(text[place + 1])
            place += 2
            continue
        depth += (one == opening != closing) - (one == closing)
        place += 1
        if depth == 0:
            return "".join(found), place
        found.append(one)
    raise DataError(f"{opening} in the comment line is not closed: {text[begin:][:60]!r}")


def _number_of(symbol: str, known: dict[str, int]) -> int:
    if symbol.isascii() and symbol.isdigit():
        return int(symbol[:9])
    exact = known.get(symbol)
    if exact is None and symbol.islower():
        exact = known.get(symbol.capitalize())
    if exact is None:  # CA may be calcium, or a carbon as files of proteins name it
        raise DataError(f"{symbol!r} is no element; symbols are written as Cu and O")
    return exact
