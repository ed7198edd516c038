"""What a study leaves for others: its plan with all trials, and the best one as an experiment.

Both are derived from Optuna's storage and written anew after every change. The plan has the form of
any sweep's, so that status, MLflow and reports take trials for the cells that they are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomsweep.launch.plan import plan_path
from atomsweep.launch.study.driver import CELLS
from atomsweep.launch.study.storage import AGAIN, MESSAGE
from atomsweep.sweep.file import key_of
from atomsweep.sweep.study import StudyFile
from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, read_text, read_yaml, write_atomic
from atomsweep.tracking.identity import NEUTRAL_KEYS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

AFTER = ("ablation",)  # groups that `conf/config.yaml` composes after an experiment

STATES = {  # Optuna's word → ours
    "COMPLETE": "complete",
    "PRUNED": schema.PRUNED,
    "FAIL": schema.FAILED,
    "RUNNING": schema.RUNNING,
    "WAITING": schema.QUEUED,
}


def write_plan(
    study: "Study",
    statement: StudyFile,
    root: Path,
    name: str,
    wanted: int,
    about: Mapping[str, Any],
) -> Path:
    """Write the plan of a study: its cells, and `study`, what it wants and what became of it.

    Args:
        study: as it is.
        statement: its file.
        root: where runs are.
        name: of the study.
        wanted: number of trials.
        about: what the plan says besides, from `about_launch`.
    """
    trials = study.get_trials(deepcopy=False)
    front = best_trials(study)
    content = {
        "schema": schema.SCHEMA_VERSION,
        "sweep": name,
        **about,
        "title": statement.title,
        "groups": {},
        "metrics": [n.rpartition("/")[2] for n in statement.objectives if "/" in n],
        "cells": _cells(trials),
        schema.STUDY: {
            "objectives": dict(statement.objectives),
            "constraints": list(statement.constraints),
            "space": {k: p.model_dump(exclude_none=True) for k, p in statement.space.items()},
            "sampler": statement.sampler.model_dump(),
            "pruner": statement.pruner.model_dump(),
            "seeds": list(statement.seeds),
            "wanted": wanted,
            "best": [trial.number for trial in front],
            "trials": [_trial(trial) for trial in trials],
        },
    }
    path = plan_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dumps(content, indent=1) + "\n")
    return path


def about_launch(argv: Sequence[str], command: str) -> dict[str, Any]:
    """How a study was launched, so that `retry` can do it again."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "argv": [str(Path(argv[0]).absolute()), *argv[1:]],
        "directory": str(Path.cwd()),
    }


def _cells(trials: "Iterable[FrozenTrial]") -> list[dict[str, Any]]:
    """Runs of all trials, the newest trial's for a point that was tried twice."""
    cells = [cell for trial in trials for cell in trial.user_attrs.get(CELLS, [])]
    return list({cell["identity"]: cell for cell in cells}.values())


def _trial(trial: "FrozenTrial") -> dict[str, Any]:
    ended = trial.datetime_complete
    return {
        "number": trial.number,
        "state": STATES[trial.state.name],
        "params": dict(trial.params),
        "values": list(trial.values) if trial.state.name == "COMPLETE" else None,
        "constraints": dict(trial.constraints),
        "feasible": feasible(trial),
        "intermediate": {str(step): value for step, value in trial.intermediate_values.items()},
        "identities": [cell["identity"] for cell in trial.user_attrs.get(CELLS, [])],
        "started": f"{trial.datetime_start or ''}",
        "ended": f"{ended or ''}",
        "message": trial.user_attrs.get(MESSAGE, ""),
        AGAIN: trial.user_attrs.get(AGAIN),
    }


# The best


def feasible(trial: "FrozenTrial") -> bool:
    """Whether all constraints hold, as far as they are known."""
    return all(violation <= 0 for violation in trial.constraints.values())


