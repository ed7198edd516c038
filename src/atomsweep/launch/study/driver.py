"""The driver of a study: asks for trials, reads how their runs go, stops the hopeless, tells.

A trial is one run for each seed, of ordinary identity, in ordinary run directories. The driver is
the `feed` of an executor (`launch.local.pool`, `launch.slurm.jobs`): called again and again with
what has ended, it returns what is to run. All that it knows is in the storage and in the run
directories, so another process can take over after any kill.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomsweep.build import UserError
from atomsweep.launch.outcome import Outcome
from atomsweep.launch.plan import Cell, entry_of
from atomsweep.launch.study import storage as study_store
from atomsweep.launch.study.storage import MESSAGE, Point
from atomsweep.launch.survey import ALL, NONE, STALE
from atomsweep.sweep.study import OF_RESULT, StudyFile
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_lines
from atomsweep.tracking.restart import restart
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.state import state_of

if TYPE_CHECKING:
    from optuna import Study, Trial

log = logging.getLogger(__name__)

CELLS = "cells"  # attribute of a trial: its runs, as plans list them
FAILED_IN_A_ROW = 5  # trials after which no new one is begun: the next would fail alike
ASKING_SECONDS = 1.0  # of one call: the executor looks after its processes in between

Compose = Callable[[Point, int], Cell]
"""Values of the space's keys and a seed → the cell; a UserError where they do not fit."""
Check = Callable[[Cell], int]
"""Build a cell's model; returns its trainable parameters, 0 where that cannot be known."""


@dataclass
class Active:
    """A trial that is not over."""

    trial: "Trial"
    runs: list[RunDirectory]
    cells: list[Cell]
    tries: dict[Path, int] = field(default_factory=dict)
    reported: int = -1  # last step that Optuna was told of
    journals: dict[Path, tuple[Any, dict[int, float]]] = field(default_factory=dict)


