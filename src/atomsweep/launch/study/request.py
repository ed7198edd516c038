"""A study launched: checked, driven here or on SLURM, its best configuration written."""

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.build import UserError
from atomsweep.console import duration
from atomsweep.launch.execute import Start, execute, room
from atomsweep.launch.plan import Cell, option_of, typed_command
from atomsweep.launch.preflight import check_all, check_one, prepare_data
from atomsweep.launch.study import record as study_record
from atomsweep.launch.study import storage as study_store
from atomsweep.launch.study.driver import Driver
from atomsweep.launch.study.storage import Point
from atomsweep.launch.survey import survey
from atomsweep.shipped import CONF, places
from atomsweep.sweep.file import key_of, spelt
from atomsweep.sweep.grid import sweep_name
from atomsweep.sweep.study import DEFAULT, StudyFile, with_search
from atomsweep.tracking import schema
from atomsweep.tracking.lock import Locked, exclusive
from atomsweep.tracking.mlflow.mirror import Scope, mirror

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


log = logging.getLogger(__name__)

ComposeOverrides = Callable[[list[str]], Cell]


@dataclass(frozen=True)
class Request:
    """A study as it was asked for.

    Attributes:
        statement: the file, with `search.…` of the command line.
        name: of the study.
        overrides: of all trials, the seed's and the space's keys apart.
        compose: overrides → cell.
    """

    statement: StudyFile
    name: str
    overrides: Sequence[str]
    compose: ComposeOverrides

    @classmethod
    def of(
        cls,
        statement: StudyFile,
        chosen: str,
        typed: Mapping[str, Sequence[str]],
        scale: str | None,
        search: Mapping[str, Any],
        compose: ComposeOverrides,
    ) -> "Request":
        """What a file and a command line ask for together; a key that is typed is not searched.

        Raises:
            UserError: several values were typed for a key, or nothing is left to search.
        """
        swept = [key for key, overrides in typed.items() if len(overrides) > 1]
        if swept:
            raise UserError(
                f"a study chooses values itself, but {swept[0]} was given several; name one, or "
                "put them into the space of its file"
            )
        name = sweep_name(chosen, statement, scale, typed)
        fixed = {key_of(key) for key in typed}
        if "seed" in fixed:
            seed = typed["seed"][0].partition("=")[2]
            if re.fullmatch(r"-?\d+", seed) is None:
                raise UserError(f"seed must be a whole number, got {seed!r}")
            statement = statement.model_copy(update={"seeds": [int(seed)]})
        space = {key: p for key, p in statement.space.items() if key_of(key) not in fixed}
        if not space:
            raise UserError("every key of the study was typed, so nothing is left to search")
        taken = fixed | {key_of(key) for key in space}
        shared = {key_of(o): o for o in statement.overrides_at(scale) if key_of(o) not in taken}
        own = [o for key, (o,) in typed.items() if key_of(key) != "seed"]
        statement = with_search(statement.model_copy(update={"space": space}), search)
        return cls(statement, name, [*own, *shared.values()], compose)

    def cell(self, point: Point, seed: int) -> Cell:
        """The run of a trial with one seed."""
        own = [f"{key}={spelt(value)}" for key, value in point.items()]
        return self.compose([*own, f"seed={seed}", *self.overrides])

    def default(self) -> Cell:
        """The configuration without any value of the space."""
        return self.cell({}, self.statement.seeds[0])


def run_study(request: Request, plan_only: bool, rerun: str, start: Start) -> int:
    """Check a study, then drive it until it has its trials, or only say how it stands.

    Args:
        request: what is wanted.
        plan_only: launch nothing.
        rerun: word that `check_rerun` passed: whether failed trials are repeated.
        start: from `warm_up`.

    Returns:
        Exit code: 0 if the study has a best trial and none failed, 1 otherwise, 130 after an
        interrupt.

    Raises:
        UserError: something cannot be built or does not fit, or another process drives the study.
    """
    default = request.default()
    root = Path(default.config["root"]).absolute()
    name = request.name
    log.info("study %s: %s", name, ", ".join(request.statement.space))
    parameters = _check(request, default, start.context, here=not plan_only)
    if plan_only:
        _tell_plan(request, default, root, name, parameters)
        return 0
    from atomsweep.launch.presence import launching

    lock = root / schema.PLANS / f"{name}.driver.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock))
        except Locked as error:
            raise UserError(
                f"study {name} is driven by process {error.holder.get('pid', '?')} on "
                f"{error.holder.get('host', '?')}; a study has one driver: wait for it, or stop it "
                f"with `atomsweep cancel {name}`"
            ) from error
        stack.enter_context(launching(root, name))
        driver = _driver(request, default, root, name, rerun, start.context)
        prepare_data(default.config)
        with mirror(default.config["tracking"], root, Scope(sweep=name)):
            try:
                execute([], default.config, start, driver)
            except KeyboardInterrupt:
                driver.changed()
                log.info("stopped; the same command continues")
                return 130
        if start.code is not None:
            start.code.warn_of_changes()
        return _conclude(driver, root)


