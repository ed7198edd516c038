"""Runs as MLflow has them: no run directory is opened.

`tracking/mlflow/reader.py` gives the documents that the mirror wrote. A row is made of them in the
same way as of a run directory.
"""

import os
from collections.abc import Mapping
from typing import Any

from atomsweep.report.read.evaluated import columns_of
from atomsweep.report.read.plans import known_plan
from atomsweep.report.read.problems import READ_ERRORS
from atomsweep.report.read.row import row_of
from atomsweep.report.read.runs import Runs
from atomsweep.tracking import schema
from atomsweep.tracking.mlflow.connect import absolute, sqlite_path
from atomsweep.tracking.mlflow.reader import MirroredRun, read_mirrored

PATH = "mlflow:"  # + run id, in the column `path`


def read_mlflow(uri: str, experiment: str = "atomsweep") -> Runs:
    """Every run and plan of an MLflow experiment.

    Args:
        uri: `sqlite:///path` or a server.
        experiment: name of the experiment.

    Raises:
        LookupError: there is no such experiment, or it holds no run of ours.
        TrackingUnavailable: the server cannot be reached.
    """
    uri = absolute(uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise LookupError(f"there is no MLflow store {database}; name yours with --uri")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mirrored = read_mirrored(uri, experiment)
    problems = list(mirrored.problems)
    rows, by_path = [], {}
    for run in mirrored.runs:
        try:
            link = _page(uri, mirrored.store.experiment, run)
            rows.append({**_row(run, problems), "link": link})
            by_path[PATH + run.run_id] = run
        except READ_ERRORS as error:
            problems.append(f"{run.name} cannot be read from MLflow: {error}")
    plans = {}
    for sweep, plan in mirrored.plans.items():
        try:
            plans[sweep] = known_plan(plan)
        except READ_ERRORS as error:
            problems.append(f"the plan of sweep {sweep} cannot be read from MLflow: {error}")
    if not rows and not problems:
        raise LookupError(
            f"no run is in MLflow's experiment {experiment} at {uri}; name yours with "
            f"--experiment, or fill it with `python -m atomsweep sync`"
        )
    return Runs.of(rows, plans, problems, uri, lambda path: mirrored.journal(by_path[path]))


def _page(uri: str, experiment: str, run: MirroredRun) -> str | None:
    """Address of a run on an MLflow server; of a file there is none that every reader can open."""
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run.run_id}"


def _row(run: MirroredRun, problems: list[str]) -> Mapping[str, Any]:
    row = row_of(run.run, run.state, run.status, run.result, run.environment)
    row["sweeps"] = tuple(dict.fromkeys([*row["sweeps"], *run.sweeps]))
    if run.state == schema.FINISHED and not isinstance(run.result.get("metrics"), dict):
        problems.append(f"{run.name} is finished without metrics in its {schema.RESULT}")
    row["name"] = run.name.removesuffix(f"-{row['identity']}")
    row["path"] = PATH + run.run_id
    if run.state == schema.FINISHED:
        for kind, content in run.evaluations.items():
            where = f"{run.name}, evaluation {kind} in MLflow"
            row.update(columns_of(kind, content, where, problems))
    if run.processes:
        row.update(processes=run.processes, allocated_seconds=run.allocated_seconds)
    return row
