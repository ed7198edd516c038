"""Run directories → one tidy frame, one row per run; plans of sweeps; problems by name, never a crash.

A `Store` holds all of it; tables, curves and reports start from `store.sweep(...)`. The same store
is read from MLflow alone by `mirror.py`.
"""

import json
import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from atomsweep.tracking import schema
from atomsweep.units import SECONDS_PER_DAY

CHOICE = "choice."  # + group: what was chosen
CONFIG = "config."  # + dotted key: what that amounts to
METRIC = "metric."  # + split/metric: final value of the chosen checkpoint
COUNT = "count."  # + split: structures of the data set
SEED = "seed"

COLUMNS = {
    "identity": None,
    "name": None,
    "state": None,
    "message": None,
    "sweeps": None,  # names, as a tuple
    "seed": math.nan,
    "step": math.nan,
    "total_steps": math.nan,
    "budget": None,
    "parameters": math.nan,
    "device_seconds": math.nan,
    "eval_seconds": math.nan,
    "device_days": math.nan,
    "gpu_days": math.nan,  # NaN on a CPU: CPU time is never called GPU time
    "device": None,
    "commit": None,
    "dirty": None,
    "data": None,
    "data_fingerprint": None,
    "data_provenance": None,
    "created": None,
    "command": None,  # makes this run
    "path": None,
}
"""Columns that every frame of runs has, and their value where a run does not tell."""

_GPU = re.compile(
    r"cuda|nvidia|gpu|geforce|tesla|quadro|rtx|instinct|radeon|\b[ahblv]\d{2,3}\b", re.I
)
_SHOWN_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError)


class UnknownSweep(LookupError):
    """No plan and no run has this sweep; the message lists those there are."""


@dataclass
class Store:
    """All runs of one place.

    Attributes:
        runs: one row per run; of two runs with one identity the newest finished.
        plans: sweep name -> its plan, as written by the sweeper.
        problems: what could not be read, or contradicts itself; one sentence each.
        source: where it was read from, for captions.
        journals: reads the metrics of a run, by its path; see `curves`.
    """

    runs: pd.DataFrame
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    source: str = ""

    def sweeps(self) -> list[str]:
        """Names of all sweeps, newest first."""
        tagged = {name for names in self.runs["sweeps"] for name in names} - set(self.plans)
        newest = sorted(
            self.plans, key=lambda name: str(self.plans[name].get("created")), reverse=True
        )
        return [*newest, *sorted(tagged)]

    def sweep(self, name: str) -> pd.DataFrame:
        """Runs of a sweep; a planned cell without a directory is a row in state `missing`.

        `attrs` of the frame: `sweep`, `axes` (swept columns, in order, without the seed), `command`.

        Args:
            name: of the sweep, or `latest`.

        Raises:
            UnknownSweep: there is none of that name.
        """
        known = self.sweeps()
        if name == "latest" and known:
            name = known[0]
        if name not in known:
            hint = f"known: {', '.join(known)}" if known else f"there is none in {self.source}"
            raise UnknownSweep(f"no sweep {name!r}; {hint}")
        tagged = self.runs[[name in names for names in self.runs["sweeps"]]]
        plan = self.plans.get(name)
        if plan is None:
            return _labelled(tagged, name, varying(tagged), None)
        cells = pd.DataFrame([_cell_row(cell, name) for cell in plan["cells"]])
        cells = cells.drop_duplicates("identity", ignore_index=True)
        frame = _in_order(self.runs, cells)
        axes = [_axis_column(axis, frame) for axis in plan.get("groups", {})]
        for axis in axes:  # a run made for another sweep may not know the axis by its own overrides
            if axis in cells:
                values = cells.set_index("identity")[axis].reindex(frame["identity"]).to_numpy()
                own = frame[axis] if axis in frame else pd.Series(None, frame.index, dtype=object)
                frame[axis] = own.where(own.notna(), pd.Series(values, frame.index))
        return _labelled(frame, name, [a for a in axes if a != SEED], plan.get("command"))

    def where(self, filters: Mapping[str, str]) -> pd.DataFrame:
        """Runs that have, in each named column, one of the comma-separated values.

        Args:
            filters: column -> values, e.g. `{"choice.basis": "sph,sine", "data": "mini_oc"}`.

        Raises:
            UnknownSweep: no run has such a column, or no run passes.
        """
        keep = pd.Series(True, self.runs.index)
        for column, values in filters.items():
            if column not in self.runs:
                known = [c for c in self.runs if not c.startswith((CONFIG, METRIC, COUNT))]
                raise UnknownSweep(f"runs have no column {column!r}; known: {', '.join(known)}")
            wanted = [normal(value) for value in values.split(",")]
            keep &= self.runs[column].map(lambda value, wanted=wanted: normal(value) in wanted)
        chosen = self.runs[keep]
        told = " ".join(f"{column}={values}" for column, values in filters.items())
        if chosen.empty:
            raise UnknownSweep(f"no run has {told}; {len(self.runs)} runs are in {self.source}")
        return _labelled(chosen, told, varying(chosen), None)


