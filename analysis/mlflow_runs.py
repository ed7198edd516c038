"""The same store of runs, read from MLflow alone: no run directory is opened.

MLflow holds what `atomsweep.tracking.mirror` wrote: a run's documents as tags, or as artifacts
where they are long, its resolved config as params, its journal as metrics.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.frames import row_of
from analysis.runs import READ_ERRORS, Journal, Store, known_plan
from atomsweep.tracking import schema
from atomsweep.tracking.files import loads
from atomsweep.tracking.identity import science
from atomsweep.tracking.store import absolute, check_reachable, sqlite_path

PATH = "mlflow:"  # + run id, in the column `path`
_DOCUMENTS = (schema.RUN, schema.STATUS, schema.RESULT, schema.ENVIRONMENT)


def read_mlflow(uri: str, experiment: str = "atomsweep") -> Store:
    """Every run and plan of an MLflow experiment.

    Args:
        uri: `sqlite:///path` or a server.
        experiment: name of the experiment.

    Raises:
        LookupError: there is no such store or experiment.
        TrackingUnavailable: the server cannot be reached.
    """
    uri = absolute(uri)
    check_reachable(uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise LookupError(f"there is no MLflow store {database}; name yours with --uri")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(e.name for e in client.search_experiments())
        raise LookupError(f"there is no MLflow experiment {experiment} at {uri}; known: {known}")
    problems: list[str] = []
    rows = []
    for run in _search(client, found.experiment_id, "run"):
        try:
            rows.append(_row(client, run, problems))
        except READ_ERRORS as error:
            name = run.data.tags.get(schema.TAG_NAME, run.info.run_id)
            problems.append(f"{name} cannot be read from MLflow: {error}")
    plans = _plans(client, found.experiment_id, problems)
    return Store.of(rows, plans, problems, uri, lambda path: _journal(client, path))


def _search(client: Any, experiment: str, kind: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        query = f"tags.{schema.TAG_KIND} = '{kind}'"
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return sorted(found, key=lambda run: run.data.tags.get(schema.TAG_NAME, ""))


def _row(client: Any, run: Any, problems: list[str]) -> dict[str, Any]:
    tags = run.data.tags
    state = tags[schema.TAG_STATE]
    about, status, result, environment = (_document(client, run, name) for name in _DOCUMENTS)
    if not about:
        raise ValueError(f"it has no {schema.RUN}, neither as a tag nor as an artifact")
    fingerprint = tags.get(schema.TAG_FINGERPRINT)
    if fingerprint:
        about["science"] = science(_config(run.data.params), fingerprint)
    row = row_of(about, state, status, result, environment)
    member = (
        tag.removeprefix(schema.TAG_MEMBER) for tag in tags if tag.startswith(schema.TAG_MEMBER)
    )
    row["sweeps"] = tuple(dict.fromkeys([*row["sweeps"], *sorted(member)]))
    if state == schema.FINISHED and "metrics" not in result:
        problems.append(
            f"{tags[schema.TAG_NAME]} is finished without metrics in its {schema.RESULT}"
        )
    row["name"] = tags[schema.TAG_NAME].removesuffix(f"-{row['identity']}")
    row["path"] = PATH + run.info.run_id
    return row


def _document(client: Any, run: Any, name: str) -> dict[str, Any]:
    """A JSON file of the run: from its tag, else from the artifacts; {} where there is none."""
    text = run.data.tags.get(schema.TAG_DOCUMENT + Path(name).stem)
    if text is None:
        if not any(file.path == name for file in client.list_artifacts(run.info.run_id)):
            return {}
        text = Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")
    document = loads(text)
    return document if isinstance(document, dict) else {}


def _config(params: Mapping[str, str]) -> dict[str, Any]:
    """The resolved config from flat params; all but strings were written as JSON."""
    config: dict[str, Any] = {}
    for key, text in params.items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return config


def _plans(client: Any, experiment: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    plans = {}
    for parent in _search(client, experiment, "sweep"):
        sweep = parent.data.tags.get(schema.TAG_SWEEP, "")
        text = parent.data.tags.get(f"{schema.TAG_DOCUMENT}plan")
        try:
            if text is None:
                name = f"{sweep.rpartition('/')[2]}.json"
                files = [file.path for file in client.list_artifacts(parent.info.run_id)]
                if name not in files:
                    continue  # a sweep whose plan was deleted; its runs carry its name
                path = client.download_artifacts(parent.info.run_id, name)
                text = Path(path).read_text(encoding="utf-8")
            plans[sweep] = known_plan(loads(text))
        except READ_ERRORS as error:
            problems.append(f"the plan of sweep {sweep} cannot be read from MLflow: {error}")
    return plans


def _journal(client: Any, path: str) -> Journal:
    """Lines of a run's journal, one per step."""
    run_id = path.removeprefix(PATH)
    lines: dict[int, dict[str, Any]] = {}
    for name in client.get_run(run_id).data.metrics:
        if not name.startswith(schema.FINAL):
            for point in client.get_metric_history(run_id, name):
                lines.setdefault(point.step, {schema.STEP: point.step})[name] = point.value
    return [lines[step] for step in sorted(lines)]
