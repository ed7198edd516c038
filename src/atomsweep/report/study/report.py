"""What a report says of a study: trials, the best, what mattered, in words and grids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from atomsweep import console
from atomsweep.report.read.runs import Runs
from atomsweep.report.read.tidy import records
from atomsweep.report.read.values import as_float
from atomsweep.report.study.importance import ENOUGH, importances
from atomsweep.report.study.trials import (
    COMPLETE,
    PARAM,
    VALUE,
    ended,
    intermediate,
    repeated,
    trials_df,
)
from atomsweep.report.tables import grids, spelled
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.tracking import schema


class NothingComplete(LookupError):
    """No trial has a value; the message says in which state the trials are."""


@dataclass
class StudyReport:
    """Everything that a report says of a study.

    Attributes:
        trials: one row per trial: number, state, `param.*`, `value.*`, feasible, best, steps,
            device_seconds, identities, message.
        importance: key, importance (they sum to 1), best first; empty where trials are too few.
        weighed: what the importances are of, in words.
        weighed_trials: of how many trials.
        curves: number, step, value, state: intermediate values.
    """

    name: str
    heading: str
    objectives: Mapping[str, str]
    constraints: Sequence[str]
    space: Mapping[str, Mapping[str, Any]]
    wanted: int
    trials: pd.DataFrame
    importance: pd.DataFrame
    weighed: str
    weighed_trials: int
    curves: pd.DataFrame
    provenance: pd.DataFrame
    command: str | None
    source: str
    problems: list[str] = field(default_factory=list)
    gaps: Sequence[Any] = ()  # a study has no cell that must be filled

    @property
    def few(self) -> bool:
        """Whether the trials are too few to rely on importances."""
        return self.weighed_trials < ENOUGH

    @property
    def first(self) -> str:
        """The objective that names the best trial."""
        return next(iter(self.objectives))

    @property
    def complete(self) -> bool:
        """The study has its trials, and nothing contradicts."""
        return not self.problems and len(ended(self.trials)) >= self.wanted

    @property
    def text(self) -> str:
        """Summary and trials: what a terminal shows."""
        return "\n\n".join(
            [f"{self.heading} · {self.name}", self.summary, grids.markdown(self.grid)]
        )

    @cached_property
    def summary(self) -> str:
        """The findings in a few sentences."""
        states = self.trials["state"].value_counts()
        told = ", ".join(f"{n} {state}" for state, n in states.items())
        sentences = [f"{len(self.trials)} of {self.wanted} trials: {told}."]
        best = self.trials[self.trials["best"]].iloc[0]
        values = ", ".join(f"{o} {spelled.number(best[VALUE + o])}" for o in self.objectives)
        sentences.append(f"Best: trial {best['number']}, {values} ({self.point(best)}).")
        begun = self.trials[self.trials["number"] == 0].iloc[0]
        if begun["state"] == COMPLETE and begun["number"] != best["number"]:
            ratio = best[VALUE + self.first] / begun[VALUE + self.first]
            sentences.append(
                f"That is {spelled.times(ratio)} the first trial's "
                f"{spelled.number(begun[VALUE + self.first])} ({self.point(begun)})."
            )
        if len(self.objectives) > 1:
            sentences.append(f"{int(self.trials['best'].sum())} trials are on the Pareto front.")
        return " ".join(sentences)

    def point(self, trial: Mapping[str, Any] | pd.Series) -> str:
        """What a trial chose, in words."""
        return ", ".join(f"{key} {shown(trial[PARAM + key])}" for key in self.space)

    @cached_property
    def grid(self) -> Grid:
        """All trials, the best first, then by value; those without one last."""
        header = ["Trial", "State", *self.space, *self.objectives, "Steps", "Device time"]
        rows = []
        better = self.objectives[self.first] == "minimize"
        df = self.trials.sort_values(
            VALUE + self.first, ascending=better, na_position="last", kind="stable"
        )
        for trial in records(df):
            best = bool(trial["best"])
            state = trial["state"] if trial["feasible"] else f"{trial['state']}, not feasible"
            rows.append(
                [
                    Text(str(trial["number"]), best),
                    Text(state),
                    *(Text(shown(trial[PARAM + key])) for key in self.space),
                    *(
                        Text(spelled.number(as_float(trial[VALUE + o])), best)
                        for o in self.objectives
                    ),
                    Text(spelled.count(as_float(trial["steps"]))),
                    Text(console.duration(as_float(trial["device_seconds"]))),
                ]
            )
        return Grid(header, rows, "ll" + "l" * len(self.space) + "r" * (len(self.objectives) + 2))


def study_of(runs: Runs, words: Sequence[str]) -> str | None:
    """The name of the study that is asked for; None where it is a table or a filter."""
    if len(words) != 1 or "=" in words[0]:
        return None
    names = runs.sweeps()
    name = names[0] if words[0] == "latest" and names else words[0]
    return name if schema.STUDY in (runs.plans.get(name) or {}) else None


def build_study(runs: Runs, name: str) -> StudyReport:
    """The report on a study.

    Raises:
        NothingComplete: no trial has a value.
    """
    df = runs.sweep(name)
    plan = runs.plans[name]
    study = plan[schema.STUDY]
    trials = trials_df(study, df)
    if not (trials["state"] == COMPLETE).any():
        states = ", ".join(f"{n} {s}" for s, n in trials["state"].value_counts().items())
        raise NothingComplete(f"no trial of {name} is complete ({states or 'no trials'})")
    importance, weighed, weighed_trials = importances(study)
    failed: dict[str, list[str]] = {}  # by message: many trials may fail of one cause
    for trial in records(trials):
        if trial["state"] == schema.FAILED and trial["number"] not in repeated(study):
            failed.setdefault(str(trial["message"]), []).append(str(trial["number"]))
    problems = [
        *runs.problems,
        *(
            f"trial {numbers[0]} has failed: {message}"
            if len(numbers) == 1
            else f"trials {', '.join(numbers)} have failed: {message}"
            for message, numbers in failed.items()
        ),
    ]
    return StudyReport(
        name=name,
        heading=str(plan.get("title") or name),
        objectives=dict(study["objectives"]),
        constraints=list(study["constraints"]),
        space=dict(study["space"]),
        wanted=int(study["wanted"]),
        trials=trials,
        importance=importance,
        weighed=weighed,
        weighed_trials=weighed_trials,
        curves=intermediate(study),
        provenance=df,
        command=df.attrs.get("command"),
        source=runs.source,
        problems=problems,
    )


def shown(value: Any) -> str:
    """A value that a trial chose: four digits of a number, – for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return spelled.NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def importance_grid(report: StudyReport) -> Grid:
    """Keys and their shares."""
    rows = [[row["key"], f"{row['importance']:.2f}"] for row in records(report.importance)]
    return grids.plain(["Parameter", "Importance"], rows, "lr")
