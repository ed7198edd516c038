"""What a sweep wants: its cells and the file that remembers them. Planning needs no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from atomsweep.tracking import schema
from atomsweep.tracking.files import write_atomic
from atomsweep.tracking.identity import IDENTITY_VERSION, NEUTRAL_KEYS, identity, science
from atomsweep.tracking.run import RunDirectory, run_name

NAMED = ("model", "basis", "act", "data")  # choices that name a run when nothing was typed


@dataclass(frozen=True)
class Cell:
    """One run that is wanted.

    Attributes:
        config: resolved config, plain values.
        choices: option chosen in each config group.
        overrides: what was typed, as Hydra writes it.
        data: name, fingerprint and provenance of the data set.
    """

    config: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: Sequence[str]
    data: Mapping[str, Any]
    science: Mapping[str, Any] = field(init=False, repr=False)
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        content = science(dict(self.config), self.data["fingerprint"])
        object.__setattr__(self, "science", content)
        object.__setattr__(self, "identity", identity(content))

    @property
    def name(self) -> str:
        """Directory name: readable part and identity."""
        typed = [o for o in self.overrides if _group(o) == "data" or _group(o) not in NEUTRAL_KEYS]
        chosen = [self.choices[group] for group in NAMED if group in self.choices]
        return run_name(typed or chosen, self.identity)

    def directory(self, root: Path) -> Path:
        """Where this identity runs: the directory that has it, whatever its name, or a new one."""
        existing = RunDirectory.for_identity(root, self.identity)
        return existing.path if existing is not None else root / self.name

    def create(self, root: Path, sweep: str | None, command: str) -> RunDirectory:
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
        config = yaml.safe_dump(dict(self.config), sort_keys=False)
        return RunDirectory.claim(root, self.name, config, run)


@dataclass(frozen=True)
class Plan:
    """Cells of a sweep, and the axes that span them."""

    cells: Sequence[Cell]
    groups: Mapping[str, Sequence[str]]
    command: str
    sweep: str

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        groups: Mapping[str, Sequence[str]],
        command: str,
        name: str | None = None,
    ) -> "Plan":
        """A plan without doubled cells, named after its axes unless it has a name.

        The name ends in a hash of the identities, so that the same command finds the same sweep.
        """
        unique = list({cell.identity: cell for cell in cells}.values())
        if name is None:
            digest = hashlib.sha256(" ".join(sorted(c.identity for c in unique)).encode())
            axes = "_".join(key.rpartition(".")[2] for key in groups) or "run"
            name = f"{axes[:40]}-{digest.hexdigest()[:6]}"
        return cls(unique, groups, command, name)

    def save(self, root: Path) -> Path:
        """Write the plan beside the runs, for the report; it can be derived again."""
        path = root / schema.SWEEPS / f"{self.sweep}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "schema": schema.SCHEMA_VERSION,
            "sweep": self.sweep,
            "created": _now(),
            "command": self.command,
            "groups": {key: list(values) for key, values in self.groups.items()},
            "cells": [
                {
                    "identity": cell.identity,
                    "name": cell.name,
                    "overrides": list(cell.overrides),
                    "choices": dict(cell.choices),
                    "run": cell.directory(root).name,
                }
                for cell in self.cells
            ],
        }
        write_atomic(path, json.dumps(content, indent=1) + "\n")
        return path


def _group(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
