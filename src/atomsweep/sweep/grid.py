"""What was typed and what a sweep file says → the overrides of every cell, and the axes."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomsweep.build import UserError
from atomsweep.sweep.file import (
    LABEL,
    LAUNCH_KEYS,
    Scalar,
    Statement,
    SweepFile,
    axes_of,
    key_of,
    spelt,
)
from atomsweep.tracking.identity import NEUTRAL_KEYS

Points = Mapping[str, Sequence[Scalar]] | Sequence[Mapping[str, Scalar]]  # rows, or columns

PASSIVE = set(NEUTRAL_KEYS) - {"data", "experiment"}  # typing these asks for the same comparison


@dataclass(frozen=True)
class Grid:
    """Cells that are wanted, before they are composed.

    Attributes:
        groups: axis → its values, the seed included where there are several.
        cells: overrides and label of each cell; the file's axes first, then the seed.
        statement: the sweep file, if one was chosen.
        scale: of the file.
        name: of the sweep, from its file; None: to be named after axes and identities.
        file: what was typed after `sweeps=`.
    """

    groups: Mapping[str, Sequence[str]]
    cells: Sequence[tuple[list[str], str | None]]
    statement: SweepFile | None = None
    scale: str | None = None
    name: str | None = None
    file: str | None = None

    @property
    def whole(self) -> str | None:
        """Name of the sweep that this is a part of: of all cells of its file, at its scale."""
        if self.statement is None or self.file is None:
            return None
        all_of_it = grid({}, self.statement, self.file, self.scale)
        cells, mine = (
            {frozenset(filter(is_change, overrides)) for overrides, _ in one.cells}
            for one in (all_of_it, self)
        )
        return all_of_it.name if mine <= cells else None

    def told(self) -> list[str]:
        """What is wanted, in lines, as far as it is known before any data are there."""
        count = f"{self.name or 'a sweep'}: {len(self.cells)} cells, whose data are not there"
        return [count, *(" ".join(overrides) for overrides, _ in self.cells)]

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Evaluation → its settings, that the file wants of every cell."""
        return {} if self.statement is None else self.statement.evaluations_at(self.scale)


def grid(
    typed: Mapping[str, Sequence[str]],
    statement: SweepFile | None = None,
    chosen: str | None = None,
    scale: str | None = None,
) -> Grid:
    """The product of the file's cells with what was typed; what is typed replaces the file's.

    Args:
        typed: key → overrides; several are swept, and the last key runs fastest.
        statement: the sweep file, or None for a plain `-m`.
        chosen: its name, `forcenet/table5`.
        scale: one of the file's; None for its first.

    Raises:
        UserError: the file has no such scale.
    """
    typed = {k: list(v) for k, v in typed.items() if not is_of_launch(k)}
    swept = {k: [o.partition("=")[2] for o in v] for k, v in typed.items() if len(v) > 1}
    if statement is None:
        ordered = dict(sorted(typed.items(), key=lambda item: item[0] not in swept))  # names a run
        return Grid(swept, [(list(cell), None) for cell in itertools.product(*ordered.values())])
    base = statement.overrides_at(scale)
    statement = statement.at(scale)
    replaced = {key_of(key) for key in typed}
    axes = {**axes_of(statement.rows), **axes_of(statement.columns)}
    if len(statement.first_seeds) > 1:
        axes["seed"] = [str(seed) for seed in statement.first_seeds]
    groups = {
        k: swept.get(k, v) for k, v in axes.items() if k in swept or key_of(k) not in replaced
    }
    groups |= swept
    rank = {
        key_of(key): i for i, key in enumerate([*groups, *(k for k in typed if k not in groups)])
    }
    last = len(groups) - 0.5  # before what was typed and is no axis
    cells: dict[tuple[str, ...], str | None] = {}
    values = {key_of(k): [o.partition("=")[2] for o in v] for k, v in typed.items()}
    parts = {name: _chosen(getattr(statement, name), values) for name in ("rows", "columns")}
    for label, setting in statement.model_copy(update=parts).settings():
        more = [v for k, v in typed.items() if key_of(k) not in set(map(key_of, setting))]
        for seed in [None] if "seed" in replaced else statement.first_seeds:
            own = [f"{k}={v}" for k, v in setting.items()]
            own += [] if seed is None else [f"seed={seed}"]
            taken = replaced | {key_of(o) for o in own}
            shared = {key_of(o): o for o in base if key_of(o) not in taken}
            for rest in itertools.product(*more):
                first = sorted([*own, *rest], key=lambda o: rank.get(key_of(o), last))
                cell = (*first, *shared.values())
                if cells.setdefault(cell, label) != label and typed:
                    raise UserError(
                        f"with what was typed, the rows {cells[cell]} and {label} are the same cell"
                    )
    if scale is None:
        scale = next(iter(statement.scale), None)
    return Grid(
        groups=groups,
        cells=[(list(cell), label) for cell, label in cells.items()],
        statement=statement,
        scale=scale,
        name=sweep_name(chosen or "sweep", statement, scale, typed),
        file=chosen,
    )


def sweep_name(
    chosen: str, statement: Statement, scale: str | None, typed: Mapping[str, Sequence[str]]
) -> str:
    """The file's name; other scales and what changes the science make another sweep."""
    name = chosen
    if scale is not None and scale != next(iter(statement.scale), None):
        name += f"-{scale}"
    changes = [o for overrides in typed.values() for o in overrides if is_change(o)]
    if changes:
        name += f"-{hashlib.sha256(' '.join(sorted(changes)).encode()).hexdigest()[:6]}"
    return name


