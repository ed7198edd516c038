"""Drawings of a study: history, trials as they trained, importances, Pareto front, slices, lines.

The numbers come from `trials.py` and `importance.py`; here only positions in drawings are found.

Optuna's plots (`optuna.visualization.matplotlib`) are not used: they set pyplot's style for the
whole process, so that other drawings of a report would change; they mark neither pruned trials nor
the best; and their colours do not follow a page's theme.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from atomsweep.report.figures.style import GRID, INK, MUTED, SERIES, dress, plain_ticks
from atomsweep.report.study.report import StudyReport
from atomsweep.report.study.trials import COMPLETE, PARAM, VALUE, history
from atomsweep.report.tables import titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawing = tuple["Figure", str]  # and its caption

WIDTH, HEIGHT = 4.9, 3.3  # inches
SLICES = 3  # in a row
LIGHT = 0.35


def drawings(report: StudyReport) -> dict[str, Drawing]:
    """File name → drawing and caption, of all that can be drawn."""
    drawn = {"history": _history(report)}
    if not report.curves.empty:
        drawn["pruning"] = _pruning(report)
    if not report.importance.empty:
        drawn["importance"] = _importance(report)
    drawn["pareto"] = _pareto(report)
    drawn["slices"] = _slices(report)
    drawn["parallel"] = _parallel(report)
    return drawn


def _history(report: StudyReport) -> Drawing:
    figure, axes = _panel()
    points = history(report.trials, report.first, report.objectives[report.first])
    axes.plot(points["number"], points["value"], "o", color=SERIES[0], ms=3.6, alpha=0.7)
    axes.step(points["number"], points["best"], where="post", color=SERIES[1], lw=1.7)
    _whole_ticks(axes, len(report.trials))
    _log_if_wide(axes, points["value"])
    _name(axes, "trial", objective_title(report.first))
    return figure, "Complete trials (points) and the best feasible value so far (line)."


def _pruning(report: StudyReport) -> Drawing:
    figure, axes = _panel()
    for _, line in report.curves.groupby("number"):
        pruned = line["state"].iloc[0] == "pruned"
        colour, alpha = (MUTED, LIGHT) if pruned else (SERIES[0], 0.9)
        axes.plot(line["step"], line["value"], color=colour, alpha=alpha, lw=1.2)
        axes.plot(line["step"].iloc[-1:], line["value"].iloc[-1:], "o", color=colour, ms=2.8)
    _log_if_wide(axes, report.curves["value"])
    _name(axes, "step", objective_title(report.first))
    return figure, "Every trial as it trained; grey ones were stopped by the pruner."


def _importance(report: StudyReport) -> Drawing:
    figure, axes = _panel(left=0.42)
    shares = report.importance.iloc[::-1]
    axes.barh(shares["key"], shares["importance"], color=SERIES[0], height=0.6)
    axes.grid(False)
    for y, share in enumerate(shares["importance"]):
        axes.annotate(f" {share:.2f}", (share, y), va="center", color=MUTED, fontsize=8.5)
    axes.set_xlim(0, 1.12 * shares["importance"].max())
    few = f" of {report.weighed_trials} trials: a hint at most" * report.few
    _name(axes, "share", f"Importance{few}")
    return figure, f"PED-ANOVA of {report.weighed}."


def _pareto(report: StudyReport) -> Drawing:
    figure, axes = _panel()
    done = report.trials[report.trials["state"] == COMPLETE]
    names = list(report.objectives)
    second = "device_seconds"
    told = f"{objective_title(second)} (no objective of this study)"
    if len(names) > 1:
        second, told = VALUE + names[1], objective_title(names[1])
    x, y = done[second], done[VALUE + report.first]
    axes.plot(x, y, "o", color=SERIES[0], ms=3.6, alpha=0.7)
    best = done[done["best"]].sort_values(second)
    style = "-o" if len(best) > 1 else "o"
    axes.plot(best[second], best[VALUE + report.first], style, color=SERIES[1], ms=5, lw=1.2)
    _log_if_wide(axes, y)
    _name(axes, told, objective_title(report.first))
    front = "the Pareto front" if len(names) > 1 else "the best"
    return figure, f"Complete trials; orange: {front}."


def _slices(report: StudyReport) -> Drawing:
    from matplotlib.figure import Figure

    done = report.trials[report.trials["state"] == COMPLETE]
    keys = list(report.space)
    rows = -(-len(keys) // SLICES)
    figure = Figure(figsize=(WIDTH * 1.6, 2.1 * rows), layout="constrained")
    for place, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, SLICES, place)
        dress(axes, ticks=8)
        places, labels = _places(report, key, done[PARAM + key])
        colours = [SERIES[1] if best else SERIES[0] for best in done["best"]]
        axes.scatter(places, done[VALUE + report.first], s=13, c=colours, alpha=0.8)
        if labels is not None:
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        else:
            _to_range(axes, report.space[key])
        _log_if_wide(axes, done[VALUE + report.first])
        axes.set_title(key, loc="left", color=INK, fontsize=8.5)
    figure.suptitle(objective_title(report.first), x=0.01, ha="left", color=INK, fontsize=10)
    return (
        figure,
        f"{objective_title(report.first)} of complete trials by each parameter; orange: the best.",
    )


def _to_range(axes: "Axes", about: "Mapping[str, Any]") -> None:
    """The axis of a parameter shows all of its range."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(about["low"]), float(about["high"])
    if about.get("log"):
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.1)
        plain_ticks(axes)
        return
    axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(about["low"], int)))


