"""What the documents of a run hold, field by field: whoever reads one can rely on the kinds.

A file that was cut, edited by hand or written by something else is refused where it is read, with
its name, and not somewhere in the middle of what is done with it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema

NUMBER, TEXT, MAP, LIST, FLAG = "a number", "text", "a mapping", "a list", "true or false"
NUMBERS, MAPS, CELLS = "numbers by name", "mappings by name", "a list of cells with identities"

_PROGRESS = {"step": NUMBER, "device_seconds": NUMBER, "eval_seconds": NUMBER}
_KINDS: Mapping[str, Mapping[str, str]] = {
    schema.RUN: {
        "identity": TEXT,
        "science": MAP,
        "choices": MAP,
        "overrides": LIST,
        "sweep": TEXT,
        "data": MAP,
        "created": NUMBER,
        "uid": TEXT,
    },
    schema.STATUS: _PROGRESS
    | {
        "state": TEXT,
        "total_steps": NUMBER,
        "fraction": NUMBER,
        "seconds_left": NUMBER,
        "values": NUMBERS,
        "heartbeat": NUMBER,
        "finished": NUMBER,
        "host": TEXT,
        "pid": NUMBER,
        "message": TEXT,
    },
    schema.RESULT: _PROGRESS
    | {
        "metrics": NUMBERS,
        "throughput": NUMBERS,
        "structures": MAP,
        "parameters": NUMBER,
        "checkpoint": TEXT,
    },
    schema.ENVIRONMENT: {"device": TEXT, "commit": TEXT, "dirty": FLAG, "user": TEXT},
    schema.WANTED: {},
    schema.SEGMENTS: {
        "start": NUMBER,
        "end": NUMBER,
        "heartbeat": NUMBER,
        "world_size": NUMBER,
        "host": TEXT,
    },
    schema.JOURNAL: {"step": NUMBER, "time": NUMBER},
    schema.PLANS: {"cells": CELLS, "sweep": TEXT, "groups": MAP, "file": TEXT, "command": TEXT},
    schema.EVALUATIONS: {"settings": MAP, "created": NUMBER},
}
_NEEDED: Mapping[str, Sequence[str]] = {
    schema.RUN: ("identity",),
    schema.SEGMENTS: ("start", "heartbeat", "world_size"),
    schema.JOURNAL: ("step",),
    schema.PLANS: ("cells",),
}
GROUPS = ("model", "data", "task", "optim", "engine", "tracking", "cluster")  # of a config


def kind_of(path: Path) -> str:
    """Which document a file is: its own name, or that of the folder that plans and such lie in."""
    if path.name in _KINDS:
        return path.name
    folders = [parent.name for parent in path.parents]
    return next((f for f in folders if f in (schema.PLANS, schema.EVALUATIONS)), path.name)


def fault(kind: str, content: Mapping[str, Any]) -> str | None:
    """What is wrong with a document; None with one that can be used, or is none of ours."""
    if kind == schema.WANTED and not _is(MAPS, content):
        return f"it must hold {MAPS}"
    for name in _NEEDED.get(kind, ()):
        if content.get(name) is None:
            return f"it has no {name!r}"
    for name, wanted in _KINDS.get(kind, {}).items():
        value = content.get(name)
        if value is not None and not _is(wanted, value):
            return f"its {name!r} must be {wanted}, not {_short(value)}"
    return None


def config_fault(config: Any) -> str | None:
    """What is wrong with a resolved config, as far as groups go."""
    if not isinstance(config, Mapping):
        return f"it must hold a mapping of config groups, not {_short(config)}"
    for group in GROUPS:
        if not isinstance(config.get(group, {}), Mapping | None):
            return f"its {group!r} must be a mapping, not {_short(config[group])}"
    return None


def _is(wanted: str, value: Any) -> bool:
    if wanted == NUMBER:
        return _is_number(value) and math.isfinite(value)
    if wanted == NUMBERS:
        return isinstance(value, Mapping) and all(map(_is_number, value.values()))
    if wanted == MAPS:
        return isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values())
    if wanted == CELLS:
        return isinstance(value, list) and all(
            isinstance(cell, Mapping) and isinstance(cell.get("identity"), str) for cell in value
        )
    kinds: Mapping[str, Any] = {TEXT: str, MAP: Mapping, LIST: list, FLAG: bool}
    return isinstance(value, kinds[wanted])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