def read(root: Path | str) -> Store:
    """Every run and plan below `root`. What cannot be read is a problem, and never stops the rest.

    Raises:
        FileNotFoundError: `root` is not a directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no directory {root}; name the directory of your runs with --root")
    problems: list[str] = []
    rows = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith(("_", ".")):
            row = _read_run(path, problems)
            if row is not None:
                rows.append(row)
    plans = _read_plans(root / schema.SWEEPS, problems)
    return Store(newest_of_each(frame_of(rows), problems), plans, problems, str(root))


def load(
    root: Path | str, sweep: str | None = None, where: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Runs below `root`: all, those of a sweep, or those that a filter keeps.

    `attrs["problems"]` of the frame holds what could not be read.
    """
    store = read(root)
    frame = store.sweep(sweep) if sweep else store.where(where) if where else store.runs.copy()
    frame.attrs["problems"] = store.problems
    return frame


def curves(
    frame: pd.DataFrame | Path | str, metrics: Collection[str] | None = None
) -> pd.DataFrame:
    """Journals of runs, long: identity, step, device_seconds, eval_seconds, metric, value.

    Args:
        frame: runs, with their `path`; or a root, for all of them.
        metrics: names such as `val_id/forces_mae`; all if None.

    Where a step was logged twice (a run that went back to a checkpoint), the later line counts.
    """
    runs = frame if isinstance(frame, pd.DataFrame) else read(frame).runs
    parts: list[tuple[str, float, float, float, str, float]] = []
    for identity, path in zip(runs["identity"], runs["path"], strict=True):
        if not isinstance(path, str):
            continue
        for line in _lines(Path(path) / schema.JOURNAL):
            step = _number(line.get(schema.STEP))
            spent = _number(line.get(schema.DEVICE_SECONDS))
            evaluated = _number(line.get(schema.EVAL_SECONDS))
            parts += [
                (identity, step, spent, evaluated, name, _number(value))
                for name, value in line.items()
                if "/" in name and (metrics is None or name in metrics)
            ]
    return curve_frame(parts)


def curve_frame(parts: Sequence[tuple[str, float, float, float, str, float]]) -> pd.DataFrame:
    """Long frame of journal entries, each (identity, metric, step) once, in order."""
    columns = ["identity", "step", "device_seconds", "eval_seconds", "metric", "value"]
    result = pd.DataFrame(list(parts), columns=columns)
    keys = ["identity", "metric", "step"]
    result = result.drop_duplicates(keys, keep="last")
    return result.sort_values(keys, kind="stable", ignore_index=True)


def varying(frame: pd.DataFrame) -> list[str]:
    """Choices that differ between runs; where none does, values of the config; without the seed."""
    passive = {"choice.tracking", "choice.cluster", "choice.engine", "choice.experiment"}
    several = [c for c in frame if c.startswith((CHOICE, CONFIG)) and frame[c].nunique() > 1]
    choices = [c for c in several if c.startswith(CHOICE) and c not in passive]
    return choices or [c for c in several if c.startswith(CONFIG) and c != CONFIG + SEED]


