"""The Median baseline of each data set: the runs that there are, and those that are lacking."""

import re
import shlex

import pandas as pd

from atomsweep.report.read.row import fill_command
from atomsweep.tracking import schema

BASELINE_MODEL = "median"


def baselines_of(runs: pd.DataFrame, df: pd.DataFrame) -> pd.DataFrame:
    """The newest finished Median run on each data set of `df`, from whatever sweep.

    It is held against any task: all measure forces in the same way (tasks/force_metrics.py). On
    data of IS2RE it is the median energy.
    """
    if "choice.model" not in runs:
        return runs.iloc[:0]
    median = (runs["choice.model"] == BASELINE_MODEL) & (runs["state"] == schema.FINISHED)
    found = runs[median].sort_values("created", key=lambda c: c.map(str), kind="stable")
    found = found.drop_duplicates("data_fingerprint", keep="last")
    return found[found["data_fingerprint"].isin(data_of(df))]


def data_of(df: pd.DataFrame) -> list[str]:
    """Fingerprints of what the finished runs were trained on, each once."""
    finished = df.loc[df["state"] == schema.FINISHED, "data_fingerprint"]
    return list(finished.dropna().unique())


def lacks_baseline(
    df: pd.DataFrame, baselines: pd.DataFrame, judged: bool = True
) -> list[pd.DataFrame]:
    """Runs of each data set that has no baseline; all runs where none has finished."""
    if not judged:
        return []
    data, there = data_of(df), set(baselines.get("data_fingerprint", ()))
    if not data:
        return [df]
    return [df[df["data_fingerprint"] == one] for one in data if one not in there]


def has_baseline(cells: pd.DataFrame) -> bool:
    """Whether the baseline is a row of the table."""
    models = cells.get("choice.model")
    return models is not None and bool((models == BASELINE_MODEL).any())


def baseline_command(df: pd.DataFrame) -> str:
    """What makes a Median run on the data of a finished run, or of the first."""
    finished = df[df["state"] == schema.FINISHED]
    run = (finished if len(finished) else df).iloc[0]
    typed = shlex.split(run["command"])[2:]
    same = [o for o in typed if re.match(r"\+*(data|root)\b|task=is2re$", o)]
    chosen = {group: run.get(f"choice.{group}") for group in ("task", "data")}
    for group, option in chosen.items():  # an experiment may have chosen it
        wanted = isinstance(option, str) and (group == "data" or option == "is2re")
        if wanted and not any(o.startswith(f"{group}=") for o in same):
            same.insert(0, f"{group}={option}")
    return fill_command(["model=median", *same])
