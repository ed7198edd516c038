"""Run directories mirrored to MLflow: one writer at a time, in batches, the same however often.

MLflow is a view. What it holds of a journal is known by the number of lines and their hash; when a
journal was rewound below that (a killed run that continued from a checkpoint), the MLflow run is
deleted and written anew, because MLflow cannot take back a point. Points carry the time at which
they were logged, so a batch that was sent twice is one batch.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    unanswered,
)
from atomsweep.tracking.mlflow.memory import Memory
from atomsweep.tracking.mlflow.plans import Plans, mark_of
from atomsweep.tracking.mlflow.run_writer import (
    RunWriter,
    SyncReport,
    quoted,
    signature,
    was_rewound,
)
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

LOCK = ".mirror.lock"
WAIT_S = 60.0
MANY = 200  # runs looked up one by one; for more all that the store has are listed
FEW = 3  # the same where nothing is remembered, so that the store is probably empty


@dataclass(frozen=True)
class Scope:
    """What a launch has to mirror: of a root, it knows of nothing else.

    Attributes:
        runs: names of run directories.
        sweep: whose cells are mirrored too.
    """

    runs: Sequence[str] = ()
    sweep: str | None = None


class Writer:
    """Writes one root to one store; what it has written is remembered and skipped (`Memory`).

    Args:
        root: directory of run directories.
        uri: of the store.
        experiment: name of the MLflow experiment.
        only_tracked: leave out runs that were started with tracking=none.
        scope: these runs only; None for all.
    """

    def __init__(
        self,
        root: Path,
        uri: str,
        experiment: str,
        only_tracked: bool = False,
        scope: Scope | None = None,
    ) -> None:
        self.root = root.absolute()
        self.uri = absolute(uri)
        self.experiment = experiment
        self.only_tracked = only_tracked
        self.scope = scope
        self._store: Store | None = None
        self._seen: dict[str, str] = {}
        self._plans = Plans(self.root)

    def sync(self, runs: Sequence[RunDirectory] | None, wait_s: float) -> SyncReport:
        """See `mirror.sync`."""
        problems: list[str] = []
        chosen = self._chosen(problems) if runs is None else list(runs)
        self._plans.refresh()
        marks = {run.name: self._mark(run) for run in chosen}
        report = SyncReport(runs=len(chosen), problems=problems)
        if not self._changed(chosen, marks):
            return report
        try:
            with exclusive(self.root / LOCK, wait_s):
                store = self._connected()
                memory = Memory(self.root, self.uri, store)
                self._seen |= memory.read()
                changed = self._changed(chosen, marks)
                if not changed:
                    return report
                listed = len(changed) > (MANY if self._seen else FEW)
                pass_ = _Pass(store, self.root, self._plans, report)
                done = pass_.write(changed, listed)
                mirrored = {run.name: marks[run.name] for run in done}
                self._seen |= mirrored
                memory.add(mirrored)
        except Locked:
            return SyncReport(runs=len(chosen), busy=True)
        except TrackingUnavailable:
            self._store, self._seen = None, {}  # it may be another one when it is back
            raise
        return report

    def _chosen(self, problems: list[str]) -> list[RunDirectory]:
        if self.scope is None:
            return find_runs(self.root, problems)
        found = [RunDirectory(self.root / name) for name in self.scope.runs]
        found = [run for run in found if (run.path / schema.RUN).is_file()]
        if self.scope.sweep is not None:
            self._plans.refresh()
            found += [run for run in self._plans.runs_of(self.scope.sweep) if run is not None]
        return found

    def _changed(
        self, runs: Sequence[RunDirectory], marks: Mapping[str, str]
    ) -> list[RunDirectory]:
        """Runs that have something to tell, as far as is remembered."""
        changed = [run for run in runs if self._seen.get(run.name) != marks[run.name]]
        if not self.only_tracked:
            return changed
        left_out = [run for run in changed if not _is_tracked(run)]
        self._seen |= {run.name: marks[run.name] for run in left_out}
        return [run for run in changed if run not in left_out]

    def _mark(self, run: RunDirectory) -> str:
        """What changes when a run, or a sweep that has it as a cell, has something new to tell."""
        try:
            cells = dict(self._plans.cells_of(run.identity))
        except (ValueError, OSError):
            cells = {}  # and told where it is written
        text = dumps([signature(run), cells])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def attach(self, sweep: str, paths: list[Path], wait_s: float) -> bool:
        """See `mirror.attach_report`."""
        try:
            with exclusive(self.root / LOCK, wait_s):
                self._plans.refresh()
                pass_ = _Pass(self._connected(), self.root, self._plans, SyncReport())
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

    def __init__(self, store: Store, root: Path, plans: Plans, report: SyncReport) -> None:
        super().__init__(store, report)
        self.root = root
        self.plans = plans
        self._parents: dict[str, str] = {}

    def write(self, runs: Sequence[RunDirectory], listed: bool) -> list[RunDirectory]:
        """Write the runs that can be, and the state of their sweeps; returns those written.

        Args:
            runs: that have something to tell.
            listed: find what the store has of them in a list of all.
        """
        if listed:
            self.known = {}
            for found in self.store.search(f"tags.{schema.TAG_KIND} = 'run'"):
                self.known.setdefault(found.data.tags.get(schema.TAG_UID, ""), []).append(found)
        done = []
        for run in runs:
            try:
                self._write_run(run)
                done.append(run)
            except Exception as error:
                self.forget()
                self._check_store(error)
                self.report.problems.append(f"{run.path}: {' '.join(str(error).split())}")
        for sweep in self._parents:
            self._write_parent(sweep)
        return done

    def _write_run(self, run: RunDirectory) -> None:
        state = run.state()  # first: what it says is then complete in the files
        journal = run.journal()
        sweeps = self.plans.sweeps_of(run)
        tags = views.tags(run, state, sweeps) | self.plans.trial_tags(run)
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
        self.flush(found)
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
        plan = self.plans.named.get(sweep)
        found = self.client.get_run(self._parents[sweep])
        states = set()
        if plan is not None:
            self.write_tags(found, views.document_tags("plan", plan))
            path = self.plans.path_of(sweep)
            mark = dumps({path.name: mark_of(path)})
            if found.data.tags.get(schema.TAG_MIRRORED_FILES) != mark:
                self.client.log_artifact(found.info.run_id, str(path))
                self.write_tags(found, {schema.TAG_MIRRORED_FILES: mark})
            self.flush(found)
            for run in self.plans.runs_of(sweep):
                states.add(schema.INTERRUPTED if run is None else run.state())
        else:
            for run in find_runs(self.root):
                if run.run.get("sweep") == sweep:
                    states.add(run.state())
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
            raise unanswered(second) from error


def _is_tracked(run: RunDirectory) -> bool:
    try:
        return run.config().get("tracking", {}) is not None
    except (ValueError, OSError):
        return True  # and reported as a problem
