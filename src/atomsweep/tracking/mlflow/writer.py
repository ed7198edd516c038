"""Run directories mirrored to MLflow: one writer at a time, in batches, the same however often.

MLflow is a view. What it holds of a journal is known by the number of lines and their hash; when a
journal was rewound below that (a killed run that continued from a checkpoint), the MLflow run is
deleted and written anew, because MLflow cannot take back a point. Points carry the time at which
they were logged, so a batch that was sent twice is one batch.
"""

import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.lock import Locked, exclusive
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.mlflow.connect import (
    Store,
    TrackingUnavailable,
    absolute,
    check_reachable,
    connect,
)
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

LOCK = ".mirror.lock"
WAIT_S = 60.0
BATCH = 990  # metrics in a request, which may hold 1000 things
SMALL_BATCH = 100  # params or tags in a request
MANY = 20  # runs looked up one by one; more are looked up together

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


class Writer:
    """Writes one root to one store; remembers what it has written, to skip what did not change.

    Args:
        root: directory of run directories.
        uri: of the store.
        experiment: name of the MLflow experiment.
        only_tracked: leave out runs that were started with tracking=none.
    """

    def __init__(self, root: Path, uri: str, experiment: str, only_tracked: bool = False) -> None:
        self.root = root.absolute()
        self.uri = absolute(uri)
        self.experiment = experiment
        self.only_tracked = only_tracked
        self._store: Store | None = None
        self._seen: dict[Path, Any] = {}

    def sync(self, runs: Sequence[RunDirectory] | None, wait_s: float) -> SyncReport:
        """See `mirror.sync`."""
        chosen = find_runs(self.root) if runs is None else list(runs)
        marks = {run.path: _signature(run) for run in chosen}
        plans = {path: _mark(path) for path in (self.root / schema.SWEEPS).rglob("*.json")}
        changed = [run for run in chosen if self._seen.get(run.path) != marks[run.path]]
        if any(self._seen.get(path) != mark for path, mark in plans.items()):
            changed = chosen  # a new sweep may be made of old runs
        if self.only_tracked:
            left_out = [run for run in changed if not _is_tracked(run)]
            self._seen |= {run.path: marks[run.path] for run in left_out}
            changed = [run for run in changed if run not in left_out]
        report = SyncReport(runs=len(chosen))
        if not changed:
            return report
        try:
            with exclusive(self.root / LOCK, wait_s):
                pass_ = _Pass(self._connected(), self.root, report)
                done = pass_.write(changed)
        except Locked:
            return SyncReport(runs=len(chosen), busy=True)
        except TrackingUnavailable:
            self._store = None
            raise
        self._seen |= {run.path: marks[run.path] for run in done} | plans
        return report

    def attach(self, sweep: str, paths: list[Path], wait_s: float) -> bool:
        """See `mirror.attach_report`."""
        try:
            with exclusive(self.root / LOCK, wait_s):
                pass_ = _Pass(self._connected(), self.root, SyncReport())
                parent = pass_.parent(sweep)
                for path in paths:
                    pass_.client.log_artifact(parent, str(path), "report")
        except Locked:
            return False
        return True

    def _connected(self) -> Store:
        if self._store is None:
            self._store = connect(self.uri, self.experiment)
        else:
            check_reachable(self.uri)
        return self._store


