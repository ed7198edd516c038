"""Runs behind a report as a grid: what each was, on what, from which code, at which cost."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from atomsweep import console
from atomsweep.report.read.tidy import records, shown_state
from atomsweep.report.tables import grids, spelled
from atomsweep.report.tables.grids import Grid

MOST_RUNS = 2000  # in the table of a report; runs.csv has all


def provenance_grid(df: pd.DataFrame) -> Grid:
    """One line per run: what it was, on what, from which code, at which cost."""
    header = ["Run", "Identity", "State", "Seed", "Steps", "Parameters", "Training", "Evaluation"]
    header += ["GPU-days", "Device", "Commit", "Data"]
    rows = [
        [
            str(run["name"] or spelled.NOTHING),
            run["identity"],
            shown_state(run),
            spelled.count(run["seed"]),
            spelled.count(run["step"]),
            spelled.count(run["parameters"]),
            console.duration(run["device_seconds"]),
            console.duration(run["eval_seconds"]),
            spelled.number(run["gpu_days"]),
            run["device"] or spelled.NOTHING,
            commit(run),
            " ".join(str(v) for v in (run["data"], run["data_fingerprint"]) if v)
            or spelled.NOTHING,
        ]
        for run in records(df)
    ]
    return grids.plain(header, rows, "lll" + "r" * 6 + "lll")


def commit(run: Mapping[str, Any]) -> str:
    """Short commit, with a + where there were uncommitted changes."""
    if not run["commit"]:
        return spelled.NOTHING
    return f"{str(run['commit'])[:9]}{'+' if run['dirty'] else ''}"
