"""The tidy DataFrame of runs: names of its columns, one row for each identity.

A row is made in `row.py`, of the documents that a run directory and MLflow both hold.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from atomsweep.report.read.values import normal
from atomsweep.tracking import schema
from atomsweep.tracking.state import rank_of
from atomsweep.units import SECONDS_PER_DAY

CHOICE = "choice."  # + group: what was chosen
CONFIG = "config."  # + dotted key: what that amounts to
METRIC = "metric."  # + split/metric: final value of the chosen checkpoint
COUNT = "count."  # + split: structures of the data set
MEASURED_ON = "measured_on."  # + kind of evaluation: device that it ran on
SEED = "seed"
Span = tuple[str, float, float]  # host, start and end of a process, s since 1970
COLUMNS: dict[str, Any] = {
    "identity": None,
    "name": None,
    "label": None,  # what a sweep file calls the row or column
    "state": None,
    "message": None,
    "sweeps": None,  # names of the sweeps that have the run as a cell, as a tuple
    "seed": math.nan,
    "further": None,  # True: of a seed beyond the file's own, which `until=decided` may ask for
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
    "split_by": None,  # what tells training from validation, where the run or its data say so
    "data_files": None,  # name of the user's own file, and how many more
    "created": None,  # ISO, UTC
    "allocated_seconds": math.nan,  # device-seconds of all processes, lost work included
    "shared": None,  # True: on a CPU whose host trained another run at the same time
    "processes": math.nan,  # that worked on it: 1 + requeues and restarts
    "command": None,  # makes this run
    "link": None,  # to its page on an MLflow server, where it was read from one
    "path": None,
}
"""Columns that every DataFrame of runs has, and their value where a run does not tell."""


def df_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A DataFrame with `COLUMNS` first, then choices, config, metrics and counts, each sorted."""
    made = pd.DataFrame(list(rows), dtype=object)  # text as Python's: Arrow's is slow in few rows
    told = {c: made[c] if c in made else pd.Series(None, made.index, object) for c in COLUMNS}
    for column, empty in COLUMNS.items():
        if isinstance(empty, float):
            told[column] = pd.to_numeric(told[column], errors="coerce").astype(float)
        else:
            told[column] = told[column].where(told[column].notna(), None)
    told["device_days"] = told["device_seconds"] / SECONDS_PER_DAY
    gpu = told["device"].map(is_gpu).astype(bool)
    told["gpu_days"] = told["device_days"].where(gpu)
    extra = sorted(c for c in columns(made) if c not in COLUMNS)
    kinds = (CHOICE, CONFIG, METRIC, COUNT, MEASURED_ON)
    more = {c: _typed(made[c]) for kind in kinds for c in extra if c.startswith(kind)}
    return pd.DataFrame(told | more, made.index)


def _typed(values: pd.Series) -> pd.Series:
    """Numbers and truth values as such, anything else as it is."""
    return values if any(isinstance(v, str) for v in values) else values.infer_objects()