def _parallel(report: StudyReport) -> Drawing:
    from matplotlib.figure import Figure

    done = report.trials[report.trials["state"] == COMPLETE]
    done = done.sort_values(VALUE + report.first, ascending=False)
    if report.objectives[report.first] == "maximize":
        done = done.iloc[::-1]
    keys = list(report.space)
    figure = Figure(figsize=(WIDTH * 1.6, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, ticks=8)
    heights = pd.DataFrame({key: _heights(report, key, done[PARAM + key]) for key in keys})
    for (_, line), best in zip(heights.iterrows(), done["best"], strict=True):
        colour, width = (SERIES[1], 2.0) if best else (SERIES[0], 0.9)
        axes.plot(
            range(len(keys)), line.to_numpy(), color=colour, lw=width, alpha=1 if best else 0.4
        )
    for at, key in enumerate(keys):
        low, high = _ends(report, key)
        axes.axvline(at, color=GRID, lw=0.8)
        axes.annotate(low, (at, -0.02), ha="center", va="top", fontsize=7.5, color=MUTED)
        axes.annotate(high, (at, 1.02), ha="center", va="bottom", fontsize=7.5, color=MUTED)
    axes.grid(False)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.12)
    axes.set_xticks(range(len(keys)), [key.rpartition(".")[2] for key in keys])
    return (
        figure,
        "Complete trials, one line each, over the ranges of all parameters; orange: the best.",
    )


# Places


def _places(
    report: StudyReport, key: str, values: "pd.Series[Any]"
) -> tuple[list[float], list[str] | None]:
    """Where values stand on an axis, and the labels of choices."""
    choices = report.space[key].get("choices")
    if choices is None:
        return [float(value) for value in values], None
    labels = [str(choice) for choice in choices]
    return [float(labels.index(str(value))) for value in values], labels


def _heights(report: StudyReport, key: str, values: "pd.Series[Any]") -> list[float]:
    """Between 0 and 1, in the range of a parameter."""
    places, labels = _places(report, key, values)
    if labels is not None:
        return [place / max(1, len(labels) - 1) for place in places]
    low, high = float(report.space[key]["low"]), float(report.space[key]["high"])
    if report.space[key].get("log"):
        return [math.log(p / low) / math.log(high / low) for p in places]
    return [(place - low) / (high - low) for place in places]


def _ends(report: StudyReport, key: str) -> tuple[str, str]:
    about = report.space[key]
    if about.get("choices") is not None:
        return str(about["choices"][0]), str(about["choices"][-1])
    return f"{about['low']:g}", f"{about['high']:g}"


def _panel(left: float = 0.13) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout=None)
    axes = figure.add_axes((left, 0.145, 0.96 - left, 0.755))
    dress(axes, ticks=8)
    return figure, axes


def _name(axes: "Axes", below: str, title: str) -> None:
    axes.set_xlabel(below, color=MUTED, fontsize=8.5)
    axes.set_title(title, loc="left", color=INK, fontsize=10)


def objective_title(objective: str) -> str:
    """`val_id/forces_mae` as `Force MAE on ID, eV/Å`; other objectives in words."""
    split, slash, metric = objective.rpartition("/")
    known = {"device_seconds": "Training time, device-seconds", "parameters": "Parameters"}
    return titles.full_title(split, metric) if slash else known.get(metric, metric)


def _whole_ticks(axes: "Axes", trials: int) -> None:
    """An axis of all trials, with whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.5, trials - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _log_if_wide(axes: "Axes", values: "pd.Series[Any]") -> None:
    known = values.dropna()
    if len(known) and known.min() > 0 and known.max() > 5 * known.min():
        axes.set_yscale("log")
        plain_ticks(axes)
