"""What a sweep file asks of a report: which cells there are, their rows, columns, labels, claims.

The file says what is wanted. Which run answers a cell is told by the plan that a launch saved, or
found by composing the cell: a run counts wherever it came from. A cell that nothing answers is
missing, and its overrides fill it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atomsweep.build import UserError
from atomsweep.sweep.claims import Setting
from atomsweep.sweep.file import SweepFile, axes_of, key_of, read_sweep
from atomsweep.sweep.grid import cell_key, grid
from atomsweep.sweep.looks import looks_of
from atomsweep.tracking.schema import CLAIMS

LABEL = "label"
Find = Callable[[list[str], Iterable[str]], str | None]
UNPLANNED = "unplanned-"  # begins the name that stands for an identity that nobody knows yet


@dataclass(frozen=True, eq=False)
class Asked:
    """A table that is wanted, as its sweep file has it.

    Attributes:
        name: of the sweep.
        file: what one types after `sweeps=`.
        statement: the sweep file.
        scale: which of its scales.
        rows: axes of the rows, in order; `label` stands for rows that have one.
        columns: axes of the columns.
        cells: planned or wanted cells, as in a plan; the identity may be a stand-in.
        settings: identity → label and axis → value.
        dropped: planned cells that the file no longer has.
        further_from: seeds from this one on were asked for by `until=decided` or by others, not by
            the file: a row is whole without them; None: every seed is asked for.
        command: launches what is missing.
    """

    name: str
    file: str
    statement: SweepFile
    scale: str | None
    rows: list[str]
    columns: list[str]
    cells: list[dict[str, Any]]
    settings: dict[str, tuple[str | None, Setting]] = field(default_factory=dict)
    dropped: int = 0
    further_from: int | None = None
    command: str = ""

    @property
    def settings_axes(self) -> list[str]:
        """Every axis of rows and columns, by its key."""
        return [*axes_of(self.statement.rows), *axes_of(self.statement.columns)]

    def __deepcopy__(self, memo: object) -> "Asked":
        return self  # it travels in `attrs`, which pandas copies at every step


def known_files(folders: Iterable[Path]) -> list[str]:
    """Names of all tables in some folders; studies of hyper-parameters are no tables."""
    names = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in folder.rglob("*.yaml")
    }
    return sorted(name for name in names if not name.startswith("hpo/"))


def asked_of(
    name: str,
    plans: Mapping[str, Mapping[str, Any]],
    folders: Sequence[Path],
    problems: list[str],
    find: Find = lambda overrides, axes: None,
) -> Asked | None:
    """What is asked of a sweep; None where neither its plan nor its name tells a sweep file.

    Args:
        name: `forcenet/table5`, or that of another scale, `forcenet/table5-node`.
        plans: sweep → plan.
        folders: where sweep files are; the first that has the file counts.
        problems: a file that cannot be read is added.
        find: identity of the run that some overrides stand for in a sweep over some axes, None
            where there is none.
    """
    plan = plans.get(name, {})
    file, scale = _file_of(name, plan, folders)
    if file is None:
        return None
    statement = _statement(file, plan, folders, problems)
    if statement is None:
        return None
    statement = statement.at(scale)
    cells, dropped, as_filed = _cells(name, file, statement, scale, plan, plans, find)
    looks = looks_of(statement)
    lets_ask = looks is not None and (as_filed or bool(plan.get(CLAIMS)))
    start = 0 if as_filed else min((int(cell.get("seed") or 0) for cell in cells), default=0)
    axes = [*axes_of(statement.rows), *axes_of(statement.columns)]
    extra = [a for a in plan.get("groups") or {} if a not in axes and a != "seed"]
    settings: dict[str, tuple[str | None, Setting]] = {
        str(cell["identity"]): (cell.get("label"), _setting(cell, axes)) for cell in cells
    }
    return Asked(
        name=name,
        file=file,
        statement=statement,
        scale=scale or next(iter(statement.scale), None),
        rows=_shown(statement.rows) + extra,
        columns=_shown(statement.columns),
        cells=cells,
        settings=settings,
        dropped=dropped,
        further_from=start + looks.first if looks is not None and lets_ask else None,
        command=plan.get("command") or _command(file, scale),
    )


def _file_of(
    name: str, plan: Mapping[str, Any], folders: Sequence[Path]
) -> tuple[str | None, str | None]:
    """Name of the file and scale; the name of a sweep is that of its file, and what was changed."""
    if plan.get("file"):
        return str(plan["file"]), plan.get("scale")
    if plan:
        return None, None
    if _path_of(name, folders):
        return name, None
    file, _, scale = name.rpartition("-")
    return (file, scale) if file and _path_of(file, folders) else (None, None)


def _path_of(file: str, folders: Iterable[Path]) -> Path | None:
    """The sweep file of this name, in the first folder that has one."""
    paths = (folder / f"{file}.yaml" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _statement(
    file: str, plan: Mapping[str, Any], folders: Sequence[Path], problems: list[str]
) -> SweepFile | None:
    path = _path_of(file, folders)
    if path is not None:
        try:
            return read_sweep(path)
        except UserError as error:
            problems.append(f"{error}; the table is laid out as it was planned")
    try:
        return SweepFile.model_validate(plan["statement"])
    except (KeyError, ValidationError):
        return None


def _cells(
    name: str,
    file: str,
    statement: SweepFile,
    scale: str | None,
    plan: Mapping[str, Any],
    plans: Mapping[str, Mapping[str, Any]],
    find: Find,
) -> tuple[list[dict[str, Any]], int, bool]:
    """Cells in the file's order, with the identity that a plan knows, or a run has, of each.

    Returns:
        Cells; how many planned ones the file no longer has; whether they are the file's own, with
        nothing typed that it does not say.
    """
    planned = list(plan.get("cells") or [])
    try:
        wanted = grid({}, statement, file, scale)
    except UserError:
        return planned, 0, False
    if wanted.name != name:  # something was typed that the file does not say
        return planned, 0, False
    swept = {key_of(axis) for axis in (*axes_of(statement.rows), *axes_of(statement.columns))}
    everywhere = [cell for p in plans.values() for cell in p["cells"]]
    known = {cell_key(cell.get("overrides") or [], swept): cell for cell in everywhere + planned}
    cells = []
    everything = [*wanted.cells, *_further(wanted.cells, statement, known, swept)]
    for number, (overrides, label) in enumerate(everything):
        found = known.get(cell_key(overrides, swept))
        identity = None if found else find(overrides, wanted.groups)
        stand_in = {"identity": identity or f"{UNPLANNED}{number}", "overrides": overrides}
        cells.append({**(found or stand_in), "label": label})
    kept = {cell["identity"] for cell in cells}
    return cells, sum(cell["identity"] not in kept for cell in planned), True


def _further(
    cells: Sequence[tuple[list[str], str | None]],
    statement: SweepFile,
    known: Mapping[frozenset[str], Any],
    swept: set[str],
) -> list[tuple[list[str], str | None]]:
    """Cells with a further seed that some plan has, where the file lets claims ask for more."""
    looks = looks_of(statement)
    if looks is None:
        return []
    first = [cell for cell in cells if f"seed={statement.first_seeds[0]}" in cell[0]]
    more = [
        ([f"seed={seed}" if o.startswith("seed=") else o for o in overrides], label)
        for overrides, label in first
        for seed in range(looks.first, looks.most)
    ]
    return [(overrides, label) for overrides, label in more if cell_key(overrides, swept) in known]


def _setting(cell: Mapping[str, Any], axes: list[str]) -> dict[str, str]:
    typed = {key_of(o): o.partition("=")[2] for o in map(str, cell.get("overrides") or [])}
    return {axis: typed[key_of(axis)] for axis in axes if key_of(axis) in typed}


def _shown(points: Any) -> list[str]:
    """Axes, or the label where every explicit point has one."""
    if not isinstance(points, Mapping) and points and all(LABEL in point for point in points):
        return [LABEL]
    return list(axes_of(points))


def _command(file: str, scale: str | None) -> str:
    return f"atomsweep run sweeps={file}" + (f" scale={scale}" if scale else "")
