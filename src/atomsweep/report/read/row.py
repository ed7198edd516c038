"""A row of the tidy DataFrame from the documents of one run.

The documents are `run.json`, `status.json`, `result.json` and `environment.json`.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from atomsweep.report.read.tidy import CHOICE, CONFIG, COUNT, METRIC
from atomsweep.report.read.values import as_float, iso, normal
from atomsweep.tracking import schema
from atomsweep.tracking.state import with_code


def row_of(
    run: Mapping[str, Any],
    state: str,
    status: Mapping[str, Any],
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """A row from the documents of a run; {} stands for a document that there is not.

    Raises:
        KeyError: `run` names no identity or no choices.
        ValueError: `run` has a schema version that this code does not know.
    """
    version = run.get("schema_version", run.get("schema"))
    if version != schema.SCHEMA_VERSION:
        raise ValueError(
            f"its {schema.RUN} has schema version {version}, known is {schema.SCHEMA_VERSION}"
        )
    identity, data = str(run["identity"]), run.get("data") or {}
    row: dict[str, Any] = {
        "identity": identity,
        "state": state,
        "message": status.get("message") or None,
        "sweeps": tuple(run.get("sweeps") or [s for s in [run.get("sweep")] if s]),
        "seed": run.get("seed"),
        "step": result.get("step", status.get("step")),
        "total_steps": status.get("total_steps"),
        "device": environment.get("device"),
        "commit": environment.get("commit"),
        "dirty": environment.get("dirty"),
        "stale": with_code(state, environment) == schema.STALE,
        "data": data.get("name"),
        "data_fingerprint": data.get("fingerprint") or run.get("data_fingerprint"),
        "data_provenance": _provenance(data.get("provenance")),
        "split_by": data.get("split_by") or _typed("data.split_by", run.get("overrides") or []),
        "data_files": _files(data.get("provenance"), run.get("overrides") or []),
        "created": iso(run.get("created")),
        "command": fill_command(run.get("overrides") or []),
        **{CHOICE + group: value for group, value in run["choices"].items()},
        **config_columns(run.get("science") or {}),
        **{COUNT + split: n for split, n in _counts(data, result).items()},
    }
    row["budget"] = budget_of(row, row["total_steps"])
    row |= _outcome(state, status, result)
    if state == schema.FINISHED:
        row |= {
            f"{METRIC}run/{name}": as_float(row.get(f"{CONFIG}model.{name}"))
            for name in ("hidden_channels", "num_layers")
        }
    return row


def _outcome(state: str, status: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished run measured; of another one the time that it has spent so far."""
    times = ("device_seconds", "eval_seconds")
    if state != schema.FINISHED:
        return {key: status.get(key) for key in times}
    metrics = {**(result.get("throughput") or {}), **(result.get("metrics") or {})}
    metrics |= {"run/parameters": result.get("parameters")}
    if result.get("device_seconds") is not None:
        metrics["run/device_hours"] = result["device_seconds"] / 3600
    return {
        **{key: result.get(key) for key in ("parameters", *times)},
        **{METRIC + name: as_float(value) for name, value in metrics.items()},
    }


def config_columns(science: Mapping[str, Any], prefix: str = CONFIG) -> dict[str, Any]:
    """Nested config → `config.<dotted>` columns; lists as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in science.items():
        if isinstance(value, Mapping):
            flat.update(config_columns(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat


def budget_of(config: Mapping[str, Any], total_steps: Any) -> str | None:
    """How long training was allowed to be; runs of unlike budgets share no table."""
    for key, unit in (("steps", "steps"), ("epochs", "epochs"), ("device_hours", "device-hours")):
        value = config.get(f"{CONFIG}engine.{key}")
        if value is not None:
            return f"{normal(value)} {unit}"
    return f"{normal(total_steps)} steps" if total_steps else None


def fill_command(overrides: Iterable[str]) -> str:
    """The command that makes a run of these overrides."""
    return shlex.join(["atomsweep", "run", *overrides])


def _provenance(provenance: Any) -> str | None:
    """A sentence from what the data set says of itself."""
    if isinstance(provenance, Mapping):
        return provenance.get("note") or provenance.get("source") or None
    return str(provenance) if provenance else None


def _files(provenance: Any, overrides: Iterable[str]) -> str | None:
    """`my.extxyz`: what a set that was read from somebody's own files is called."""
    named = _typed("data.path", overrides)
    source = provenance.get("source") if isinstance(provenance, Mapping) else None
    return str(source) if named and source else None


def _typed(key: str, overrides: Iterable[str]) -> str | None:
    """The value of a key among overrides."""
    values = [
        o.partition("=")[2] for o in map(str, overrides) if o.lstrip("+").startswith(f"{key}=")
    ]
    return values[-1] if values else None


def _counts(data: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, int]:
    """Structures by split: known from the data set, or only once the run has read it."""
    return data.get("counts") or result.get("structures") or {}