def is_of_launch(key: str) -> bool:
    """Whether a key, `until.device_hours` as well as `until`, is no cell's."""
    return key_of(key).partition(".")[0] in LAUNCH_KEYS


def _chosen(points: Points, typed: Mapping[str, Sequence[str]]) -> Points:
    """Points with what was typed in place of their own values.

    An axis has the typed values. Of points that are listed those remain that say typed values.
    A key of which no point says a typed value is put into all that say it, unless they have labels,
    which would not be true any more, or other keys vary together with it: they were chosen for its
    values.

    Args:
        points: rows or columns of a sweep file.
        typed: key → values.

    Raises:
        UserError: no point says the typed values, and they can be put into none.
    """
    axes = axes_of(points)
    if isinstance(points, Mapping):
        return {axis: _in_words_of(axes[axis], typed.get(key_of(axis))) for axis in axes}
    stated = {key: axis for key in typed for axis in axes if key_of(axis) == key}
    if not stated:
        return points
    said = {key: _in_words_of(axes[axis], typed[key]) for key, axis in stated.items()}
    kept = [key for key, axis in stated.items() if set(said[key]) & set(axes[axis])]

    def fits(point: Mapping[str, Scalar]) -> bool:
        if LABEL in point:
            return all(a in point and spelt(point[a]) in said[k] for k, a in stated.items())
        return all(stated[k] not in point or spelt(point[stated[k]]) in said[k] for k in kept)

    for key in kept:
        known = [value for value in said[key] if value in axes[stated[key]]]
        if new := [value for value in said[key] if value not in known]:
            raise UserError(
                f"the file has {key}={','.join(known)} and not {','.join(new)}; launch the two one "
                "after the other, or write a file of your own"
            )
    found = [point for point in points if fits(point)]
    if not found:
        words = ", ".join(f"{key}={','.join(typed[key])}" for key in stated)
        there = "; ".join(f"{key} is {', '.join(axes[axis])}" for key, axis in stated.items())
        raise UserError(f"no row says {words}: {there}; for other values write a file of your own")
    for key, axis in stated.items():
        if key not in kept:
            _refuse_what_belongs_together(axis, typed[key], points, stated.values())
            each = [(p, said[key] if axis in p else [None]) for p in found]
            found = [p if v is None else {**p, axis: v} for p, values in each for v in values]
    return found


def _refuse_what_belongs_together(
    axis: str, typed: Sequence[str], points: Sequence[Mapping[str, Scalar]], replaced: Iterable[str]
) -> None:
    """A new value of a key has none of the settings that the file chose for its own values.

    Other keys are free of it where each of its values has the same settings of them, so that points
    with a new one differ from the file's in nothing else. Of two keys that have one value each in
    all points nothing is known.

    Args:
        axis: the key of points that is to have a new value.
        typed: the new values.
        points: all of the file's, also those that other typed values leave out.
        replaced: keys of which a value was typed.
    """
    own = [point for point in points if axis in point]
    others = [key for key in axes_of(own) if key not in (axis, *replaced)]

    def is_free(keys: Sequence[str]) -> bool:
        beside: dict[str, set[tuple[str | None, ...]]] = {}
        for point in own:
            said = tuple(spelt(point[key]) if key in point else None for key in keys)
            beside.setdefault(spelt(point[axis]), set()).add(said)
        first, *rest = beside.values()
        return all(said == first for said in rest) and len(first) + len(rest) > 1

    tied = [key for key in others if not is_free([key])]
    if not is_free([key for key in others if key not in tied]):
        tied = others
    if tied:
        names, words = ", ".join(tied), axes_of(own)
        kept = " ".join(f"{key_of(key)}={','.join(words[key])}" for key in tied)
        raise UserError(
            f"the file says {names} for {axis} {', '.join(words[axis])}, and not for "
            f"{', '.join(typed)}; type {names}, too ({kept} keeps the file's)"
        )


def _in_words_of(own: Sequence[str], typed: Sequence[str] | None) -> list[str]:
    """Typed values, those that are the file's in its words (1e-3 is 0.001); its own if none are."""
    words = {_value(word): word for word in own}
    return list(own) if typed is None else [words.get(_value(word), word) for word in typed]


def _value(word: str) -> Any:
    """What a word means, as far as two that mean the same can be told from their text."""
    bare = word.strip().strip("'\"")
    if bare[:1] + bare[-1:] == "[]":
        return tuple(_value(one) for one in bare[1:-1].split(","))
    try:
        return float(bare)
    except ValueError:
        return bare


def cell_key(overrides: Iterable[str], swept: Iterable[str]) -> frozenset[str]:
    """What tells one cell of a sweep from another: overrides that change the science, or are swept.

    Where runs lie and how many train at once is no part of it: those words may differ from launch
    to launch.

    Args:
        overrides: of the cell.
        swept: axes of the sweep.
    """
    axes = {key_of(axis) for axis in swept}
    return frozenset(o for o in map(str, overrides) if key_of(o) in axes or is_change(o))


def seedless_key(overrides: Iterable[str], swept: Iterable[str]) -> frozenset[str]:
    """As `cell_key`, the same for all seeds of a cell."""
    return cell_key((o for o in map(str, overrides) if key_of(o) != "seed"), swept)


def is_change(override: str) -> bool:
    """Whether it asks for another comparison, and not for the same one elsewhere."""
    return not PASSIVE & {key_of(override), key_of(override).split(".")[0]}
