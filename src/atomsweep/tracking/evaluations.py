"""Evaluations of finished runs as files: which are wanted, which are there, which failed.

`<run>/evaluations.json` says what is wanted, kind → settings; `<run>/evaluations/<kind>.json` is a
result, written whole or not at all; `<run>/evaluations/<kind>.failed` says why there is none.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, read_json, write_atomic
from atomsweep.tracking.lock import is_locked
from atomsweep.tracking.run import RunDirectory

NEUTRAL = ("batch_size",)  # settings that change memory and speed of an evaluation, not its result

Wanted = Mapping[str, Mapping[str, Any]]


def want(run: RunDirectory, evaluations: Wanted) -> None:
    """Enter kinds with their settings; a kind that was wanted with others is wanted with these."""
    if not evaluations:
        return
    before = wanted(run)
    after = before | {kind: dict(settings) for kind, settings in evaluations.items()}
    if after != before:
        write_atomic(run.path / schema.WANTED, dumps(after, indent=2))


def wanted(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Kind → settings of what a sweep asked for; {} if none did."""
    return _read(run.path / schema.WANTED)


def result(run: RunDirectory, kind: str) -> dict[str, Any] | None:
    """What an evaluation found; None where it is not there."""
    return _read(path_of(run, kind)) or None


def path_of(run: RunDirectory, kind: str) -> Path:
    """Where its result is."""
    return run.path / schema.EVALUATIONS / f"{kind}.json"


def is_there(run: RunDirectory, kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether a result with these settings is there."""
    found = result(run, kind)
    return found is not None and _decisive(found.get("settings", {})) == _decisive(settings)


def missing(run: RunDirectory, evaluations: Wanted | None = None) -> list[str]:
    """Kinds without a result; None asks for those that are wanted."""
    evaluations = wanted(run) if evaluations is None else evaluations
    return [kind for kind, settings in evaluations.items() if not is_there(run, kind, settings)]


def write(run: RunDirectory, kind: str, content: Mapping[str, Any]) -> None:
    """Write a result, in place of an older one or a failure."""
    path = path_of(run, kind)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, dumps({**content, "created": time.time()}, indent=2))
    _failure_path(run, kind).unlink(missing_ok=True)


def fail(run: RunDirectory, kind: str, message: str, traceback: str) -> None:
    """Record why an evaluation has no result."""
    path = _failure_path(run, kind)
    path.parent.mkdir(exist_ok=True)
    content = {"message": message, "traceback": traceback, "created": time.time()}
    write_atomic(path, dumps(content, indent=2))


def failure(run: RunDirectory) -> str | None:
    """Kind and message of a missing evaluation that failed, or None."""
    for kind in missing(run):
        if found := _read(_failure_path(run, kind)):
            return f"evaluation {kind}: {found.get('message')}"
    return None


def forget_failures(run: RunDirectory) -> None:
    """Before another try."""
    for path in (run.path / schema.EVALUATIONS).glob("*.failed"):
        path.unlink(missing_ok=True)


def standing(run: RunDirectory, asked: Wanted | None = None) -> str:
    """State of a run for a launch, to which a run is finished once it has been evaluated.

    Args:
        run: any.
        asked: evaluations that the launch asks for; None takes what all sweeps want of the run.
    """
    state = run.state()
    if state != schema.FINISHED or not missing(run, asked):
        return state
    if is_locked(run.path / schema.LOCK):
        return schema.RUNNING
    return schema.INTERRUPTED if failure(run) is None else schema.FAILED


def _failure_path(run: RunDirectory, kind: str) -> Path:
    return path_of(run, kind).with_suffix(".failed")


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in NEUTRAL}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
