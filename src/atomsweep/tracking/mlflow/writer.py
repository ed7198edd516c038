"""Run directories mirrored to MLflow: one writer at a time, in batches, the same however often.

MLflow is a view. What it holds of a journal is known by the number of lines and their hash; when a
journal was rewound below that (a killed run that continued from a checkpoint), the MLflow run is
deleted and written anew, because MLflow cannot take back a point. Points carry the time at which
they were logged, so a batch that was sent twice is one batch.
"""

import logging
from collections.abc import Sequence
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
from atomsweep.tracking.mlflow.run_writer import (
    RunWriter,
    SyncReport,
    mark_of,
    quoted,
    signature,
    was_rewound,
)
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

LOCK = ".mirror.lock"
WAIT_S = 60.0
MANY = 20  # runs looked up one by one; more are looked up together


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
        problems: list[str] = []
        chosen = find_runs(self.root, problems) if runs is None else list(runs)
        marks = {run.path: signature(run) for run in chosen}
        plans = {path: mark_of(path) for path in (self.root / schema.SWEEPS).rglob("*.json")}
        changed = [run for run in chosen if self._seen.get(run.path) != marks[run.path]]
        if any(self._seen.get(path) != mark for path, mark in plans.items()):
            changed = chosen  # a new sweep may be made of old runs
        if self.only_tracked:
            left_out = [run for run in changed if not _is_tracked(run)]
            self._seen |= {run.path: marks[run.path] for run in left_out}
            changed = [run for run in changed if run not in left_out]
        report = SyncReport(runs=len(chosen), problems=problems)
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


class _Pass(RunWriter):
    """One pass over run directories, under the lock."""

    def __init__(self, store: Store, root: Path, report: SyncReport) -> None:
        super().__init__(store, report)
        self.root = root
        self.plans = views.read_plans(root)
        self._parents: dict[str, str] = {}

    def write(self, runs: Sequence[RunDirectory]) -> list[RunDirectory]:
        """Write the runs that can be, and the state of their sweeps; returns those written."""
        if len(runs) > MANY:
            self.known = {}
            for found in self.store.search(f"tags.{schema.TAG_KIND} = 'run'"):
                self.known.setdefault(found.data.tags.get(schema.TAG_UID, ""), []).append(found)
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

    def _write_run(self, run: RunDirectory) -> None:
        state = run.state()  # first: what it says is then complete in the files
        journal = run.journal()
        sweeps = views.sweeps_of(self.plans, run)
        tags = views.tags(run, state, sweeps) | views.trial_tags(self.plans, run)
        for sweep in sweeps:
            self.parent(sweep)
        if sweeps:
            tags["mlflow.parentRunId"] = self.parent(run.run.get("sweep") or sweeps[0])
        found = self.find(views.uid(run))
        if found is not None and was_rewound(found, journal):
            self.client.delete_run(found.info.run_id)
            found = None
        if found is None:
            found = self.create(run, tags)
        wrote = self.write_params(found, views.params(run.config()))
        wrote |= self.write_points(found, journal, state)
        wrote |= self.write_final(found, run)
        wrote |= self.write_dataset(found, run)
        wrote |= self.write_tags(found, tags)
        wrote |= self.write_files(found, run, state)
        wrote |= self.write_status(found, state, run.status)
        self.report.changed += wrote

    # A sweep

    def parent(self, sweep: str) -> str:
        """Id of the parent run of a sweep, made when missing."""
        if sweep not in self._parents:
            runs = self.store.search(
                f"tags.{schema.TAG_KIND} = 'sweep' and tags.{schema.TAG_SWEEP} = {quoted(sweep)}"
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
            self.write_tags(found, views.document_tags("plan", plan))
            path = self.root / schema.SWEEPS / f"{sweep}.json"
            mark = dumps({path.name: mark_of(path)})
            if found.data.tags.get(schema.TAG_MIRRORED_FILES) != mark:
                self.client.log_artifact(found.info.run_id, str(path))
                self.write_tags(found, {schema.TAG_MIRRORED_FILES: mark})
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
        self.write_status(found, state, {})

    def _check_store(self, error: Exception) -> None:
        """After an error of a run: is it the run, or does the store no longer answer?"""
        try:
            self.client.get_experiment(self.experiment)
        except Exception as second:
            raise TrackingUnavailable(
                f"MLflow stopped answering: {' '.join(str(second).split())[:300]}"
            ) from error


def _is_tracked(run: RunDirectory) -> bool:
    try:
        return run.config().get("tracking", {}) is not None
    except (ValueError, OSError):
        return True  # and reported as a problem
