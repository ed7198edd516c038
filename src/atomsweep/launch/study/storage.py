"""A study in Optuna's storage: opened, asked for trials, told how they ended.

Only the driver, under its lock, writes it; jobs never see it. Optuna is imported inside: planning a
table needs none of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.build import UserError
from atomsweep.sweep.file import Scalar, spelt
from atomsweep.sweep.study import Parameter, StudyFile
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_file

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

AGAIN = "again"  # attribute of a trial: number of the failed one that it repeats
MESSAGE = "message"
SHARED = "configuration or data"
BASIS = "basis"  # attribute of a study: what must not change between launches

Point = dict[str, Scalar]  # key -> value


def journal_path(root: Path, name: str) -> Path:
    """The file that a study is kept in, unless it names a server."""
    return root / schema.PLANS / f"{name}.optuna.jsonl"


def open_study(statement: StudyFile, root: Path, name: str, shared: Sequence[str]) -> "Study":
    """The study of that name, made when it is not there. The caller holds the driver's lock.

    Args:
        statement: its file.
        root: where runs are.
        name: of the study.
        shared: identities, by this and earlier versions, of what all trials share: the
            configuration without any parameter.

    Raises:
        UserError: the storage cannot be used, or the study was begun as another one.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=_storage(statement.storage, journal_path(root, name)),
            study_name=name,
            directions=list(statement.objectives.values()),
            pruner=optuna.pruners.NopPruner(),
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
    except UserError:
        raise
    except Exception as error:  # of a driver of SQL or a server, of any kind
        text = " ".join(str(error).split())[:300]
        raise UserError(f"the storage of study {name} cannot be opened: {text}") from error
    basis = _basis(statement, shared[0])
    if statement.storage is not None:  # a server may be reached from several roots; one drives
        basis["root of runs"] = str(root)
    begun = study.user_attrs.get(BASIS)
    if begun is None:
        study.set_user_attr(BASIS, basis)
    elif changed := [
        key
        for key in basis
        if begun.get(key) != basis[key] and not (key == SHARED and begun.get(key) in shared)
    ]:
        raise UserError(
            f"study {name} was begun with other {', '.join(changed)}, and trials of the two cannot "
            f"be compared; go back to that, or begin another study with sweep={name}-2"
        )
    return study


def read_study(statement: StudyFile, root: Path, name: str) -> "Study | None":
    """The study as it is, for a plan; None where there is none yet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = journal_path(root, name)
    if statement.storage is None and not path.exists():
        return None
    with suppress(KeyError):  # no study of that name
        return optuna.load_study(study_name=name, storage=_storage(statement.storage, path))
    return None


def _storage(url: str | None, path: Path) -> "BaseStorage | str":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url is not None:
        return url
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def repair(root: Path, name: str) -> None:
    """Remove what a driver that was killed while it wrote leaves: half a line, and Optuna's lock.

    The caller holds the driver's lock, so nobody else writes.
    """
    path = journal_path(root, name)
    if not path.exists():
        return
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    raw = read_file(path)
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with path.open("r+b") as file:
            file.truncate(whole)


def _basis(statement: StudyFile, shared: str) -> dict[str, Any]:
    """What must stay the same for values of trials to be comparable."""
    space = {
        key: p.model_dump(exclude_none=True)
        if p.choices is None
        else {"choices": [spelt(value) for value in p.choices]}
        for key, p in statement.space.items()
    }
    return {
        SHARED: shared,
        "objectives": dict(statement.objectives),
        "constraints": list(statement.constraints),
        "space": space,
        "seeds": list(statement.seeds),
    }


# Asking


def ask(study: "Study", statement: StudyFile) -> "Trial":
    """The next trial: one that was enqueued, or a new one.

    Its point is a function of the sampler's seed, its number and what is known by then, so that a
    study that was stopped goes on as it would have, and does not begin its points anew.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
    if statement.sampler.name == "grid" and not waiting:
        again = sum(AGAIN in trial.user_attrs for trial in trials)
        study.enqueue_trial(grid_point(statement, len(trials) - again))
    study.sampler = _sampler(statement, waiting[0] if waiting else len(trials))
    trial = study.ask()
    suggest(trial, statement.space)
    return trial


def adopt(study: "Study", statement: StudyFile, number: int) -> "Trial":
    """A trial that another process asked for, its point completed if that was cut short."""
    import optuna

    study.sampler = _sampler(statement, number)
    frozen = study.get_trials(deepcopy=False)[number]
    trial = optuna.trial.Trial(study, frozen._trial_id)
    suggest(trial, statement.space)
    return trial


def suggest(trial: "Trial", space: Mapping[str, Parameter]) -> None:
    """Give a trial a value for every key that has none."""
    for key, parameter in space.items():
        if parameter.choices is not None:
            trial.suggest_categorical(key, parameter.choices)
            continue
        low, high, step = parameter.low, parameter.high, parameter.step
        assert low is not None
        assert high is not None
        if parameter.whole:
            trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=parameter.log)
        else:
            trial.suggest_float(key, float(low), float(high), step=step, log=parameter.log)


def enqueue(study: "Study", statement: StudyFile, default: Point) -> None:
    """The first trials that the file names, once."""
    for point in statement.enqueue:
        study.enqueue_trial(default if isinstance(point, str) else dict(point), skip_if_exists=True)


def enqueue_failed(study: "Study") -> int:
    """Every failed trial once more, unless that has been done; returns how many."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    done = superseded(study)
    failed = [t for t in trials if t.state == TrialState.FAIL and t.number not in done]
    for trial in failed:
        study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    return len(failed)


def superseded(study: "Study") -> set[int]:
    """Numbers of failed trials that another trial repeats."""
    return {
        trial.user_attrs[AGAIN]
        for trial in study.get_trials(deepcopy=False)
        if AGAIN in trial.user_attrs
    }


def grid_size(statement: StudyFile) -> int:
    """Number of points of a grid."""
    size = 1
    for parameter in statement.space.values():
        size *= len(parameter.points() or ())
    return size


def grid_point(statement: StudyFile, number: int) -> Point:
    """Point `number` of a grid, the last key running fastest."""
    point: Point = {}
    for key, parameter in reversed(statement.space.items()):
        values = parameter.points() or []
        number, i = divmod(number, len(values))
        point[key] = values[i]
    return {key: point[key] for key in statement.space}


def _sampler(statement: StudyFile, number: int) -> "BaseSampler":
    import optuna

    text = f"{statement.sampler.seed}/{number}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    if statement.sampler.name == "tpe":
        return optuna.samplers.TPESampler(
            n_startup_trials=statement.sampler.startup, seed=seed, constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(statement: StudyFile, eval_every: int, steps: int | None) -> "BasePruner":
    """The pruner, in steps of training.

    Args:
        statement: file of the study.
        eval_every: steps between evaluations, the resource that a first decision needs.
        steps: budget of a trial; None where it is not counted in steps.

    Raises:
        UserError: hyperband without a budget in steps.
    """
    from optuna import pruners

    asked = statement.pruner
    first = asked.first if asked.first is not None else eval_every
    if asked.name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=asked.factor)
    if asked.name == "hyperband":
        if steps is None or steps < first:
            raise UserError(
                f"hyperband needs engine.steps of at least pruner.first={first}, got {steps}"
            )
        return pruners.HyperbandPruner(first, steps, asked.factor)
    if asked.name == "median":
        return pruners.MedianPruner(n_startup_trials=asked.startup, n_warmup_steps=first - 1)
    return pruners.NopPruner()
