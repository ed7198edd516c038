"""The grammar of claims: a paper's sentence about a table, as a predicate over its cells.

    claim    = side ("<" | "<=" | ">" | ">=") (side | "every other" (axis | "cell")) {modifier}
    side     = [factor "*"] point
    point    = "label" | axis=value {"and" axis=value}
    modifier = "for" (("every" axis | axis=value) {"and" …})
             | "on" (split | metric | split/metric) ["minus" split]
             | "at" ("equal device-time" | hours "device-hours")

What a claim means, and what decides it, is told in docs/sweep-files.md; the statistics are in
`atomsweep/report/tables/verdicts.py`. Nothing is imported here but the standard library.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Order = Literal["<", "<=", ">", ">="]
Setting = Mapping[str, str]  # axis → value
EQUAL_TIME = "equal device-time"

_KEY = r"[A-Za-z_][\w/]*(?:\.\w+)*"
_VALUE = r"[^\s\"=<>]+"
_ORDER = re.compile(r"\s(<=|>=|<|>)\s")
_CHOICE = re.compile(rf"({_KEY})=({_VALUE})")
_FACTOR = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?\d+)?)\s*(?:\*|×)\s*(.+)")
_OTHER = re.compile(rf"every other ({_KEY})")
_EVERY = re.compile(rf"every ({_KEY})")
_HOURS = re.compile(r"([0-9]*\.?[0-9]+) device-hours")
EVERY_CELL = "cell"  # of `every other cell`
MINUS = " minus "  # between the splits of a gap

_NAME = re.compile(r"[A-Za-z]\w*(?:/[A-Za-z]\w*)?")
_SPLIT = re.compile(r"(?:train|val|test)(?:_\w+)?")


class ClaimError(ValueError):
    """A claim that cannot be read, or that its table cannot answer; one sentence."""


@dataclass(frozen=True)
class Point:
    """Cells that have a label, or these values on these axes."""

    values: Setting
    label: str | None = None

    def fits(self, label: str | None, setting: Setting) -> bool:
        """Whether a cell is one of them."""
        if self.label is not None:
            return label is not None and self.label in (label, *label.split(", "))
        return all(same(setting.get(axis), value) for axis, value in self.values.items())

    def __str__(self) -> str:
        if self.label is not None:
            return f'"{self.label}"'
        return " and ".join(f"{axis}={value}" for axis, value in self.values.items())


@dataclass(frozen=True)
class Claim:
    """A parsed claim.

    Attributes:
        text: as it was written.
        left: what it is about.
        order: `<`, `<=`, `>` or `>=`: of the numbers, whichever is better.
        right: what it is compared with; None for `every other` value of the axis of `left`, or
            for every other cell.
        every_cell: whether it is compared with every other cell of the table.
        factors: what each side's number is multiplied with.
        every: axes it is claimed for all values of.
        where: axes that are held at a value.
        metric: `val_id/forces_mae` or `forces_mae`; None for the first metric of the file.
        split: `val_id`; None for the split that decides.
        minus: split whose number is taken off, so that a gap between two splits is compared.
        hours: compared at this many device-hours of training; 0 for equal device-time; None for
            what the runs ended with.
    """

    text: str
    left: Point
    order: Order
    right: Point | None
    factors: tuple[float, float] = (1.0, 1.0)
    every: tuple[str, ...] = ()
    where: Setting | None = None
    metric: str | None = None
    split: str | None = None
    hours: float | None = None
    every_cell: bool = False
    minus: str | None = None

    def axes(self) -> set[str]:
        """Every axis that it names."""
        right = set() if self.right is None else set(self.right.values)
        return {*self.left.values, *right, *self.every, *(self.where or {})}


def parse(text: str) -> Claim:
    """A claim from its text.

    Raises:
        ClaimError: it does not follow the grammar; the sentence shows where.
    """
    words = " ".join(text.split())
    parts = _ORDER.split(words)
    if len(parts) != 3:
        raise ClaimError(
            f"a claim compares two things with one of < <= > >=, such as "
            f"`act=swish < act=relu for every basis`, got {text!r}"
        )
    head, order, rest = parts
    tail, *modifiers = re.split(r"\s(?=(?:for|on|at)\s)", rest)
    first, left = _side(head)
    every_cell = tail == f"every other {EVERY_CELL}"
    second, right = (1.0, None) if every_cell else _right(tail, left)
    found: dict[str, str] = {}
    for modifier in modifiers:
        word, _, value = modifier.partition(" ")
        if word in found:
            raise ClaimError(f"{word!r} is said twice in {text!r}")
        found[word] = value
    every, where = _scope(found.get("for"))
    split, metric, minus = _selected(found.get("on"))
    if minus and "at" in found:
        raise ClaimError(f"a gap between splits cannot be taken `at` a time, in {text!r}")
    assert order in get_args(Order)
    return Claim(
        text=text,
        left=left,
        order=order,  # type: ignore[arg-type]
        right=right,
        factors=(first, second),
        every=every,
        where=where,
        metric=metric,
        split=split,
        hours=_hours(found.get("at")),
        every_cell=every_cell,
        minus=minus,
    )


def comparisons(claim: Claim, cells: Sequence[tuple[str | None, Setting]]) -> list[tuple[int, int]]:
    """Which cells a claim compares: positions of left and right.

    Two cells are compared that agree on every axis that neither side names. Where each side is one
    cell only, as in tables that are no product, they are compared whatever else differs; so is
    every other cell.

    Args:
        claim: parsed.
        cells: label and axis → value of each cell of the table.

    Raises:
        ClaimError: the table has no such axis, value or label, or no two cells to compare.
    """
    _check_names(claim, cells)
    here = [i for i, (_, s) in enumerate(cells) if _held(claim.where, s)]
    left = [i for i in here if claim.left.fits(*cells[i])]
    if claim.every_cell:
        right = [i for i in here if i not in left]
        named = {axis for _, setting in cells for axis in setting}
    elif claim.right is None:
        (axis, value), *more = claim.left.values.items()
        rest = Point(dict(more))
        right = [
            i
            for i in here
            if axis in cells[i][1] and not same(cells[i][1][axis], value) and rest.fits(*cells[i])
        ]
        named = {axis}
    else:
        right = [i for i in here if claim.right.fits(*cells[i])]
        named = {*claim.left.values, *claim.right.values}
        if len(left) == len(right) == 1 and left != right:
            return [(left[0], right[0])]
        if claim.left.label is not None or claim.right.label is not None:
            named |= _differing(cells, left, right)
    pairs = [
        (i, j) for i in left for j in right if i != j and _agree(cells[i][1], cells[j][1], named)
    ]
    if not pairs:
        raise ClaimError(f"{claim.text!r} compares no two cells of this table")
    return pairs


def same(value: str | None, other: str | None) -> bool:
    """Whether two spellings are one value: 0.05 and 5e-2 are."""
    if value == other:
        return True
    try:
        return float(str(value)) == float(str(other))
    except ValueError:
        return False


def is_split(name: str) -> bool:
    """Whether a name is that of a split: train, val_…, test_…."""
    return _SPLIT.fullmatch(name) is not None


# Parts of the text


def _side(text: str) -> tuple[float, Point]:
    factor = 1.0
    if matched := _FACTOR.fullmatch(text):
        factor, text = float(matched[1]), matched[2]
    if re.fullmatch(r'"[^"]+"', text):
        return factor, Point({}, text[1:-1])
    return factor, Point(_choices(text))


def _right(text: str, left: Point) -> tuple[float, Point | None]:
    matched = _OTHER.fullmatch(text)
    if matched is None:
        return _side(text)
    axis = matched[1]
    if axis not in left.values:
        raise ClaimError(f"`every other {axis}` needs {axis}=… on its left, got `{left}`")
    if next(iter(left.values)) != axis:
        raise ClaimError(f"`every other {axis}` needs {axis}=… first on its left, got `{left}`")
    return 1.0, None


def _choices(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(" and "):
        matched = _CHOICE.fullmatch(part.strip())
        if matched is None:
            raise ClaimError(f'expected axis=value or a "label", got {part.strip()!r}')
        if matched[1] in found:
            raise ClaimError(f"{matched[1]} is named twice in {text!r}")
        found[matched[1]] = matched[2]
    return found


def _scope(text: str | None) -> tuple[tuple[str, ...], dict[str, str] | None]:
    if text is None:
        return (), None
    every: list[str] = []
    where: dict[str, str] = {}
    for part in text.split(" and "):
        if matched := _EVERY.fullmatch(part):
            every.append(matched[1])
        else:
            where |= _choices(part)
    return tuple(every), where or None


def _selected(text: str | None) -> tuple[str | None, str | None, str | None]:
    """Split, metric, and the split whose number is taken off."""
    if text is None:
        return None, None, None
    name, _, minus = text.partition(MINUS)
    if not _NAME.fullmatch(name):
        raise ClaimError(f"`on` names a split or a metric, such as `on val_ood_both`, got {name!r}")
    first, _, rest = name.partition("/")
    split, metric = (first, rest or None) if is_split(first) else (None, name)
    if minus and (split is None or not is_split(minus) or minus == split):
        raise ClaimError(
            f"a gap is between two splits, such as `on val_ood_both minus val_id`, got {text!r}"
        )
    return split, metric, minus or None


def _hours(text: str | None) -> float | None:
    if text is None:
        return None
    if text == EQUAL_TIME:
        return 0.0
    if matched := _HOURS.fullmatch(text):
        return float(matched[1])
    raise ClaimError(f"`at` is followed by `{EQUAL_TIME}` or `2 device-hours`, got {text!r}")


# Against a table


def _check_names(claim: Claim, cells: Sequence[tuple[str | None, Setting]]) -> None:
    axes: dict[str, list[str]] = {}
    for _, setting in cells:
        for axis, value in setting.items():
            axes.setdefault(axis, []).append(value)
    for axis in sorted(claim.axes()):
        if axis not in axes:
            raise ClaimError(f"{axis} is no axis of this table; it has {', '.join(axes)}")
    points = [claim.left, *([claim.right] if claim.right else []), Point(claim.where or {})]
    for point in points:
        for axis, value in point.values.items():
            if not any(same(value, known) for known in axes[axis]):
                known = ", ".join(dict.fromkeys(axes[axis]))
                raise ClaimError(f"{axis} has no value {value} in this table; it has {known}")
        if point.label is not None and not any(point.fits(*cell) for cell in cells):
            labels = ", ".join(dict.fromkeys(label for label, _ in cells if label)) or "none"
            raise ClaimError(f'no cell is labelled "{point.label}"; labels are {labels}')
    sides = {*claim.left.values, *(claim.right.values if claim.right else {})}
    for axis in claim.every:
        if axis in sides:
            raise ClaimError(f"`for every {axis}` cannot be: a side of the claim fixes {axis}")


def _held(where: Setting | None, setting: Setting) -> bool:
    return all(same(setting.get(axis), value) for axis, value in (where or {}).items())


def _agree(one: Setting, other: Setting, named: set[str]) -> bool:
    return all(same(one.get(a), other.get(a)) for a in {*one, *other} - named)


def _differing(
    cells: Sequence[tuple[str | None, Setting]], left: Sequence[int], right: Sequence[int]
) -> set[str]:
    """Axes that a label stands for: those of which all cells of both sides have one value each."""
    fixed: list[dict[str, set[str]]] = []
    for side in (left, right):
        values: dict[str, set[str]] = {}
        for i in side:
            for axis, value in cells[i][1].items():
                values.setdefault(axis, set()).add(value)
        fixed.append(values)
    one, other = fixed
    return {a for a in {*one, *other} if one.get(a) != other.get(a)}
