"""The tidy frame of runs: its columns, a row from a run's documents, one row per identity.

Run directories and MLflow both hold the same documents (`run.json`, `status.json`, `result.json`,
`environment.json`), so a row is made here for both.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from atomsweep.tracking import schema
from atomsweep.tracking.code import changed
from atomsweep.units import SECONDS_PER_DAY

CHOICE = "choice."  # + group: what was chosen
CONFIG = "config."  # + dotted key: what that amounts to
METRIC = "metric."  # + split/metric: final value of the chosen checkpoint
COUNT = "count."  # + split: structures of the data set
MEASURED_ON = "measured_on."  # + kind of evaluation: device that it ran on
SEED = "seed"

COLUMNS: dict[str, Any] = {
    "identity": None,
    "name": None,
    "label": None,  # what a sweep file calls the row or column
    "state": None,
    "message": None,
    "sweeps": None,  # names of the sweeps that have the run as a cell, as a tuple
    "seed": math.nan,
    "step": math.nan,
    "total_steps": math.nan,
    "budget": None,  # how long training was allowed to be, in words
    "parameters": math.nan,
    "device_seconds": math.nan,
    "eval_seconds": math.nan,
    "device_days": math.nan,
    "gpu_days": math.nan,  # NaN on a CPU: CPU time is never called GPU time
    "device": None,
    "commit": None,
    "dirty": None,
    "stale": None,  # True: finished with other code than the present
    "data": None,
    "data_fingerprint": None,
    "data_provenance": None,
    "created": None,  # ISO, UTC
    "allocated_seconds": math.nan,  # device-seconds of all processes, lost work included
    "processes": math.nan,  # that worked on it: 1 + requeues and restarts
    "command": None,  # makes this run
    "link": None,  # to its page in MLflow, where there is one
    "path": None,
}
"""Columns that every frame of runs has, and their value where a run does not tell."""

_TIMED = re.compile(r"(^|_)(seconds|hours|days|per_s|per_second)(_|$)")
_GPU = re.compile(
    r"cuda|nvidia|gpu|geforce|tesla|quadro|rtx|instinct|radeon|\b[ahblv]\d{2,3}\b", re.I
)


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
        "stale": state == schema.FINISHED and bool(changed(environment)),
        "data": data.get("name"),
        "data_fingerprint": data.get("fingerprint") or run.get("data_fingerprint"),
        "data_provenance": _provenance(data.get("provenance")),
        "created": iso(run.get("created")),
        "command": fill_command(run.get("overrides") or []),
        **{CHOICE + group: value for group, value in run["choices"].items()},
        **config_columns(run.get("science") or {}),
        **{COUNT + split: n for split, n in _counts(data, result).items()},
    }
    row["budget"] = budget_of(row, row["total_steps"])
    if state == schema.FINISHED:
        row.update(
            {key: result.get(key) for key in ("parameters", "device_seconds", "eval_seconds")}
        )
        metrics = {**(result.get("throughput") or {}), **(result.get("metrics") or {})}
        metrics |= {"run/parameters": result.get("parameters")}
        row.update({METRIC + name: as_float(value) for name, value in metrics.items()})
    else:
        row.update({key: status.get(key) for key in ("device_seconds", "eval_seconds")})
    return row


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with `COLUMNS` first, then choices, config, metrics and counts, each sorted."""
    frame = pd.DataFrame(list(rows))
    for column, empty in COLUMNS.items():
        if column not in frame:
            frame[column] = pd.Series([empty] * len(frame), index=frame.index, dtype=object)
        if isinstance(empty, float):
            frame[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
        else:
            filled = frame[column].astype(object)
            frame[column] = filled.where(filled.notna(), None)
    frame["device_days"] = frame["device_seconds"] / SECONDS_PER_DAY
    gpu = frame["device"].map(is_gpu).astype(bool)
    frame["gpu_days"] = frame["device_days"].where(gpu)
    extra = sorted(c for c in columns(frame) if c not in COLUMNS)
    kinds = (CHOICE, CONFIG, METRIC, COUNT, MEASURED_ON)
    order = [c for kind in kinds for c in extra if c.startswith(kind)]
    return frame[[*COLUMNS, *order]]


def newest_of_each(frame: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """One row per identity: the newest finished, else the newest; contradictions are problems."""
    metrics = [c for c in columns(frame) if c.startswith(METRIC)]
    for identity, twins in frame[frame.duplicated("identity", keep=False)].groupby("identity"):
        finished = twins[twins["state"] == schema.FINISHED]
        if len(finished) > 1 and (finished[metrics].nunique(dropna=False) > 1).any():
            unlike = next(m for m in metrics if finished[m].nunique(dropna=False) > 1)
            told = " and ".join(
                f"{path} ({value:.6g})"
                for path, value in zip(finished["path"], finished[unlike], strict=True)
            )
            problems.append(
                f"{told} are one run ({identity}) with different results, such as "
                f"{unlike.removeprefix(METRIC)}; the newest is in the table"
            )
    ranked = frame.assign(_done=frame["state"] == schema.FINISHED, _when=frame["created"].map(str))
    kept = ranked.sort_values(["_done", "_when"], kind="stable").drop_duplicates(
        "identity", keep="last"
    )
    return frame.loc[sorted(kept.index)].reset_index(drop=True)


def varying(frame: pd.DataFrame) -> list[str]:
    """Choices that differ between runs; where none does, values of the config; without the seed."""
    passive = {"choice.tracking", "choice.cluster", "choice.engine", "choice.experiment"}
    told = [c for c in columns(frame) if c.startswith((CHOICE, CONFIG))]
    several = [c for c in told if frame[c].nunique() > 1]
    choices = [c for c in several if c.startswith(CHOICE) and c not in passive]
    return choices or [c for c in several if c.startswith(CONFIG) and c != CONFIG + SEED]


def common(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns that have one value in all rows that tell it."""
    shared = {}
    for column in columns(frame):
        values = list(frame[column].dropna().unique()) if column != "sweeps" else []
        if len(values) == 1:
            shared[column] = values[0]
    return shared


def columns(frame: pd.DataFrame) -> list[str]:
    """Names of the columns, as strings."""
    return [str(column) for column in frame.columns]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts, with names as strings."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def normal(value: Any) -> str:
    """One spelling for a value of an axis: 0.05, "5e-2" and 0.050 are the same; "" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


def as_float(value: Any) -> float:
    """A number, NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def iso(moment: Any) -> str | None:
    """Seconds since 1970 as ISO text in UTC; text stays as it is."""
    if isinstance(moment, int | float):
        return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return str(moment) if moment else None


def is_gpu(device: str | None) -> bool:
    """Whether time on a device may be called GPU time; of an unknown kind of device it may not."""
    return device is not None and not device.lower().startswith("cpu") and bool(_GPU.search(device))


def is_timed(metric: str) -> bool:
    """Whether a number is a time, or per time: it means nothing on another device."""
    return bool(_TIMED.search(metric.rpartition("/")[2]))


def device_of(run: Mapping[str, Any], metric: str) -> str:
    """Device that a number was measured on: that of its evaluation, else that of the training."""
    own = run.get(f"{MEASURED_ON}{metric.partition('/')[0]}")
    return str(own or run.get("device") or "an unknown device")


def fill_command(overrides: Iterable[str]) -> str:
    """The command that makes a run of these overrides."""
    return shlex.join(["python", "run.py", *overrides])


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


def _provenance(provenance: Any) -> str | None:
    """A sentence from what the data set says of itself."""
    if isinstance(provenance, Mapping):
        return provenance.get("note") or provenance.get("source") or None
    return str(provenance) if provenance else None


def _counts(data: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, int]:
    """Structures by split: known from the data set, or only once the run has read it."""
    return data.get("counts") or result.get("structures") or {}
