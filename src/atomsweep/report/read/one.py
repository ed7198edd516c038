"""One run in full, read from its directory: config, command, place, data, log, curves, result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from atomsweep.report.read.journals import points_of
from atomsweep.report.read.row import config_columns
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_file, read_lines, read_text, read_yaml
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.state import state_of

TAIL = 12  # lines of the log


@dataclass(frozen=True)
class OneRun:
    """What a page of one run is made of.

    Attributes:
        name: of its directory.
        identity: of the run.
        state: of `tracking.state`.
        message: why it ended, or None.
        path: its directory, absolute.
        command: what was typed to launch it, or None.
        again: makes this run and no other.
        data: name of the data set, its files, their place, its fingerprint; what is known of it.
        made: commit, device, host, and the like.
        config: dotted key → value, flat.
        metrics: of the result, or {}.
        curves: metric of validation → steps and values.
        log: its last lines.
        sweeps: names of the sweeps that have it.
    """

    name: str
    identity: str
    state: str
    message: str | None
    path: Path
    command: str | None
    again: str
    data: Mapping[str, str]
    made: Mapping[str, str]
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    log: Sequence[str] = ()
    sweeps: Sequence[str] = ()


def read_one(run: RunDirectory, again: str, tail: int = TAIL) -> OneRun:
    """A run in full; what it lacks is left empty.

    Args:
        run: its directory.
        again: the command that makes it.
        tail: lines of the log.
    """
    about, environment, result = run.run, run.environment, run.result or {}
    config = _config(run.path / schema.CONFIG)
    commit = environment.get("commit")
    made = {
        "commit": f"{commit}{', with uncommitted changes' if environment.get('dirty') else ''}"
        if commit
        else None,
        "device": environment.get("device"),
        "host": environment.get("host"),
        "user": environment.get("user"),
        "python": environment.get("python"),
        "torch": (environment.get("packages") or {}).get("torch"),
    }
    return OneRun(
        name=run.name,
        identity=run.identity,
        state=state_of(run),
        message=run.status.get("message") or None,
        path=run.path.absolute(),
        command=about.get("command") or None,
        again=again,
        data=_data(about.get("data") or {}, config),
        made={key: str(value) for key, value in made.items() if value},
        config=config,
        metrics=result.get("metrics") or {},
        curves=_curves(run),
        log=_log(run.path / schema.LOG, tail),
        sweeps=list(about.get("sweeps") or [s for s in [about.get("sweep")] if s]),
    )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys in which two runs differ, with both values; None where one has no such key."""
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _config(path: Path) -> dict[str, Any]:
    """The resolved config, flat; {} where there is none that can be read."""
    try:
        config = read_yaml(read_text(path))
        return config_columns(config, "") if isinstance(config, dict) else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _data(data: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    said = data.get("provenance")
    provenance = said if isinstance(said, Mapping) else {}
    told = {
        "name": data.get("name"),
        "file": config.get("data.path"),
        "source": provenance.get("source"),
        "stored in": config.get("data.root"),
        "split by": config.get("data.split_by"),
        "hash": data.get("fingerprint"),
    }
    return {key: str(value) for key, value in told.items() if value}


def _curves(run: RunDirectory) -> dict[str, list[tuple[float, float]]]:
    """Steps and values of what was measured on validation splits."""
    lines = read_lines(run.path / schema.JOURNAL, [])
    found: dict[str, list[tuple[float, float]]] = {}
    for _, step, _, _, metric, value in points_of(run.identity, lines, None):
        if not metric.startswith(f"{schema.TRAIN}/") and value == value:
            found.setdefault(metric, []).append((step, value))
    return {metric: sorted(points) for metric, points in found.items()}


def _log(path: Path, tail: int) -> list[str]:
    if tail <= 0 or not path.is_file():
        return []
    return read_file(path).decode(errors="replace").splitlines()[-tail:]