def best_trials(study: "Study") -> "list[FrozenTrial]":
    """Feasible trials that no other is better than in every objective; first the best of the first.

    With one objective that is one trial.
    """
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    signs = [1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions]
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    losses = {
        trial.number: [s * v for s, v in zip(signs, trial.values, strict=True)]
        for trial in done
        if feasible(trial)
    }
    front = [
        trial
        for trial in done
        if trial.number in losses
        and not any(
            _dominates(other, losses[trial.number])
            or (number < trial.number and other == losses[trial.number])
            for number, other in losses.items()
        )
    ]
    return sorted(front, key=lambda trial: losses[trial.number])


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def experiment_name(study: str) -> str:
    """`hpo_forcenet_best` of `hpo/forcenet`."""
    return "".join(c if c.isalnum() else "_" for c in study) + "_best"


def write_best(
    study: "Study", statement: StudyFile, name: str, conf: Path, groups: Collection[str]
) -> Path | None:
    """Write the best trial as an option of `experiment`, `<study>_best`; None without one.

    `atomsweep run experiment=<study>_best` is then the trial's first run, identity included. The
    option lies with the runs of its root, where Hydra finds it; two roots never share one.

    Args:
        study: as it is.
        statement: its file.
        name: of the study.
        conf: folder of the option's group, `<root>/_sweeps/conf`.
        groups: names of all config groups.
    """
    front = best_trials(study)
    if not front or CELLS not in front[0].user_attrs:
        return None
    best = front[0]
    cells = best.user_attrs[CELLS]
    path = conf / "experiment" / f"{experiment_name(name)}.yaml"
    told = ", ".join(
        f"{n} = {v:.6g}" for n, v in zip(statement.objectives, best.values, strict=True)
    )
    seeds = ", ".join(str(cell["seed"]) for cell in cells)
    head = [
        "@package _global_",
        f"Best of study {name}: trial {best.number}, {told} (mean over seeds {seeds})",
        f"Identities {', '.join(cell['identity'] for cell in cells)}; written by the study, which",
        f"replaces this file when it finds better ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)",
    ]
    beside = [o for o in cells[0]["overrides"] if key_of(o) in AFTER]
    head.append(" ".join(["Train it: atomsweep run", f"experiment={path.stem}", *beside]))
    if len(front) > 1:
        head.append(f"The best in {statement.metric} of {len(front)} on the Pareto front")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"# {line}\n" for line in head)
    body = yaml.safe_dump(experiment(cells[0]["overrides"], groups), sort_keys=False)
    old = read_text(path) if path.exists() else ""
    if _without_time(old) != _without_time(text + body):
        write_atomic(path, text + body)
    return path


def _without_time(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if "replaces this file" not in line)


def experiment(overrides: Sequence[str], groups: Collection[str]) -> dict[str, Any]:
    """An experiment file's content that does what `overrides` do.

    Args:
        overrides: of a cell; left out is what does not change the science, and groups that an
            experiment cannot choose, which are typed beside it.
        groups: names of config groups.

    Raises:
        ValueError: an override removes something, which a file cannot say.
    """
    defaults: list[Any] = []
    content: dict[str, Any] = {}
    for override in overrides:
        if override.startswith("~"):
            raise ValueError(f"a config file cannot say {override}")
        key, _, value = override.lstrip("+").partition("=")
        if key_of(override) == "experiment":
            defaults.insert(0, value)
        elif key_of(override) in AFTER:
            continue
        elif key_of(override) in groups:
            defaults.append({f"override /{key}": value})
        elif not _neutral(key):
            *path, last = key.split(".")
            node = content
            for part in path:
                node = node.setdefault(part, {})
            node[last] = read_yaml(value)
    return {**({"defaults": [*defaults, "_self_"]} if defaults else {}), **content}


def _neutral(key: str) -> bool:
    parts = key.split(".")
    names = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return any(name in NEUTRAL_KEYS and name not in ("data", "experiment") for name in names)