def common(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns with one value in all rows that tell it."""
    return {
        column: values[0]
        for column in frame
        if column != "sweeps" and len(values := frame[column].dropna().unique()) == 1
    }


def normal(value: Any) -> str:
    """One spelling for a value of an axis: 0.05, "5e-2" and 0.050 are the same."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    try:
        return f"{float(value):.12g}" if not isinstance(value, bool) else str(value).lower()
    except (TypeError, ValueError):
        return str(value)


def is_gpu(device: str | None) -> bool:
    """A device whose time may be called GPU time; a device of an unknown kind is not."""
    return bool(device) and not device.lower().startswith("cpu") and bool(_GPU.search(device))


def fill_command(overrides: Iterable[str]) -> str:
    """The command that makes a run of these overrides."""
    return shlex.join(["python", "run.py", *overrides])


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with `COLUMNS` first, then choices, config, metrics and counts."""
    frame = pd.DataFrame(list(rows))
    for column, empty in COLUMNS.items():
        if column not in frame:
            frame[column] = pd.Series([empty] * len(frame), index=frame.index, dtype=object)
    for column, empty in COLUMNS.items():
        if isinstance(empty, float):
            frame[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
        else:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    frame["device_days"] = frame["device_seconds"] / SECONDS_PER_DAY
    gpu = frame["device"].map(is_gpu).astype(bool)
    frame["gpu_days"] = frame["device_days"].where(gpu)
    extra = [c for c in frame if c not in COLUMNS]
    order = [c for kind in (CHOICE, CONFIG, METRIC, COUNT) for c in extra if c.startswith(kind)]
    return frame[[*COLUMNS, *order]]


def newest_of_each(frame: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """One row per identity: the newest finished, else the newest; contradictions are problems."""
    metrics = [c for c in frame if c.startswith(METRIC)]
    for identity, twins in frame[frame.duplicated("identity", keep=False)].groupby("identity"):
        finished = twins[twins["state"] == schema.FINISHED]
        if len(finished) > 1 and (finished[metrics].nunique(dropna=False) > 1).any():
            names = " and ".join(Path(p).name for p in finished["path"])
            problems.append(
                f"{names} are one run ({identity}) with different results; newest taken"
            )
    ranked = frame.assign(_done=frame["state"] == schema.FINISHED, _when=frame["created"].map(str))
    kept = ranked.sort_values(["_done", "_when"], kind="stable").drop_duplicates(
        "identity", keep="last"
    )
    return frame.loc[sorted(kept.index)].reset_index(drop=True)


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
    """How long training was allowed to be, in words; runs of unlike budgets share no table."""
    for key, unit in (("steps", "steps"), ("epochs", "epochs"), ("device_hours", "device-hours")):
        value = config.get(f"{CONFIG}engine.{key}")
        if value is not None:
            return f"{normal(value)} {unit}"
    return f"{normal(total_steps)} steps" if total_steps else None


def _read_run(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A row, or None for what is not a run that we can read."""
    files = {entry.name for entry in path.iterdir()}
    if schema.RUN not in files:
        if files & {schema.CONFIG, schema.STATUS, schema.JOURNAL, schema.RESULT}:
            problems.append(f"{path.name} is half-written: it has no {schema.RUN}")
        return None
    try:
        run = _json(path / schema.RUN)
        if run.get("schema") != schema.SCHEMA_VERSION:
            raise ValueError(
                f"{schema.RUN} has schema {run.get('schema')!r}, this version reads "
                f"{schema.SCHEMA_VERSION}"
            )
        row = _science_row(run)
    except _SHOWN_ERRORS as error:
        problems.append(f"{path.name} cannot be read: {_sentence(error)}")
        return None
    status = _optional(path / schema.STATUS, problems)
    environment = _optional(path / schema.ENVIRONMENT, problems)
    row["path"] = str(path)
    row["state"], row["message"] = _state(path, status)
    row["step"], row["total_steps"] = status.get("step"), status.get("total_steps")
    row["budget"] = budget_of(row, row["total_steps"])
    row.update({key: environment.get(key) for key in ("device", "commit", "dirty")})
    if row["state"] == schema.FINISHED:
        result = _optional(path / schema.RESULT, problems)
        if not isinstance(result.get("metrics"), dict):
            row["state"] = schema.INTERRUPTED
            row["message"] = f"finished, but without a readable {schema.RESULT}"
            problems.append(f"{path.name} is finished without a readable {schema.RESULT}")
            return row
        row.update(
            {key: result.get(key) for key in ("parameters", "device_seconds", "eval_seconds")}
        )
        row.update({METRIC + name: _number(v) for name, v in result["metrics"].items()})
    return row


def _science_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that is known from the start."""
    data = run.get("data") or {}
    sweeps = run.get("sweeps") or [s for s in [run.get("sweep")] if s]
    return {
        "identity": str(run["identity"]),
        "name": run.get("name"),
        "sweeps": tuple(sweeps),
        "seed": run.get("seed"),
        "data": data.get("name"),
        "data_fingerprint": data.get("fingerprint"),
        "data_provenance": data.get("provenance"),
        "created": run.get("created"),
        "command": fill_command(run.get("overrides") or []),
        **{CHOICE + group: value for group, value in run["choices"].items()},
        **config_columns(run.get("science") or {}),
        **{COUNT + split: n for split, n in (data.get("counts") or {}).items()},
    }


def _state(path: Path, status: Mapping[str, Any]) -> tuple[str, str | None]:
    """State and message; without a readable status a run counts as interrupted."""
    state = status.get("state")
    if state is None:
        return schema.INTERRUPTED, f"no readable {schema.STATUS}"
    return str(state), status.get("message") or None


def _cell_row(cell: Mapping[str, Any], sweep: str) -> dict[str, Any]:
    """A planned cell as a run that is missing."""
    typed = dict(o.split("=", 1) for o in cell.get("overrides", []) if "=" in o)
    choices = cell.get("choices") or {}
    config = {CONFIG + k.lstrip("+"): yaml.safe_load(v) for k, v in typed.items() if "." in k}
    return {
        "identity": str(cell["identity"]),
        "name": cell.get("name"),
        "state": schema.MISSING,
        "message": "not started",
        "sweeps": (sweep,),
        "seed": typed.get(SEED, cell.get("seed", 0)),
        "budget": budget_of(config, None),
        "command": fill_command(cell.get("overrides", [])),
        **{CHOICE + group: value for group, value in choices.items()},
        **config,
    }


def _in_order(runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Runs of the cells, in the plan's order; a cell without a run is its own row."""
    found = runs[runs["identity"].isin(cells["identity"])]
    absent = cells[~cells["identity"].isin(found["identity"])]
    rows = [*found.to_dict("records"), *absent.to_dict("records")]
    frame = frame_of(rows).set_index("identity").loc[list(cells["identity"])].reset_index()
    return frame[[*COLUMNS, *(c for c in frame if c not in COLUMNS)]]


def _axis_column(axis: str, frame: pd.DataFrame) -> str:
    axis = axis.lstrip("+")
    if axis == SEED:
        return SEED
    return CHOICE + axis if CHOICE + axis in frame else CONFIG + axis


def _labelled(
    frame: pd.DataFrame, sweep: str, axes: list[str], command: str | None
) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    frame.attrs.update(sweep=sweep, axes=axes, command=command)
    return frame


def _read_plans(directory: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    plans = {}
    for path in sorted(directory.rglob("*.json")):
        try:
            plan = _json(path)
            if not isinstance(plan.get("cells"), list):
                raise ValueError("it has no list of cells")
            for cell in plan["cells"]:
                cell["identity"]  # noqa: B018 - a cell without one is a damaged plan
            plans[str(plan.get("sweep") or path.stem)] = plan
        except _SHOWN_ERRORS as error:
            problems.append(f"plan {path.name} cannot be read: {_sentence(error)}")
    return plans


def _optional(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON object, {} where there is no file; a damaged one is a problem and {}."""
    try:
        return _json(path)
    except FileNotFoundError:
        return {}
    except _SHOWN_ERRORS as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {_sentence(error)}")
        return {}


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a journal; a line cut by a kill is left out."""
    found = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found


def _number(value: Any) -> float:
    """A float; our strict JSON writes non-finite ones by name."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _sentence(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
