"""Study → report: trials, what mattered, history, Pareto front, slices; from its plan and runs.

The driver writes the plan of a study with all its trials in it (`atomsweep.launch.study.record`), so
a study is read like any sweep, from run directories or MLflow. Optuna only weighs parameters.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from atomsweep.report.figures import curves
from atomsweep.report.read.runs import Store
from atomsweep.report.read.tidy import as_float, frame_of, records
from atomsweep.report.study import figures as hpo_figures
from atomsweep.report.tables import grids as render
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPLETE = "complete"
PARAM = "param."  # + key: value that a trial chose
VALUE = "value."  # + objective: of a complete trial, mean over its seeds
FEW = 4  # complete trials under which nothing is said of importances
SHARE = 0.8  # of the trials must have reached a step at which they are compared


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
    curves: pd.DataFrame
    provenance: pd.DataFrame
    command: str | None
    source: str
    problems: list[str] = field(default_factory=list)
    gaps: Sequence[Any] = ()  # a study has no cell that must be filled

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
        return "\n\n".join([f"{self.heading} · {self.name}", self.summary, markdown(self.layout)])

    @cached_property
    def summary(self) -> str:
        """The findings in a few sentences."""
        states = self.trials["state"].value_counts()
        told = ", ".join(f"{n} {state}" for state, n in states.items())
        sentences = [f"{len(self.trials)} of {self.wanted} trials: {told}."]
        best = self.trials[self.trials["best"]].iloc[0]
        values = ", ".join(f"{o} {render.number(best[VALUE + o])}" for o in self.objectives)
        sentences.append(f"Best: trial {best['number']}, {values} ({self.point(best)}).")
        begun = self.trials[self.trials["number"] == 0].iloc[0]
        if begun["state"] == COMPLETE and begun["number"] != best["number"]:
            ratio = best[VALUE + self.first] / begun[VALUE + self.first]
            sentences.append(
                f"That is {render.times(ratio)} the first trial's "
                f"{render.number(begun[VALUE + self.first])} ({self.point(begun)})."
            )
        if len(self.objectives) > 1:
            sentences.append(f"{int(self.trials['best'].sum())} trials are on the Pareto front.")
        return " ".join(sentences)

    def point(self, trial: Mapping[str, Any] | pd.Series) -> str:
        """What a trial chose, in words."""
        return ", ".join(f"{key} {shown(trial[PARAM + key])}" for key in self.space)

    @cached_property
    def layout(self) -> Grid:
        """All trials, the best first, then by value; those without one last."""
        header = ["Trial", "State", *self.space, *self.objectives, "Steps", "Device time"]
        rows = []
        better = self.objectives[self.first] == "minimize"
        frame = self.trials.sort_values(
            VALUE + self.first, ascending=better, na_position="last", kind="stable"
        )
        for trial in records(frame):
            best = bool(trial["best"])
            state = trial["state"] if trial["feasible"] else f"{trial['state']}, not feasible"
            rows.append(
                [
                    Text(str(trial["number"]), best),
                    Text(state),
                    *(Text(shown(trial[PARAM + key])) for key in self.space),
                    *(
                        Text(render.number(as_float(trial[VALUE + o])), best)
                        for o in self.objectives
                    ),
                    Text(render.count(as_float(trial["steps"]))),
                    Text(render.duration(as_float(trial["device_seconds"]))),
                ]
            )
        return Grid(header, rows, "ll" + "l" * len(self.space) + "r" * (len(self.objectives) + 2))

    @cached_property
    def figures(self) -> "dict[str, tuple[Figure, str]]":
        """File name → drawing and caption."""
        return hpo_figures.figures(self)


def study_of(store: Store, words: Sequence[str]) -> str | None:
    """The name of the study that is asked for; None where it is a table or a filter."""
    if len(words) != 1 or "=" in words[0]:
        return None
    names = store.sweeps()
    name = names[0] if words[0] == "latest" and names else words[0]
    return name if schema.STUDY in (store.plans.get(name) or {}) else None


def build(store: Store, name: str) -> StudyReport:
    """The report on a study.

    Raises:
        NothingComplete: no trial has a value.
    """
    frame = store.sweep(name)
    plan = store.plans[name]
    study = plan[schema.STUDY]
    trials = trials_frame(study, frame)
    if not (trials["state"] == COMPLETE).any():
        states = ", ".join(f"{n} {s}" for s, n in trials["state"].value_counts().items())
        raise NothingComplete(f"no trial of {name} is complete ({states or 'no trials'})")
    importance, weighed = importances(study)
    failed: dict[str, list[str]] = {}  # by message: many trials may fail of one cause
    for trial in records(trials):
        if trial["state"] == schema.FAILED and trial["number"] not in repeated(study):
            failed.setdefault(str(trial["message"]), []).append(str(trial["number"]))
    problems = [
        *store.problems,
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
        curves=intermediate(study),
        provenance=frame,
        command=frame.attrs.get("command"),
        source=store.source,
        problems=problems,
    )


# Frames


def trials_frame(study: Mapping[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, see `StudyReport.trials`; device-seconds are those of its runs."""
    seconds = dict(zip(runs["identity"], runs["device_seconds"], strict=True))
    steps = dict(zip(runs["identity"], runs["step"], strict=True))
    rows = []
    for trial in study["trials"]:
        values = trial["values"] or [math.nan] * len(study["objectives"])
        identities = trial["identities"]
        rows.append(
            {
                "number": int(trial["number"]),
                "state": trial["state"],
                **{PARAM + key: trial["params"].get(key) for key in study["space"]},
                **{VALUE + o: v for o, v in zip(study["objectives"], values, strict=True)},
                "feasible": bool(trial["feasible"]),
                "best": trial["number"] in study["best"],
                "steps": _total(steps, identities),
                "device_seconds": _total(seconds, identities),
                "identities": " ".join(identities),
                "message": trial["message"],
            }
        )
    return pd.DataFrame(rows)