def _driver(
    request: Request,
    default: Cell,
    root: Path,
    name: str,
    rerun: str,
    context: "ForkServerContext",
) -> Driver:
    statement, engine = request.statement, default.config["engine"]
    study_store.repair(root, name)
    study = study_store.open_study(statement, root, name, default.known_as)
    study.pruner = study_store.pruner(statement, engine["eval_every"], engine["steps"])
    needed = DEFAULT in statement.enqueue
    study_store.enqueue(study, statement, default_point(statement, default) if needed else {})
    driver = Driver(
        statement=statement,
        study=study,
        name=name,
        root=root,
        command=typed_command(sys.argv),
        compose=request.cell,
        check=lambda cell: check_one(cell, context),
        parallel=_parallel(statement, default.config),
        rerun=rerun,
    )
    about = study_record.about_launch(sys.argv, typed_command(sys.argv))
    groups = {p.name for conf in places(CONF) for p in conf.iterdir() if p.is_dir()}
    groups |= set(default.choices)
    best = root / schema.PLANS / schema.OPTIONS

    def changed() -> None:
        study_record.write_plan(study, statement, root, name, driver.wanted, about)
        try:
            study_record.write_best(study, statement, name, best, groups)
        except (OSError, ValueError) as error:
            log.warning("the best configuration is not written: %s", error)

    driver.changed = changed
    changed()
    log.info("%d of %d trials, %d at a time", driver.count(), driver.wanted, driver.parallel)
    return driver


def _conclude(driver: Driver, root: Path) -> int:
    """Say how the study stands; returns the exit code."""
    study = driver.study
    done = [study_record.STATES[t.state.name] for t in study.get_trials(deepcopy=False)]
    told = ", ".join(f"{done.count(state)} {state}" for state in dict.fromkeys(done))
    log.info("study %s: %s", driver.name, told or "no trials")
    repeated = study_store.superseded(study)
    failed = [
        trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name == "FAIL" and trial.number not in repeated
    ]
    front = study_record.best_trials(study)
    for trial in front:
        values = ", ".join(
            f"{n} {v:.5g}" for n, v in zip(driver.statement.objectives, trial.values, strict=True)
        )
        log.info("best: trial %d, %s, %s", trial.number, values, trial.params)
    if front:
        best = study_record.experiment_name(driver.name)
        log.info("train it: atomsweep run experiment=%s%s", best, option_of(root, " root="))
    log.info("report: atomsweep report %s%s", driver.name, option_of(root))
    return int(bool(failed) or not (front or driver.active))


def default_point(statement: StudyFile, default: Cell) -> Point:
    """Values of the space's keys in the default configuration.

    Raises:
        UserError: one of them is not in the space.
    """
    point: Point = {}
    for key, parameter in statement.space.items():
        bare = key.lstrip("+")
        value: Any = default.choices.get(bare.partition("@")[0])
        if value is None:
            value = default.config
            for part in bare.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        if not parameter.has(value):
            raise UserError(
                f"enqueue: the {DEFAULT} configuration has {key}={spelt(value)}, which is not in "
                "the space; widen it, or leave enqueue out"
            )
        if parameter.choices is not None:
            value = next(v for v in parameter.choices if spelt(v) == spelt(value))
        point[key] = value
    return point


def _check(
    request: Request, default: Cell, context: "ForkServerContext", here: bool
) -> dict[str, int]:
    """Build the default configuration, and it with each choice or end of each key.

    Raises:
        UserError: one of them cannot be built, or the objective is not evaluated.
    """
    statement, engine = request.statement, default.config["engine"]
    split = statement.metric.partition("/")[0]
    if statement.pruner.name != "none" and split not in engine["eval_splits"]:
        raise UserError(
            f"a pruner needs {statement.metric} during training, but engine.eval_splits has only "
            f"{', '.join(engine['eval_splits'])}"
        )
    if DEFAULT in statement.enqueue:
        default_point(statement, default)
    probes = [
        request.cell({key: value}, statement.seeds[0])
        for key, parameter in statement.space.items()
        for value in parameter.ends()
    ]
    return check_all([default, *probes], context, here)


def _parallel(statement: StudyFile, config: Mapping[str, Any]) -> int:
    """Trials at once: as asked, else as many as their runs fill the machine or the array."""
    if statement.parallel is not None:
        return statement.parallel
    return max(1, -(-room(config) // len(statement.seeds)))


def _tell_plan(
    request: Request, default: Cell, root: Path, name: str, parameters: Mapping[str, int]
) -> None:
    """What there is of the study and what a launch would add."""
    statement = request.statement
    study = study_store.read_study(statement, root, name)
    for key, parameter in statement.space.items():
        if parameter.choices is not None:
            told = ", ".join(spelt(choice) for choice in parameter.choices)
        else:
            told = f"{parameter.low} … {parameter.high}{', logarithmic' if parameter.log else ''}"
        log.info("  %s: %s", key, told)
    trials = [] if study is None else study.get_trials(deepcopy=False)
    states = [study_record.STATES[trial.state.name] for trial in trials]
    for trial in study_record.best_trials(study) if study is not None else []:
        log.info("  best so far: trial %d, %s, %s", trial.number, trial.values, trial.params)
    wanted = statement.trials or study_store.grid_size(statement)
    repeated = 0 if study is None else len(study_store.superseded(study))
    left = max(0, wanted - len(trials) + repeated)
    (entry,) = survey([default], root, parameters)
    each = None if entry.seconds is None else entry.seconds * len(statement.seeds)
    cost = "of unknown cost: nothing alike has finished"
    if each is not None:
        cost = f"about {duration(left * each)} of device time at most, without pruning"
    had = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)) or "no trials"
    log.info(
        "study %s: %s; a launch adds %d trials of %d runs, %s",
        name,
        had,
        left,
        len(statement.seeds),
        cost,
    )
