"""Trials of a study as a DataFrame, from its plan and runs.

The driver writes the plan of a study with all its trials in it, so a study is read like any sweep,
from run directories or MLflow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from atomsweep.tracking import schema

COMPLETE = "complete"
PARAM = "param."  # + key: value that a trial chose
VALUE = "value."  # + objective: of a complete trial, mean over its seeds


def trials_df(study: Mapping[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, see `StudyReport.trials`; device-seconds are those of its runs."""
    seconds = dict(zip(runs["identity"], runs["device_seconds"], strict=True))
    steps = dict(zip(runs["identity"], runs["step"], strict=True))
    rows = []
    for trial in study["trials"]:
        values = trial["values"] or [math.nan] * len(study["objectives"])
        identities = trial["identities"]
        rows.append(
            {
                "number": int(trial["number"]),
                "state": trial["state"],
                **{PARAM + key: trial["params"].get(key) for key in study["space"]},
                **{VALUE + o: v for o, v in zip(study["objectives"], values, strict=True)},
                "feasible": bool(trial["feasible"]),
                "best": trial["number"] in study["best"],
                "steps": _total(steps, identities),
                "device_seconds": _total(seconds, identities),
                "identities": " ".join(identities),
                "message": trial["message"],
            }
        )
    return pd.DataFrame(rows)


def history(trials: pd.DataFrame, objective: str, direction: str) -> pd.DataFrame:
    """number, value, best: complete trials in order, with the best feasible value so far."""
    done = trials[trials["state"] == COMPLETE].sort_values("number")
    value = done[VALUE + objective]
    counted = value.where(done["feasible"])
    best = counted.cummin() if direction == "minimize" else counted.cummax()
    return pd.DataFrame(
        {"number": done["number"], "value": value, "best": best.ffill()}
    ).reset_index(drop=True)


def intermediate(study: Mapping[str, Any]) -> pd.DataFrame:
    """number, step, value, state of everything that the pruner was told."""
    rows = [
        (trial["number"], int(step), float(value), trial["state"])
        for trial in study["trials"]
        for step, value in trial["intermediate"].items()
    ]
    return pd.DataFrame(rows, columns=["number", "step", "value", "state"])


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that are over, failed ones included."""
    return trials[trials["state"].isin((COMPLETE, schema.PRUNED, schema.FAILED))]


def repeated(study: Mapping[str, Any]) -> set[int]:
    """Failed trials that another one repeats."""
    return {trial["again"] for trial in study["trials"] if trial.get("again") is not None}


def _total(of: Mapping[str, float], identities: Sequence[str]) -> float:
    known = [of[i] for i in identities if i in of and not math.isnan(of[i])]
    return sum(known) if known else math.nan
