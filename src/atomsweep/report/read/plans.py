"""Plans of sweeps: read and checked; their cells as rows, their axes as columns of a DataFrame."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from atomsweep.report.read.asked import UNPLANNED
from atomsweep.report.read.problems import READ_ERRORS, sentence
from atomsweep.report.read.row import budget_of, fill_command
from atomsweep.report.read.tidy import CHOICE, CONFIG, SEED
from atomsweep.report.read.values import as_float
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json, read_yaml

UNLAUNCHED = "no launch has planned it yet"
FALLBACK = "_planned"  # a row as its plan has it


def known_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan that has what is read of it.

    Raises:
        ValueError: it lists no cells, or a cell without an identity.
    """
    cells = plan.get("cells")
    if not isinstance(cells, list) or not all(
        isinstance(c, dict) and "identity" in c for c in cells
    ):
        raise ValueError("a plan must list its cells, each with an identity")
    return dict(plan)


def read_plans(directory: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Sweep → plan, of every file below a directory; what cannot be read is a problem."""
    plans = {}
    for path in sorted(directory.rglob("*.json")):
        name = path.relative_to(directory).with_suffix("").as_posix()
        try:
            plan = known_plan(read_json(path))
            plans[str(plan.get("sweep") or name)] = plan
        except READ_ERRORS as error:
            problems.append(f"the plan of sweep {name} cannot be read: {sentence(error)}")
    return plans


def cell_row(cell: Mapping[str, Any], sweep: str) -> dict[str, Any]:
    """A planned cell as a run that is missing."""
    overrides = [str(override) for override in cell.get("overrides") or []]
    typed = dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o)
    config = {CONFIG + key: read_yaml(value) for key, value in typed.items() if "." in key}
    groups = {key: value for key, value in typed.items() if "." not in key and key != SEED}
    identity = str(cell["identity"])
    return {
        "identity": identity,
        "name": str(cell.get("name") or "").removesuffix(f"-{identity}") or None,
        "state": schema.MISSING,
        "message": UNLAUNCHED if identity.startswith(UNPLANNED) else "it has no run directory",
        "sweeps": (sweep,),
        "seed": as_float(typed.get(SEED, cell.get("seed", 0))),
        "budget": budget_of(config, None),
        "command": fill_command(overrides),
        **{CHOICE + group: value for group, value in (cell.get("choices") or groups).items()},
        **config,
    }


def fill_axes(df: pd.DataFrame, axes: Iterable[str]) -> list[str]:
    """Columns of the axes; a run made for another sweep may not have typed this axis."""
    found = []
    for axis in axes:
        column = _axis_column(axis, df)
        planned = pd.Series([row.get(column) for row in df[FALLBACK]], df.index, dtype=object)
        own = df[column].astype(object) if column in df else planned
        df[column] = own.where(own.notna(), planned)
        found.append(column)
    return found


def _axis_column(axis: str, df: pd.DataFrame) -> str:
    axis = axis.lstrip("+~").partition("@")[0].replace("/", ".")
    if axis in (SEED, "label"):
        return axis
    return CHOICE + axis if CHOICE + axis in df else CONFIG + axis