def history(trials: pd.DataFrame, objective: str, direction: str) -> pd.DataFrame:
    """number, value, best: complete trials in order, with the best feasible value so far."""
    done = trials[trials["state"] == COMPLETE].sort_values("number")
    value = done[VALUE + objective]
    counted = value.where(done["feasible"])
    best = counted.cummin() if direction == "minimize" else counted.cummax()
    return pd.DataFrame(
        {"number": done["number"], "value": value, "best": best.ffill()}
    ).reset_index(drop=True)


def intermediate(study: Mapping[str, Any]) -> pd.DataFrame:
    """number, step, value, state of everything that the pruner was told."""
    rows = [
        (trial["number"], int(step), float(value), trial["state"])
        for trial in study["trials"]
        for step, value in trial["intermediate"].items()
    ]
    return pd.DataFrame(rows, columns=["number", "step", "value", "state"])


def importances(study: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """Share of each key in what makes a trial good (PED-ANOVA), and of which values that is.

    Where trials were pruned, few are complete, and these are the good ones: trials are compared at
    the last step that most of them reached.

    Source: Watanabe et al., PED-ANOVA, arXiv:2304.10255, as Optuna computes it.
    """
    empty = pd.DataFrame({"key": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    objective = next(iter(study["objectives"]))
    ended_trials = [t for t in study["trials"] if t["state"] in (COMPLETE, schema.PRUNED)]
    trained = [t for t in ended_trials if t["values"] or t["intermediate"]]
    values = {t["number"]: t["values"][0] for t in trained if t["values"]}
    told = f"{objective} of complete trials"
    if len(values) < len(trained):
        steps = {int(step) for t in trained for step in t["intermediate"]}
        reached = {s: [t for t in trained if str(s) in t["intermediate"]] for s in steps}
        common = [s for s in steps if len(reached[s]) >= SHARE * len(trained)]
        if common:
            last = max(common)
            values = {t["number"]: t["intermediate"][str(last)] for t in reached[last]}
            told = f"{objective} at step {last}"
    if len(values) < FEW or len(set(values.values())) < 2:
        return empty, f"{len(values)} trials are too few to weigh parameters"
    found = _weigh(study, values)
    frame = pd.DataFrame({"key": list(found), "importance": list(found.values())})
    return frame, f"{told}, over {len(values)} trials"


def _weigh(study: Mapping[str, Any], values: Mapping[int, float]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    memory = optuna.create_study(direction=next(iter(study["objectives"].values())))
    space = {key: _distribution(about) for key, about in study["space"].items()}
    for trial in study["trials"]:
        if trial["number"] in values and set(trial["params"]) == set(space):
            memory.add_trial(
                optuna.trial.create_trial(
                    params=trial["params"],
                    distributions=space,
                    value=values[trial["number"]],
                )
            )
    return dict(optuna.importance.get_param_importances(memory))


def _distribution(about: Mapping[str, Any]) -> Any:
    from optuna import distributions

    if about.get("choices") is not None:
        return distributions.CategoricalDistribution(about["choices"])
    ends = [about[key] for key in ("low", "high", "step") if about.get(key) is not None]
    log = bool(about.get("log"))
    if all(isinstance(end, int) for end in ends):
        step = about.get("step") or 1
        high = about["low"] + (about["high"] - about["low"]) // step * step
        return distributions.IntDistribution(about["low"], high, log, step)
    return distributions.FloatDistribution(about["low"], about["high"], log, about.get("step"))


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that are over, failed ones included."""
    return trials[trials["state"].isin((COMPLETE, schema.PRUNED, schema.FAILED))]


def repeated(study: Mapping[str, Any]) -> set[int]:
    """Failed trials that another one repeats."""
    return {trial["again"] for trial in study["trials"] if trial.get("again") is not None}


def _total(of: Mapping[str, float], identities: Sequence[str]) -> float:
    known = [of[i] for i in identities if i in of and not math.isnan(of[i])]
    return sum(known) if known else math.nan


# Words and files


def shown(value: Any) -> str:
    """A value that a trial chose: four digits of a number, – for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return render.NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def importance_grid(report: StudyReport) -> Grid:
    """Keys and their shares."""
    rows = [[row["key"], f"{row['importance']:.2f}"] for row in records(report.importance)]
    return render.plain(["Parameter", "Importance"], rows, "lr")


def markdown(grid: Grid) -> str:
    """A Markdown table."""
    return render.markdown(grid)


def write(report: StudyReport, out: Path) -> Path:
    """Write the report into `out`; returns the page.

    report.html, report.md, trials.csv, runs.csv, importance.csv, table.tex, and each figure as SVG,
    PDF and PNG.
    """
    from atomsweep.report.study.page import page, text

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page(report), encoding="utf-8")
    (out / "report.md").write_text(text(report), encoding="utf-8")
    for frame, name in (
        (report.trials, "trials.csv"),
        (report.importance, "importance.csv"),
        (frame_of(records(report.provenance)), "runs.csv"),
    ):
        frame.to_csv(out / name, index=False, float_format="%.10g")
    caption = f"{report.heading}. {report.summary}"
    (out / "table.tex").write_text(render.latex(report.layout, caption, report.name), "utf-8")
    for name, (figure, _) in report.figures.items():
        curves.save(figure, out / name)
    return out / "report.html"
