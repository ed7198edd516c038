"""What a sweep wants: its cells and the file that remembers them. Planning needs no torch."""

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from atomsweep.build import UserError
from atomsweep.console import Progress
from atomsweep.sweep.file import SweepFile
from atomsweep.sweep.grid import Grid, seedless_key
from atomsweep.sweep.looks import Looks
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json, write_atomic
from atomsweep.tracking.find import run_name
from atomsweep.tracking.identity import (
    IDENTITY_VERSION,
    NEUTRAL_KEYS,
    former_identities,
    identity,
    science,
)
from atomsweep.tracking.run import Present, RunDirectory, creating

TOGETHER = 100  # directories made while others wait
TURN_SECONDS = 0.15  # that others then have; they look for the lock every 0.05 s
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # writes the same, five times as fast

NAMED = ("model", "basis", "act", "data")  # choices that name a run when nothing was typed


@dataclass(frozen=True)
class Cell:
    """One run that is wanted.

    Attributes:
        config: resolved config, plain values.
        choices: option chosen in each config group.
        overrides: what was typed, as Hydra writes it.
        data: name, fingerprint and provenance of the data set.
        label: what a sweep file calls it.
        measured: what the sweep varies though it changes no result: it makes another identity.
        known_as: identities that a run of this cell may have, made by any version; its own first.
    """

    config: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: Sequence[str]
    data: Mapping[str, Any]
    label: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    science: Mapping[str, Any] = field(init=False, repr=False)
    identity: str = field(init=False)
    known_as: Sequence[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        content = science(dict(self.config), self.data["fingerprint"])
        if self.measured:
            content["measured"] = dict(self.measured)
        object.__setattr__(self, "science", content)
        object.__setattr__(self, "identity", identity(content))
        object.__setattr__(self, "known_as", (self.identity, *former_identities(content)))

    @property
    def name(self) -> str:
        """Directory name: readable part and identity."""
        typed = [o for o in self.overrides if _group(o) == "data" or _group(o) not in NEUTRAL_KEYS]
        chosen = [self.choices[group] for group in NAMED if group in self.choices]
        return run_name(typed or chosen, self.identity)

    def find(self, root: Path, among: Present | None = None) -> RunDirectory | None:
        """The directory that this cell runs in, made by any version; None where there is none.

        `among` are the `directories` of the root, for who asks for many cells.
        """
        return RunDirectory.for_identity(root, *self.known_as, among=among)

    def create(
        self, root: Path, sweep: str | None, command: str, there: Present | None = None
    ) -> RunDirectory:
        """The run directory of this cell, made if it does not exist, entered into `sweep`."""
        run = {
            "identity": self.identity,
            "identity_version": IDENTITY_VERSION,
            "choices": dict(self.choices),
            "overrides": list(self.overrides),
            "sweep": sweep,
            "seed": self.config["seed"],
            "data": dict(self.data),
            "command": command,
            "science": dict(self.science),
        }
        config = yaml.dump(dict(self.config), Dumper=_Dumper, sort_keys=False)
        return RunDirectory.find_or_create(root, self.name, config, run, self.known_as, there)


def create_all(
    cells: Sequence[Cell], root: Path, sweep: str | None, command: str
) -> list[RunDirectory]:
    """The run directories of cells, as each would `create` its own, in their order.

    Another launch has its turn after every `TOGETHER` of them.
    """
    runs: list[RunDirectory] = []
    with Progress.of_cells("making run directories", len(cells)) as progress:
        while len(runs) < len(cells):
            if runs:
                time.sleep(TURN_SECONDS)
            some = cells[len(runs) : len(runs) + TOGETHER]
            with creating(root) as there:
                for cell in some:
                    runs.append(cell.create(root, sweep, command, there))
                    progress.update(1)
    return runs


@dataclass(frozen=True)
class Plan:
    """Cells of a sweep, and what they were asked for by."""

    cells: Sequence[Cell]
    grid: Grid
    sweep: str
    argv: Sequence[str]

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        grid: Grid,
        argv: Sequence[str],
        root: Path,
    ) -> "Plan":
        """A plan without doubled cells, named after its axes unless its grid has a name.

        A name made of axes ends in a hash of the identities, so that the same command finds the
        same sweep; one that was launched with identities of an older version keeps its name.
        """
        unique = list({cell.identity: cell for cell in cells}.values())
        name = grid.name
        if name is None:
            axes = "_".join(key.rpartition(".")[2] for key in grid.groups) or "run"
            names = [
                f"{axes[:40]}-{hashlib.sha256(' '.join(sorted(known)).encode()).hexdigest()[:6]}"
                for known in zip(*(cell.known_as for cell in unique), strict=True)
            ]
            name = next((n for n in names if plan_path(root, n).exists()), names[0])
        return cls(unique, grid, name, argv)

    @property
    def command(self) -> str:
        """What the user typed, as a shell reads it."""
        return typed_command(self.argv)

    def replaced(self, root: Path) -> int:
        """Cells that an earlier plan of this name has and this one has not, where no file says."""
        try:
            before = read_json(plan_path(root, self.sweep))["cells"]
        except (OSError, ValueError, KeyError):
            return 0
        mine = {known for cell in self.cells for known in cell.known_as}
        others = sum(cell["identity"] not in mine for cell in before)
        return others if self.grid.statement is None else 0

    def save(
        self,
        root: Path,
        runs: Sequence[RunDirectory | None],
        parameters: Mapping[str, int],
        claims: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the plan beside the runs, for report, status and retry; it can be derived again.

        Args:
            root: where runs are.
            runs: of the cells, in their order; None for one that has none.
            parameters: identity → trainable parameters of the model.
            claims: how those of the file stand, where the launch looks at them.
        """
        path = plan_path(root, self.sweep)
        path.parent.mkdir(parents=True, exist_ok=True)
        statement = self.grid.statement
        cells = [
            entry_of(cell, run, parameters.get(cell.identity))
            for cell, run in zip(self.cells, runs, strict=True)
        ]
        content = {
            "schema": schema.SCHEMA_VERSION,
            "sweep": self.sweep,
            "created": _now(),
            "command": self.command,
            "argv": [Path(self.argv[0]).name, *self.argv[1:]],
            "directory": str(Path.cwd()),
            "groups": {key: list(values) for key, values in self.grid.groups.items()},
            **(_stated(statement, self.grid) if statement is not None else {}),
            "cells": cells,
        }
        if claims is None:
            content["cells"] += _further(root, path, cells, self.grid)
        else:
            content[schema.CLAIMS] = dict(claims)
        write_atomic(path, json.dumps(content, indent=1) + "\n")
        return path


def _further(
    root: Path, path: Path, cells: Sequence[Mapping[str, Any]], grid: Grid
) -> list[dict[str, Any]]:
    """Further seeds of these cells, which claims have asked an earlier launch for."""
    statement = grid.statement
    if statement is None or not isinstance(statement.seeds, Looks):
        return []
    try:
        before = read_json(path)["cells"]
    except (OSError, ValueError, KeyError):
        return []
    start = min((cell["seed"] for cell in cells), default=0)
    mine = {seedless_key(cell["overrides"], grid.groups) for cell in cells}
    known = {cell["identity"] for cell in cells}
    return [
        cell
        for cell in before
        if cell["identity"] not in known
        and cell["seed"] in range(start + statement.seeds.first, start + statement.seeds.most)
        and seedless_key(cell["overrides"], grid.groups) in mine
        and (run := RunDirectory.for_identity(root, cell["identity"])) is not None
        and has_ended(run)
    ]


def has_ended(run: RunDirectory) -> bool:
    """Whether a run has a result, or failed: then a further seed of it is one of its cell."""
    return run.result is not None or run.state() == schema.FAILED


def entry_of(cell: Cell, run: RunDirectory | None, parameters: int | None) -> dict[str, Any]:
    """A cell as plans list it; its identity is the one that its run has, if it has run."""
    return {
        "identity": cell.identity if run is None else run.identity,
        "name": cell.name,
        "label": cell.label,
        "overrides": list(cell.overrides),
        "choices": dict(cell.choices),
        "seed": cell.config["seed"],
        "parameters": parameters,
        "run": cell.name if run is None else run.name,
    }


def typed_command(argv: Sequence[str]) -> str:
    """What the user typed, as a shell reads it."""
    return " ".join([Path(argv[0]).name, *map(shlex.quote, argv[1:])])


def option_of(root: Path, option: str = " --root ") -> str:
    """What a command must say to find a root; nothing where it is the one that is looked for."""
    if root.absolute() == Path("runs").absolute():
        return ""
    near = root.absolute().is_relative_to(Path.cwd())
    return option + shlex.quote(str(root.absolute().relative_to(Path.cwd()) if near else root))


def is_name(sweep: str) -> bool:
    """Whether it names a file below the folder of plans, and none that is hidden."""
    return sweep.isprintable() and all(
        part and not part.startswith(".") for part in sweep.split("/")
    )


def check_name(sweep: str) -> None:
    """Refuse what is no name of a sweep.

    Raises:
        UserError: it would lead out of the root, or to a hidden file.
    """
    if not is_name(sweep):
        raise UserError(
            "a sweep's name is like mine or mine/first, no part of it empty or with a dot in "
            f"front, got {sweep}"
        )


def is_planned(root: Path, sweep: str) -> bool:
    """Whether there is a plan of this name."""
    return is_name(sweep) and plan_path(root, sweep).exists()


def plan_path(root: Path, sweep: str) -> Path:
    """Where the plan of a sweep is.

    Raises:
        UserError: the name would lead out of the root.
    """
    check_name(sweep)
    return root / schema.PLANS / f"{sweep}.json"


def _stated(statement: SweepFile, grid: Grid) -> dict[str, Any]:
    """What a report needs of a sweep file: the file as it was, and which part of it was wanted."""
    return {
        "file": grid.file,
        "scale": grid.scale,
        "published": statement.published,
        "statement": statement.model_dump(mode="json"),
        "evaluations": statement.evaluations_at(grid.scale),
    }


def _group(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