class _Pass:
    """One pass over run directories, under the lock."""

    def __init__(self, store: Store, root: Path, report: SyncReport) -> None:
        self.store = store
        self.client = store.client
        self.experiment = store.experiment
        self.root = root
        self.report = report
        self.plans = views.read_plans(root)
        self._parents: dict[str, str] = {}
        self._known: dict[str, list[Any]] | None = None

    def write(self, runs: Sequence[RunDirectory]) -> list[RunDirectory]:
        """Write the runs that can be, and the state of their sweeps; returns those written."""
        if len(runs) > MANY:
            self._known = {}
            for found in self.store.search(f"tags.{schema.TAG_KIND} = 'run'"):
                self._known.setdefault(found.data.tags.get(schema.TAG_UID, ""), []).append(found)
        done = []
        for run in runs:
            try:
                self._write_run(run)
                done.append(run)
            except Exception as error:
                self._check_store(error)
                self.report.problems.append(f"{run.path}: {' '.join(str(error).split())}")
        for sweep in self._parents:
            self._write_parent(sweep)
        return done

    # A run

    def _write_run(self, run: RunDirectory) -> None:
        state = run.state()  # first: what it says is then complete in the files
        journal = run.journal()
        sweeps = views.sweeps_of(self.plans, run)
        tags = views.tags(run, state, sweeps) | views.trial_tags(self.plans, run)
        for sweep in sweeps:
            self.parent(sweep)
        if sweeps:
            tags["mlflow.parentRunId"] = self.parent(run.run.get("sweep") or sweeps[0])
        found = self._find(views.uid(run))
        if found is not None and _was_rewound(found, journal):
            self.client.delete_run(found.info.run_id)
            found = None
        if found is None:
            found = self._create(run, tags)
        wrote = self._write_params(found, views.params(run.config()))
        wrote |= self._write_points(found, journal, state)
        wrote |= self._write_final(found, run)
        wrote |= self._write_tags(found, tags)
        wrote |= self._write_files(found, run, state)
        wrote |= self._write_status(found, state, run.status)
        self.report.changed += wrote

    def _find(self, uid: str) -> Any:
        """The MLflow run of a directory; of several (a lost answer), one, the others deleted."""
        if self._known is not None:
            runs = self._known.get(uid, [])
        else:
            kind = f"tags.{schema.TAG_KIND} = 'run'"
            runs = self.store.search(f"{kind} and tags.{schema.TAG_UID} = {_quoted(uid)}")
        if not runs:
            return None
        best, *others = sorted(runs, key=lambda r: (-_mirrored_lines(r), r.info.start_time or 0))
        for other in others:
            self.client.delete_run(other.info.run_id)
        return best

    def _create(self, run: RunDirectory, tags: dict[str, str]) -> Any:
        few = {k: v for k, v in tags.items() if not k.startswith(schema.TAG_DOCUMENT)}
        start = run.run.get("created")
        created = self.client.create_run(
            self.experiment,
            start_time=None if start is None else round(1000 * start),
            tags=dict(list(few.items())[:SMALL_BATCH]),
            run_name=run.name,
        )
        self.report.created += 1
        return created

    def _write_params(self, found: Any, params: dict[str, str]) -> bool:
        from mlflow.entities import Param

        new = [Param(k, v) for k, v in params.items() if k not in found.data.params]
        for batch in _batches(new, SMALL_BATCH):
            self._log(found, params=batch)
        return bool(new)

    def _write_points(self, found: Any, journal: list[dict[str, Any]], state: str) -> bool:
        """The points that MLflow does not have; a step that may still grow waits for the next."""
        from mlflow.entities import Metric, RunTag

        points = views.points(journal)
        if state in (schema.RUNNING, schema.QUEUED):
            points = points[:-1]
        points = [point for point in points if point.lines > _mirrored_lines(found)]
        if not points:
            return False
        digests = views.digests(journal)
        metrics: list[Any] = []
        for i, point in enumerate(points):
            metrics += [
                Metric(views.name_for(name), float(value), point.time, point.step)
                for name, value in point.values.items()
            ]
            following = len(points[i + 1].values) if i + 1 < len(points) else BATCH
            if len(metrics) + following <= BATCH:
                continue
            position = {
                schema.TAG_MIRRORED: point.step,
                schema.TAG_MIRRORED_LINES: point.lines,
                schema.TAG_MIRRORED_DIGEST: digests[point.lines - 1],
            }
            *first, last = _batches(metrics, BATCH)
            for batch in first:
                self._log(found, metrics=batch)
            self._log(found, metrics=last, tags=[RunTag(k, str(v)) for k, v in position.items()])
            self.report.values += len(metrics)
            metrics = []
        return True

    def _write_final(self, found: Any, run: RunDirectory) -> bool:
        from mlflow.entities import Metric

        result = run.result or {}
        step, time = int(result.get("step", 0)), views.settled(run)
        held = found.data.metrics  # an evaluation can be made again, and then counts
        new = [
            Metric(name, value, time, step)
            for name, value in views.final_metrics(run).items()
            if name not in held or not _same(held[name], value)
        ]
        for batch in _batches(new, BATCH):
            self._log(found, metrics=batch)
        self.report.values += len(new)
        return bool(new)

    def _write_tags(self, found: Any, tags: dict[str, str]) -> bool:
        from mlflow.entities import RunTag

        new = [RunTag(k, v) for k, v in tags.items() if found.data.tags.get(k) != v]
        for batch in _batches(new, SMALL_BATCH):
            self._log(found, tags=batch)
        return bool(new)

    def _write_files(self, found: Any, run: RunDirectory, state: str) -> bool:
        """Files that changed; those that grow, once the run stands still; the best at the end."""
        from mlflow.entities import RunTag

        names = list(_EARLY_FILES)
        if state not in (schema.RUNNING, schema.QUEUED):
            names += _LATE_FILES
        if state == schema.FINISHED:
            names += [_BEST, *_evaluated(run)]
        old = json.loads(found.data.tags.get(schema.TAG_MIRRORED_FILES, "{}"))
        now = {name: _mark(run.path / name) for name in names}
        new = {name: mark for name, mark in now.items() if mark and old.get(name) != mark}
        for name in new:
            folder = str(Path(name).parent)
            self.client.log_artifact(
                found.info.run_id, str(run.path / name), None if folder == "." else folder
            )
        if new:
            self._log(found, tags=[RunTag(schema.TAG_MIRRORED_FILES, dumps(old | new))])
        return bool(new)

    def _write_status(self, found: Any, state: str, status: dict[str, Any]) -> bool:
        """Last, so that a run which MLflow calls finished is there as a whole."""
        wanted = _STATUS[state]
        if found.info.status == wanted:
            return False
        if state in (schema.RUNNING, schema.QUEUED):
            self.client.update_run(found.info.run_id, status=wanted)
        else:
            end = round(1000 * (status.get("finished") or status.get("heartbeat") or 0.0)) or None
            self.client.set_terminated(found.info.run_id, status=wanted, end_time=end)
        return True

    # A sweep

    def parent(self, sweep: str) -> str:
        """Id of the parent run of a sweep, made when missing."""
        if sweep not in self._parents:
            runs = self.store.search(
                f"tags.{schema.TAG_KIND} = 'sweep' and tags.{schema.TAG_SWEEP} = {_quoted(sweep)}"
            )
            found = runs[0] if runs else None
            if found is None:
                tags = {schema.TAG_KIND: "sweep", schema.TAG_SWEEP: sweep}
                found = self.client.create_run(self.experiment, tags=tags, run_name=sweep)
            self._parents[sweep] = found.info.run_id
        return self._parents[sweep]

    def _write_parent(self, sweep: str) -> None:
        """Plan and status of a sweep: running, or how its cells ended."""
        plan = self.plans.get(sweep)
        found = self.client.get_run(self._parents[sweep])
        if plan is not None:
            self._write_tags(found, views.document_tags("plan", plan))
            path = self.root / schema.SWEEPS / f"{sweep}.json"
            mark = dumps({path.name: _mark(path)})
            if found.data.tags.get(schema.TAG_MIRRORED_FILES) != mark:
                self.client.log_artifact(found.info.run_id, str(path))
                self._write_tags(found, {schema.TAG_MIRRORED_FILES: mark})
        wanted = views.identities(plan) if plan is not None else set()
        states = set()
        for run in find_runs(self.root):
            try:
                own = run.run.get("sweep") == sweep
                if run.identity in wanted or (plan is None and own):
                    states.add(run.state())
                    wanted.discard(run.identity)
            except ValueError:
                continue  # reported where it is written
        if wanted:
            states.add(schema.INTERRUPTED)
        order = (
            schema.RUNNING,
            schema.QUEUED,
            schema.FAILED,
            schema.INTERRUPTED,
            schema.FINISHED,
            schema.PRUNED,
        )
        state = next((s for s in order if s in states), schema.QUEUED)
        self._write_status(found, state, {})

    # Small things

    def _log(self, found: Any, **entities: Any) -> None:
        self.client.log_batch(found.info.run_id, synchronous=True, **entities)

    def _check_store(self, error: Exception) -> None:
        """After an error of a run: is it the run, or does the store no longer answer?"""
        try:
            self.client.get_experiment(self.experiment)
        except Exception as second:
            raise TrackingUnavailable(
                f"MLflow stopped answering: {' '.join(str(second).split())[:300]}"
            ) from error


def _was_rewound(found: Any, journal: list[dict[str, Any]]) -> bool:
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


def _is_tracked(run: RunDirectory) -> bool:
    try:
        return run.config().get("tracking", {}) is not None
    except (ValueError, OSError):
        return True  # and reported as a problem


def _evaluated(run: RunDirectory) -> list[str]:
    """Files that came after the training: evaluations, and predictions of a few structures."""
    predicted = sorted((run.path / schema.PREDICTIONS).glob("*.npz"))
    return [str(p.relative_to(run.path)) for p in (*views.evaluation_files(run), *predicted)]


def _signature(run: RunDirectory) -> tuple[Any, ...]:
    files = (*_EARLY_FILES, *_LATE_FILES, schema.STATUS, _BEST, *_evaluated(run))
    return (run.state(), *(_mark(run.path / name) for name in files))


def _mark(path: Path) -> list[int] | None:
    """Size and time of a file; None when it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
