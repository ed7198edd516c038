"""The section on equal compute: error against training time, at equal times, and what is saved.

Curves are of the best value logged so far; between evaluations they are linear in the logarithm of
time, and outside of what was measured there is nothing.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from atomsweep import console
from atomsweep.report.figures.pareto import draw_points
from atomsweep.report.figures.sections import Picture, Section
from atomsweep.report.figures.style import (
    INK,
    MUTED,
    dress,
    line_settings,
    make_room,
    plain_ticks,
    time_title,
    time_unit,
)
from atomsweep.report.read.runs import Runs
from atomsweep.report.read.tidy import awaited, is_gpu, is_shared
from atomsweep.report.read.values import normal
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.compute import Curve, Rows, Saving, curves_of, mean_curve, savings
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.pareto import published_points
from atomsweep.report.tables.statistics import interval
from atomsweep.report.tables.table import Table
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = 4  # columns of the table
MOST_DRAWN = 12
MOST_SAVINGS = 6
MOST_SEEDS = 20  # whose curves are read, of each row


def compute_section(runs: Runs, table: Table, number: int) -> Section:
    """Equal compute for one table; empty where no curves were logged, or devices are unlike."""
    section = Section(f"compute-{number}", "Equal compute")
    split = next((s for s in (schema.VAL_AVERAGE, schema.VAL_SPLITS[0]) if _logged(table, s)), None)
    if split is None:
        return section
    members = table.members()
    if len({run["device"] for own in members.values() for run in own.values()}) > 1:
        section.text.append(
            "The runs trained on unlike devices, and time on one is not time on another: no "
            "comparison at equal compute is made."
        )
        return section
    rows = _rows(runs, table, members, split)
    if not rows:
        return section
    if (table.df.loc[awaited(table.df), "state"] != schema.FINISHED).any():
        section.notes.append("Rows with a run that is not finished are left out.")
    if any(len(own) > MOST_SEEDS for own in members.values()):
        section.notes.append(
            f"Of rows with more than {MOST_SEEDS} seeds the first {MOST_SEEDS} count."
        )
    saved = _saved(rows, table, members)[:MOST_SAVINGS]
    section.text += [told(one, table.split_title(split), is_shared(table.df)) for one in saved]
    if clock := clock_note(table):
        section.notes.append(clock)
    if (grid := _compute_grid(rows, table.metric)) is not None:
        quantity, place = titles.title_of(table.metric)[0], table.split_title(split)
        caption = (
            f"{quantity} on {place}, best until then, after so much training on {table.device}."
        )
        section.grids.append((caption, grid))
    section.pictures.append(_picture(rows, table, split, f"compute-{number}"))
    return section


def _rows(
    runs: Runs, table: Table, members: Mapping[str, Mapping[float, dict[str, Any]]], split: str
) -> dict[str, dict[float, Curve]]:
    """Label → seed → curve, of the first seeds of each row whose curves have two points."""
    first = {label: list(own.items())[:MOST_SEEDS] for label, own in members.items()}
    devices = {run["identity"]: run["device"] for own in first.values() for _, run in own}
    chosen = table.df[table.df["identity"].isin(devices)]
    points = runs.curves(chosen, [schema.metric_name(split, table.metric)])
    found = curves_of(points, devices, titles.better(table.metric))
    long = {identity: curve for identity, curve in found.items() if len(curve.times) > 1}
    rows = {
        label: {seed: long[run["identity"]] for seed, run in own if run["identity"] in long}
        for label, own in first.items()
    }
    return {label: curves for label, curves in rows.items() if curves}


def _saved(
    rows: Rows, table: Table, members: Mapping[str, Mapping[float, dict[str, Any]]]
) -> list[Saving]:
    """Savings, most first; only what is on one data set and task saves on another."""
    kinds: dict[tuple[str, str], dict[str, Mapping[float, Curve]]] = {}
    for label, curves in rows.items():
        run = next(iter(members[label].values()))
        kind = (normal(run["data_fingerprint"]), normal(run.get("choice.task")))
        kinds.setdefault(kind, {})[label] = curves
    better = titles.better(table.metric)
    saved = [one for alike in kinds.values() for one in savings(alike, better)]
    return sorted(saved, key=lambda one: -one.factor)


def _picture(rows: Rows, table: Table, split: str, name: str) -> Picture:
    theirs = published_points(table.reference, "train")
    metric = schema.metric_name(split, table.metric)
    return Picture(
        name,
        partial(_draw_compute, rows, table, split),
        f"{metric} against training time on a logarithmic axis, one line per table row",
        "Mean over seeds of the best value until then, only where every seed was measured."
        + (" Right: the paper's own points, on its own device and data." if theirs else ""),
        wide=theirs is not None,
    )


def clock_note(table: Table) -> str:
    """What times of a CPU are worth; empty where they are of GPUs."""
    if is_gpu(table.device):
        return ""
    finished = table.df[table.df["state"] == schema.FINISHED]
    shared = sum(value is True for value in finished["shared"])
    if not shared:
        return "Times are wall time; what else the machine did meanwhile is not known."
    return (
        f"Times are wall time on a shared machine: {shared} of {len(finished)} runs trained while "
        "another run trained on the same host, so what is said of time is of its load too."
    )


def told(saved: Saving, split: str, shared: bool = False) -> str:
    """A saving as a sentence.

    Args:
        saved: what is saved.
        split: in words.
        shared: whether runs trained beside others on one machine.
    """
    if math.isnan(saved.low):
        spread = "one seed, no interval"
    else:
        spread = f"95 % interval {saved.low:.1f} to {saved.high:.1f}, n = {saved.n}"
    spread += "; wall time on a shared machine" if shared else ""
    if saved.low <= 1.0:
        return (
            f"{saved.row} is not shown to need less training than {saved.other} for what that ends "
            f"with on {split}: {saved.factor:.1f} × ({spread})."
        )
    return (
        f"{saved.row} reaches the final value of {saved.other} on {split} with "
        f"{saved.factor:.1f} × less training time ({spread})."
    )


def _compute_grid(rows: Rows, metric: str) -> Grid | None:
    """Rows against times, spread evenly in the logarithm over what all rows have measured."""
    start = max(c.times[0] for curves in rows.values() for c in curves.values())
    end = min(c.times[-1] for curves in rows.values() for c in curves.values())
    if not start < end:
        return None
    times = [start * (end / start) ** (i / (TIMES - 1)) for i in range(TIMES)]
    decimals = titles.title_of(metric)[2]
    lines = []
    for label, curves in rows.items():
        line = [Text(label)]
        for time in times:
            values = [c.at(min(time, end)) for c in curves.values()]
            mean, half = interval(values) if all(map(math.isfinite, values)) else (math.nan,) * 2
            spread = "" if math.isnan(half) else f" ± {spelled.short(half, decimals)}"
            line.append(Text(spelled.short(mean, decimals) + spread))
        lines.append(line)
    header = ["Setting", *(console.duration(time) for time in times)]
    return Grid(header, lines, "l" + "r" * TIMES)


def _draw_compute(rows: Rows, table: Table, split: str) -> "Figure":
    """Error against training time on a logarithmic axis; beside it the paper's points."""
    from matplotlib.figure import Figure

    theirs = published_points(table.reference, "train")
    figure = Figure(figsize=(9.6, 3.6) if theirs else (4.9, 3.6), layout=None)
    axes = figure.add_axes((0.065, 0.15, 0.30, 0.74) if theirs else (0.13, 0.15, 0.52, 0.74))
    dress(axes)
    if theirs:
        right = figure.add_axes((0.62, 0.15, 0.34, 0.74))
        draw_points(right, theirs[0], f"training, {theirs[1]}", "The paper, on its own data")
    shown = sorted(rows, key=lambda r: sum(c.values[-1] for c in rows[r].values()) / len(rows[r]))
    longest = max(c.times[-1] for label in shown for c in rows[label].values())
    size, word = time_unit(longest)
    for label in shown[:MOST_DRAWN]:
        times, values = mean_curve(rows[label])
        axes.plot(
            [t / size for t in times], values, **line_settings(table.styles[label]),
            lw=1.6, ms=4, markevery=max(1, len(times) // 6), label=label,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale(
        "log" if all(c.values[-1] > 0 for r in rows.values() for c in r.values()) else "linear"
    )
    plain_ticks(axes)
    axes.set_xlabel(time_title(table.device, word), color=MUTED)
    title = table.metric_title(schema.metric_name(split, table.metric))
    axes.set_title(f"Ours: {title}" if theirs else title, loc="left", color=INK)
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7.5, frameon=False, handlelength=2.6
    )
    handle = "mmmmm"  # as wide as a line of the legend and its gap
    make_room(figure, axes, [handle + label for label in shown[:MOST_DRAWN]], 7.5)
    for text in legend.get_texts():
        text.set_color(INK)
    return figure


def _logged(table: Table, split: str) -> bool:
    return schema.metric_name(split, table.metric) in table.curves