def one_of_each(df: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """One row per identity, as `tracking.state` chooses it; contradictions are problems."""
    metrics = [c for c in columns(df) if c.startswith(METRIC)]
    for identity, twins in df[df.duplicated("identity", keep=False)].groupby("identity"):
        finished = twins[twins["state"] == schema.FINISHED]
        if len(finished) > 1 and (finished[metrics].nunique(dropna=False) > 1).any():
            unlike = next(m for m in metrics if finished[m].nunique(dropna=False) > 1)
            told = " and ".join(
                f"{path} ({value:.6g})"
                for path, value in zip(finished["path"], finished[unlike], strict=True)
            )
            problems.append(
                f"{told} are one run ({identity}) with different results, such as "
                f"{unlike.removeprefix(METRIC)}; the newest by the present code is in the table"
            )
    ranks = [-rank_of(shown_state(row)) for row in records(df[["state", "stale"]])]
    ranked = df.assign(_rank=ranks, _when=df["created"].map(str))
    kept = ranked.sort_values(["_rank", "_when"], kind="stable").drop_duplicates(
        "identity", keep="last"
    )
    return df.loc[sorted(kept.index)].reset_index(drop=True)


def shown_state(run: Mapping[str, Any]) -> str:
    """State of a row as `tracking.state` decided it: one that is stale is finished, too."""
    return schema.STALE if run["stale"] is True else str(run["state"])


def varying(df: pd.DataFrame) -> list[str]:
    """Choices that differ between runs; where none does, values of the config; without the seed."""
    passive = {"choice.tracking", "choice.cluster", "choice.engine", "choice.experiment"}
    told = [c for c in columns(df) if c.startswith((CHOICE, CONFIG))]
    several = [c for c in told if df[c].nunique() > 1]
    choices = [c for c in several if c.startswith(CHOICE) and c not in passive]
    return choices or [c for c in several if c.startswith(CONFIG) and c != CONFIG + SEED]


def common(df: pd.DataFrame) -> dict[str, Any]:
    """Columns that have one value in all rows that tell it."""
    shared = {}
    for column in columns(df):
        values = list(df[column].dropna().unique()) if column != "sweeps" else []
        if len(values) == 1:
            shared[column] = values[0]
    return shared


def columns(df: pd.DataFrame) -> list[str]:
    """Names of the columns, as strings."""
    return [str(column) for column in df.columns]


def records(df: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts, with names as strings."""
    return [{str(k): v for k, v in row.items()} for row in df.to_dict("records")]


def device_of(run: Mapping[str, Any], metric: str) -> str:
    """Device that a number was measured on: that of its evaluation, else that of the training."""
    own = run.get(f"{MEASURED_ON}{metric.partition('/')[0]}")
    return str(own or run.get("device") or "an unknown device")


_GPU = re.compile(
    r"cuda|nvidia|gpu|geforce|tesla|quadro|rtx|instinct|radeon|\b[ahblv]\d{2,3}\b", re.I
)


def is_gpu(device: str | None) -> bool:
    """Whether time on a device may be called GPU time; of an unknown kind of device it may not."""
    return device is not None and not device.lower().startswith("cpu") and bool(_GPU.search(device))


_TIMED = re.compile(r"(^|_)(seconds|hours|days|per_s|per_second)(_|$)")


def share_machines(rows: Sequence[dict[str, Any]], spans: Mapping[str, Sequence[Span]]) -> None:
    """Fill `shared` of runs on a CPU: whether another one trained on their host at the same time.

    Args:
        rows: of the DataFrame; changed.
        spans: path of a run → host, start and end of each of its processes.
    """
    by_host: dict[str, list[tuple[float, float, str]]] = {}
    for path, own in spans.items():
        for host, start, end in own:
            by_host.setdefault(host, []).append((start, end, path))
    together: set[str] = set()
    for known in by_host.values():
        last: tuple[float, str] | None = None  # the end that is furthest so far, and whose it is
        for start, end, path in sorted(known):
            if last is not None and start < last[0] and path != last[1]:
                together |= {path, last[1]}
            if last is None or end > last[0]:
                last = (end, path)
    for row in rows:
        if row.get("path") in spans and not is_gpu(row.get("device")):
            row["shared"] = row["path"] in together


def is_shared(df: pd.DataFrame) -> bool:
    """Whether a finished run trained on a machine that trained another one at the same time."""
    return bool((df["shared"].map(lambda v: v is True) & (df["state"] == schema.FINISHED)).any())


def is_timed(metric: str) -> bool:
    """Whether a number is a time, or per time: it means nothing on another device."""
    return bool(_TIMED.search(metric.rpartition("/")[2]))


OF_THE_RUN = ("device_seconds", "eval_seconds", "gpu_days", "parameters")
"""Columns of a run that a claim may be about, beside metrics."""


def is_of_cost(metric: str) -> bool:
    """Whether a number is the same whatever a network has learnt: time, memory, parameters."""
    return metric in OF_THE_RUN or metric.startswith(("cost/", "run/")) or is_timed(metric)


def awaited(df: pd.DataFrame) -> pd.Series:
    """Which runs make a row whole: all but further seeds that have neither finished nor failed.

    One that was stopped says nothing of its result; one that failed would be left out for it.
    """
    ended = df["state"].isin((schema.FINISHED, schema.FAILED))
    return ended | df["further"].map(lambda value: value is not True)


def by_row(df: pd.DataFrame, rows: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Groups of one table row, in order of appearance."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(df[list(rows)].map(normal).itertuples(index=False)):
        groups.setdefault(tuple(key), []).append(position)
    return [(key, df.iloc[positions]) for key, positions in groups.items()]
