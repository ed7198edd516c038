"""One run directory as one MLflow run: its params, points, tags, files and status.

What MLflow holds already is not sent again. What is new is collected and sent in as few requests as
MLflow's limits allow, because a request to its store costs more than what is in it.
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.mlflow.connect import Store
from atomsweep.tracking.mlflow.plans import mark_of
from atomsweep.tracking.run import RunDirectory

MOST = 1000  # things in a request
BATCH = 990  # metrics among them
SMALL_BATCH = 100  # params among them, and tags

_STATUS = {
    schema.QUEUED: "SCHEDULED",
    schema.RUNNING: "RUNNING",
    schema.INTERRUPTED: "KILLED",
    schema.FAILED: "FAILED",
    schema.PRUNED: "KILLED",
    schema.FINISHED: "FINISHED",
}
_EARLY_FILES = (schema.CONFIG, schema.RUN, schema.ENVIRONMENT, schema.DIFF)
_LATE_FILES = (schema.RESULT, schema.SEGMENTS, schema.JOURNAL, schema.LOG)
_BEST = f"{schema.CHECKPOINTS}/best.pt"


@dataclass
class SyncReport:
    """What a pass did.

    Attributes:
        runs: run directories looked at.
        created: MLflow runs made, those written anew included.
        changed: runs of which something was written.
        values: metric values written.
        problems: one sentence for each run that could not be mirrored.
        busy: another process is mirroring; nothing was done.
    """

    runs: int = 0
    created: int = 0
    changed: int = 0
    values: int = 0
    problems: list[str] = field(default_factory=list)
    busy: bool = False


class RunWriter:
    """Writes runs to a store, one after the other, and counts what it did.

    Args:
        store: open.
        report: what is counted in.
    """

    def __init__(self, store: Store, report: SyncReport) -> None:
        self.store = store
        self.client = store.client
        self.experiment = store.experiment
        self.report = report
        self.known: dict[str, list[Any]] | None = None  # uid -> runs, where all were looked up
        self._metrics: list[Any] = []  # that wait to be sent, with params and tags
        self._params: list[Any] = []
        self._tags: list[Any] = []

    def find(self, uid: str) -> Any:
        """The MLflow run of a directory; of several (a lost answer), one, the others deleted."""
        if self.known is not None:
            runs = self.known.get(uid, [])
        else:
            kind = f"tags.{schema.TAG_KIND} = 'run'"
            runs = self.store.search(f"{kind} and tags.{schema.TAG_UID} = {quoted(uid)}")
        if not runs:
            return None
        best, *others = sorted(runs, key=lambda r: (-_mirrored_lines(r), r.info.start_time or 0))
        for other in others:
            self.client.delete_run(other.info.run_id)
        return best

    def create(self, run: RunDirectory, tags: dict[str, str]) -> Any:
        """A new MLflow run for a directory, with the tags that it is found by; others follow."""
        start = run.run.get("created")
        first = (schema.TAG_KIND, schema.TAG_UID)
        created = self.client.create_run(
            self.experiment,
            start_time=None if start is None else round(1000 * start),
            tags={k: v for k, v in tags.items() if k in first or k.startswith("mlflow.")},
            run_name=run.name,
        )
        self.report.created += 1
        return created

    def write_params(self, found: Any, params: dict[str, str]) -> bool:
        """The resolved config, once; returns whether anything was new."""
        from mlflow.entities import Param

        new = [Param(k, v) for k, v in params.items() if k not in found.data.params]
        self._params += new
        return bool(new)

    def write_points(self, found: Any, journal: list[dict[str, Any]], state: str) -> bool:
        """The points that MLflow does not have; a step that may still grow waits for the next."""
        from mlflow.entities import Metric, RunTag

        points = views.points(journal)
        if state in (schema.RUNNING, schema.QUEUED):
            points = points[:-1]
        points = [point for point in points if point.lines > _mirrored_lines(found)]
        if not points:
            return False
        digests = views.digests(journal)
        for i, point in enumerate(points):
            self._metrics += [
                Metric(views.name_for(name), float(value), point.time, point.step)
                for name, value in point.values.items()
            ]
            self.report.values += len(point.values)
            last = i + 1 == len(points)
            if not last and len(self._metrics) + len(points[i + 1].values) <= BATCH:
                continue
            position = {
                schema.TAG_MIRRORED: point.step,
                schema.TAG_MIRRORED_LINES: point.lines,
                schema.TAG_MIRRORED_DIGEST: digests[point.lines - 1],
            }
            self._tags += [RunTag(k, str(v)) for k, v in position.items()]
            if not last:
                self.flush(found)
        return True

    def write_final(self, found: Any, run: RunDirectory) -> bool:
        """Metrics of the result; returns whether anything was new."""
        from mlflow.entities import Metric

        result = run.result or {}
        step, time = int(result.get("step", 0)), views.settled(run)
        held = found.data.metrics  # an evaluation can be made again, and then counts
        new = [
            Metric(name, value, time, step)
            for name, value in views.final_metrics(run).items()
            if name not in held or not _same(held[name], value)
        ]
        self._metrics += new
        self.report.values += len(new)
        return bool(new)

    def write_dataset(self, found: Any, run: RunDirectory) -> bool:
        """The data set as an input, once: MLflow's pages list runs by it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        about = views.dataset(run)
        held = found.inputs.dataset_inputs if found.inputs is not None else []
        if about is None or any(one.dataset.digest == about["digest"] for one in held):
            return False
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(found.info.run_id, [DatasetInput(Dataset(**about), [context])])
        return True

    def write_tags(self, found: Any, tags: dict[str, str]) -> bool:
        """Tags that are new or have changed; returns whether there were any."""
        from mlflow.entities import RunTag

        new = [RunTag(k, v) for k, v in tags.items() if found.data.tags.get(k) != v]
        self._tags += new
        return bool(new)

    def write_files(self, found: Any, run: RunDirectory, state: str) -> bool:
        """Files that changed; those that grow, once the run stands still; the best at the end."""
        from mlflow.entities import RunTag

        names = list(_EARLY_FILES)
        if state not in (schema.RUNNING, schema.QUEUED):
            names += _LATE_FILES
        if state == schema.FINISHED:
            names += [_BEST, *_evaluated(run)]
        old = json.loads(found.data.tags.get(schema.TAG_MIRRORED_FILES, "{}"))
        now = {name: mark_of(run.path / name) for name in names}
        new = {name: mark for name, mark in now.items() if mark and old.get(name) != mark}
        if new:
            with TemporaryDirectory() as place:  # one request for all, of which none is copied here
                for name in new:
                    link = Path(place, name)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(run.path.absolute() / name)
                self._log_files(found, place)
            self._tags.append(RunTag(schema.TAG_MIRRORED_FILES, dumps(old | new)))
        return bool(new)

    def write_status(self, found: Any, state: str, status: dict[str, Any]) -> bool:
        """Last, so that a run which MLflow calls finished is there as a whole."""
        wanted = _STATUS[state]
        if found.info.status == wanted:
            return False
        if state in (schema.RUNNING, schema.QUEUED):
            self.client.update_run(found.info.run_id, status=wanted)
        else:
            end = round(1000 * (status.get("finished") or status.get("heartbeat") or 0.0)) or None
            tables, number = self.store.tables, found.info.run_id
            if tables is None or not tables.end(number, wanted, end):
                self.client.set_terminated(number, status=wanted, end_time=end)
        return True

    def flush(self, found: Any) -> None:
        """Send what waits, all of one run; tags last, as they say up to where points are there."""
        metrics, params, tags = self._metrics, self._params, self._tags
        self.forget()
        batches = list(_batches(metrics, BATCH)) or [[]]
        more = list(_batches(params, SMALL_BATCH))
        while batches or more or tags:
            batch = batches.pop(0) if batches else []
            some = more.pop(0) if more and len(batch) + SMALL_BATCH <= MOST else []
            room = 0 if batches else min(SMALL_BATCH, MOST - len(batch) - len(some))
            now, tags = tags[:room], tags[room:]
            if batch or some or now:
                self._log(found, metrics=batch, params=some, tags=now)

    def forget(self) -> None:
        """What waits is not sent: its run could not be written."""
        self._metrics, self._params, self._tags = [], [], []

    def _log(self, found: Any, **entities: Any) -> None:
        tables = self.store.tables
        if tables is None or not tables.log(found.info.run_id, **entities):
            self.client.log_batch(found.info.run_id, synchronous=True, **entities)

    def _log_files(self, found: Any, folder: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = found.info.artifact_uri
        if urlsplit(place).scheme == "file":  # known without asking for the run again
            get_artifact_repository(place).log_artifacts(folder)
        else:
            self.client.log_artifacts(found.info.run_id, folder)


def was_rewound(found: Any, journal: list[dict[str, Any]]) -> bool:
    """Whether MLflow holds points that the journal no longer has, or has otherwise."""
    lines = _mirrored_lines(found)
    if lines == 0:
        return False
    held, rest = journal[:lines], journal[lines:]
    digest = found.data.tags[schema.TAG_MIRRORED_DIGEST]
    if len(held) < lines or views.digests(held)[-1] != digest:
        return True
    return bool(rest) and rest[0][schema.STEP] <= held[-1][schema.STEP]


def _mirrored_lines(found: Any) -> int:
    return int(found.data.tags.get(schema.TAG_MIRRORED_LINES, 0))


def _same(held: float, value: float) -> bool:
    """Whether MLflow holds a value; SQL stores keep infinity as the largest float."""
    if math.isinf(value):
        return math.copysign(sys.float_info.max, value) == held or value == held
    return held == value or (math.isnan(held) and math.isnan(value))


def _evaluated(run: RunDirectory) -> list[str]:
    """Files that came after the training: evaluations, and predictions of a few structures."""
    predicted = sorted((run.path / schema.PREDICTIONS).glob("*.npz"))
    return [str(p.relative_to(run.path)) for p in (*views.evaluation_files(run), *predicted)]


def signature(run: RunDirectory) -> tuple[Any, ...]:
    """What changes when a run has something new to tell."""
    files = (*_EARLY_FILES, *_LATE_FILES, schema.STATUS, _BEST, *_evaluated(run))
    return (run.state(), *(mark_of(run.path / name) for name in files))


def quoted(value: str) -> str:
    """A value as a search of MLflow wants it."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
