"""The papers' numbers: one YAML per paper, checked on reading, and which of them suits a sweep."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from atomsweep.report.read.papers import Axis, Column, Paper, Table
from atomsweep.report.read.values import normal
from atomsweep.shipped import PUBLISHED, places
from atomsweep.tracking.files import read_text

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the faster, where it was built


def papers() -> dict[str, Paper]:
    """Every paper by its key, e.g. `forcenet`: those shipped, and those of the present folder.

    Of two papers with one key that of the present folder counts.

    Raises:
        ValueError: a file does not follow the schema (pydantic's message names the place).
    """
    return _papers(Path.cwd())


@cache
def _papers(_present: Path) -> dict[str, Paper]:
    """Papers as they are read from one present folder."""
    found = {}
    for folder in reversed(places(PUBLISHED)):
        for path in sorted(folder.glob("*.yaml")):
            text = read_text(path)
            paper = Paper.model_validate(yaml.load(text, Loader=_LOADER))
            if paper.key != path.stem:
                raise ValueError(f"{path.name} must hold the paper {path.stem}, got {paper.key}")
            found[paper.key] = paper
    return found


def references() -> list[str]:
    """Names of all tables, e.g. `forcenet.table5`."""
    return [f"{key}.{name}" for key, paper in papers().items() for name in paper.tables]


def paper(reference: str) -> Paper:
    """The paper of a table's name, e.g. of `forcenet.table5`."""
    table(reference)
    return papers()[reference.partition(".")[0]]


def table(reference: str) -> Table:
    """A table by its name, `forcenet.table5`.

    Raises:
        KeyError: there is no such table; the message lists those that there are.
    """
    key, _, name = reference.partition(".")
    found = papers().get(key)
    if found is None or name not in found.tables:
        raise KeyError(f"no published table {reference}; known: {', '.join(references())}")
    return found.tables[name]


def numbers(reference: str) -> pd.DataFrame:
    """A table as a DataFrame: one column per axis (our names), one per quantity, NaN where none."""
    chosen = table(reference)
    names = [axis.name for axis in chosen.axes] + [column.name for column in chosen.columns]
    rows = [(*row.key, *row.values) for row in chosen.rows]
    result = pd.DataFrame(rows, columns=names)
    numbers = [column.name for column in chosen.columns]
    return result.astype(dict.fromkeys(numbers, float))


def key_of(axis: Axis, value: Any) -> str:
    """What a value of ours is on an axis of a table: itself, or the row that it stands in for."""
    return normal(axis.stand_ins.get(normal(value), value))


def reference_named(name: str) -> str | None:
    """`forcenet.table5` of `forcenet/table5` or of itself; None where there is no such table."""
    reference = name.replace("/", ".")
    return reference if reference in references() else None


def unanswered(named: set[str | None]) -> list[str]:
    """Published tables that no sweep file names.

    Args:
        named: `published` of every sweep file.
    """
    return [reference for reference in references() if reference not in named]


def measured(chosen: Table) -> list[Column]:
    """Columns that a run's final metrics can stand beside."""
    return [c for c in chosen.columns if c.metric is not None]


def matching(axes: Iterable[str], common: Mapping[str, Any]) -> str | None:
    """The published table that suits a comparison, or None.

    It must know every swept axis, have rows at the values of those that were not swept, and accept
    what else the runs have in common; of several, the one with the fewest further axes is taken.

    Args:
        axes: swept columns of the DataFrame of runs, e.g. `choice.basis`.
        common: columns with one value in all runs, e.g. `{"choice.model": "forcenet_small"}`.
    """
    swept = set(axes)
    suited: list[tuple[int, str]] = []
    for reference in references():
        chosen = table(reference)
        if chosen.applies is None or not swept:
            continue
        keys = {axis.column for axis in chosen.axes if axis.name in chosen.applies.axes}
        accepts = all(
            column in keys
            or any(fnmatchcase(str(common.get(column, "")), pattern) for pattern in patterns)
            for column, patterns in chosen.applies.where.items()
        )
        fixed = [(i, axis.column) for i, axis in enumerate(chosen.axes) if axis.column not in swept]
        has_rows = all(
            any(normal(row.key[i]) == normal(common.get(column)) for row in chosen.rows)
            for i, column in fixed
        )
        if swept <= keys and accepts and has_rows:
            suited.append((len(fixed), reference))
    return min(suited)[1] if suited else None