@dataclass
class Driver:
    """One launch of a study.

    Attributes:
        statement: the file, with what was typed.
        study: opened under the driver's lock, its pruner set.
        name: of the study.
        root: where runs are.
        command: what the user typed.
        compose: makes cells.
        check: builds them.
        parallel: trials at once.
        rerun: word of `survey`: whether failed trials are repeated, stale runs made again.
        changed: called after every change of the study.
        ends: states after which a trial is not gone on with.
    """

    ends: ClassVar[tuple[str, ...]] = (schema.FINISHED, schema.PRUNED)

    statement: StudyFile
    study: "Study"
    name: str
    root: Path
    command: str
    compose: Compose
    check: Check
    parallel: int
    rerun: str = "failed"
    changed: Callable[[], None] = lambda: None
    active: dict[int, Active] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.busy: set[Path] = set()  # handed to the executor
        self.failed_in_a_row, self.last_failure = 0, ""
        self.until = math.inf
        if self.statement.timeout is not None:
            self.until = time.monotonic() + 60 * self.statement.timeout
        if self.statement.trials is not None:
            self.wanted = self.statement.trials
        else:
            self.wanted = study_store.grid_size(self.statement)
        self._to_adopt = self._numbers("RUNNING")
        if self.rerun != NONE and (again := study_store.enqueue_failed(self.study)):
            log.info("%d failed trials are repeated", again)

    # What an executor calls

    def __call__(self, ended: Mapping[Path, Outcome]) -> list[RunDirectory]:
        """Take in how runs ended and go, settle trials, begin others; returns what is to run.

        Raises:
            UserError: so many trials in a row have failed that another would be lost too.
        """
        self.busy -= ended.keys()
        wanted: list[RunDirectory] = []
        for active in list(self.active.values()):
            wanted += self._follow(active, ended)
        asking_ends = time.monotonic() + ASKING_SECONDS
        while (trial := self._next()) is not None:
            wanted += self._begin(trial)
            if (wanted or self.busy) and time.monotonic() > asking_ends:
                break  # and never with empty hands, which would be the end of the study
        wanted = [run for run in {r.path: r for r in wanted}.values() if self._free(run)]
        self.busy |= {run.path for run in wanted}
        return wanted

    def _free(self, run: RunDirectory) -> bool:
        return run.path not in self.busy

    # Beginning

    def _next(self) -> "Trial | None":
        """A trial that a driver before this one left, else a new one if there is room."""
        if self._to_adopt:
            return study_store.adopt(self.study, self.statement, self._to_adopt.pop(0))
        if len(self.active) >= self.parallel or time.monotonic() >= self.until:
            return None
        if self.failed_in_a_row >= FAILED_IN_A_ROW:
            if self.active:
                return None
            raise UserError(
                f"{self.failed_in_a_row} trials in a row have failed, the last with "
                f"{self.last_failure!r}; mend that, then the same command goes on"
            )
        begun = self.count() - len(self._numbers("WAITING"))
        if begun >= self.wanted:
            return None
        return study_store.ask(self.study, self.statement)

    def _begin(self, trial: "Trial") -> list[RunDirectory]:
        """Make the runs of a trial, or find them; returns those that are to be trained."""
        point = dict(trial.params)
        try:
            cells = [self.compose(point, seed) for seed in self.statement.seeds]
            parameters = self.check(cells[0])
        except UserError as error:
            self._end(trial, "FAIL", str(error))
            return []
        runs = [cell.create(self.root, self.name, self.command) for cell in cells]
        active = Active(trial, runs, cells)
        trial.set_user_attr(
            CELLS,
            [
                {**entry_of(cell, run, parameters or None), schema.TRIAL: trial.number}
                for cell, run in zip(cells, runs, strict=True)
            ],
        )
        if parameters and (broken := self._broken({"parameters": float(parameters)})):
            self._constrain(trial, {"parameters": float(parameters)})
            self._end(trial, "PRUNED", f"{broken} does not hold: {parameters}")
            return []
        flags = [run.asked_to_stop or {} for run in runs]
        mine = [f for f in flags if (f.get("study"), f.get("trial")) == (self.name, trial.number)]
        if mine:  # by a driver that was killed then
            self._end(trial, mine[0]["state"], mine[0]["message"])
            return []
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        active.reported = max(frozen.intermediate_values, default=-1)
        self.active[trial.number] = active
        log.info("trial %d: %s", trial.number, _told(point))
        self.changed()
        for run in runs:
            if self.rerun in (STALE, ALL) and state_of(run) == schema.STALE:
                restart(run)
            elif run.state() == schema.PRUNED:  # an earlier trial or another study stopped it
                run.queue()
        return self._follow(active, {}) or self._to_train(active)

    def _to_train(self, active: Active) -> list[RunDirectory]:
        if active.trial.number not in self.active:
            return []
        return [run for run in active.runs if run.result is None and self._free(run)]

    # Following

    def _follow(self, active: Active, ended: Mapping[Path, Outcome]) -> list[RunDirectory]:
        """Look at the runs of a trial; returns those that are to be started again."""
        finished = all(run.result is not None for run in active.runs)
        if self._report(active, finished):
            self._stop(active, "PRUNED", "stopped by the pruner")
            return []
        if finished:
            self._complete(active)
            return []
        again = []
        for run in active.runs:
            outcome = ended.get(run.path)
            if outcome is None or outcome.state == schema.FINISHED:
                continue
            again.append(run)
            if outcome.state == schema.PRUNED:  # meant for an earlier trial of the same point
                run.queue()
                continue
            tries = active.tries[run.path] = active.tries.get(run.path, 0) + 1
            if tries > self.statement.retries:
                self._stop(active, "FAIL", f"{outcome.state}: {outcome.message}")
                return []
            log.info("trial %d: %s, %s; again", active.trial.number, run.name, outcome.message)
        return again

    def _report(self, active: Active, finished: bool) -> bool:
        """Tell Optuna the steps that all seeds have reached; whether the pruner has enough.

        A trial whose runs are finished, or have used their budget, is told to the end: stopping it
        would spare nothing, and others are compared with it.
        """
        if self.statement.pruner.name == "none":
            return False
        curves = [self._curve(active, run) for run in active.runs]
        # After the curves: a run says that its budget is used before it journals the last step
        ended = finished or all((run.status.get("fraction") or 0.0) >= 1.0 for run in active.runs)
        steps = set.intersection(*(set(curve) for curve in curves))
        for step in sorted(step for step in steps if step > active.reported):
            value = _mean([curve[step] for curve in curves])
            active.reported = step
            if not math.isfinite(value):
                continue  # the run will fail, or its result will
            active.trial.report(value, step)
            if active.trial.should_prune() and not ended:
                return True
        return False

    def _curve(self, active: Active, run: RunDirectory) -> dict[int, float]:
        """Step → objective, from the run's journal; read again only when that has changed."""
        path = run.path / schema.JOURNAL
        try:
            stat = path.stat()
        except FileNotFoundError:
            return {}
        mark = (stat.st_size, stat.st_mtime_ns)
        known, curve = active.journals.get(run.path, (None, {}))
        if mark != known:
            name = self.statement.metric
            lines = read_lines(path)
            curve = {int(line[schema.STEP]): float(line[name]) for line in lines if name in line}
            active.journals[run.path] = (mark, curve)
        return curve

    # Ending

    def _complete(self, active: Active) -> None:
        results = [run.result or {} for run in active.runs]
        constrained = [bound.value for bound in self.statement.bounds()]
        names = dict.fromkeys([*self.statement.objectives, *constrained])
        try:
            values = {name: _mean([value_of(result, name) for result in results]) for name in names}
        except KeyError as error:
            self._stop(active, "FAIL", f"the result has no {error.args[0]}")
            return
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            self._stop(active, "FAIL", f"{wrong[0]} is not a number")
            return
        self._constrain(active.trial, values)
        self.active.pop(active.trial.number)
        self.failed_in_a_row = 0
        self.study.tell(active.trial, [values[name] for name in self.statement.objectives])
        told = ", ".join(f"{name} {values[name]:.5g}" for name in self.statement.objectives)
        log.info("trial %d is complete: %s", active.trial.number, told)
        self.changed()

    def _stop(self, active: Active, state: str, message: str) -> None:
        """End a trial; what still trains for it alone gets a flag, and leaves at its next step."""
        number = active.trial.number
        others = {run.path for a in self.active.values() if a is not active for run in a.runs}
        for run in active.runs:
            if run.result is None and run.path not in others:
                run.ask_to_stop(study=self.name, trial=number, state=state, message=message)
        self._end(active.trial, state, message)

    def _end(self, trial: "Trial", state: str, message: str) -> None:
        from optuna.trial import TrialState

        self.active.pop(trial.number, None)
        trial.set_user_attr(MESSAGE, message)
        self.study.tell(trial, state=TrialState[state])
        self.failed_in_a_row = self.failed_in_a_row + 1 if state == "FAIL" else 0
        self.last_failure = message
        word = "has failed" if state == "FAIL" else "is pruned"
        log.info("trial %d %s: %s", trial.number, word, message)
        self.changed()

    def _constrain(self, trial: "Trial", values: Mapping[str, float]) -> None:
        for bound in self.statement.bounds():
            if bound.value in values:
                trial.set_constraint(bound.text, bound.violation(values[bound.value]))

    def _broken(self, values: Mapping[str, float]) -> str | None:
        """The first constraint that does not hold."""
        bounds = [bound for bound in self.statement.bounds() if bound.value in values]
        return next((b.text for b in bounds if b.violation(values[b.value]) > 0), None)

    # Counting

    def count(self) -> int:
        """Trials of the study, those that were repeated once."""
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) - len(study_store.superseded(self.study))

    def _numbers(self, state: str) -> list[int]:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False, states=(TrialState[state],))
        return [trial.number for trial in trials]


def value_of(result: Mapping[str, Any], name: str) -> float:
    """A value of a result that an objective or constraint names.

    Raises:
        KeyError: it has none of that name.
    """
    return float(result[name] if name in OF_RESULT else (result.get("metrics") or {})[name])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _told(point: Point) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in point.items()
    )
