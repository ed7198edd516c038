"""Learning curves: validation error against steps, and beside it against time, for paper and page.

The lines come from `tables/curves.py`; here they are only drawn. Matplotlib is imported inside.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from atomsweep.report.figures.style import (
    INK,
    MUTED,
    dress,
    line_settings,
    make_room,
    time_title,
    time_unit,
)
from atomsweep.report.tables.curves import lines
from atomsweep.report.tables.spelled import count
from atomsweep.report.tables.styles import Style
from atomsweep.report.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP, TIME = "step", "device_seconds"  # what curves are drawn against, the usual one first
AGAINST = {STEP: "steps", TIME: "training time"}
WIDTH, PANEL = 4.9, 2.5  # inches: in one column of a page, or the width of a phone; of the panel
BELOW, ABOVE = 0.48, 0.33  # inches for the axis and the title
NAMES = 8.5  # points: size of the names of lines
LINE = 0.17  # inches between names
HANDLE = 0.075  # of the panel's width: the piece of line before a name
MARKS = 7  # markers on a line
HIGHEST = 1.4  # the panel ends at this times the highest end of a line
LOG_FROM = 30.0  # ratio of the largest to the smallest from which an axis is logarithmic


def curve_figures(table: Table) -> "dict[str, dict[str, Figure]]":
    """Metric → what it is drawn against → drawing, of all curves of a table."""
    return {
        metric: {
            across: draw(points, table.metric_title(metric), table.device,
                         table.baseline_value(metric), across)
            for across in (STEP, TIME)
        }
        for metric, points in table.curves.items()
    }  # fmt: skip


def draw(
    points: pd.DataFrame,
    title: str,
    device: str,
    baseline: float = math.nan,
    across: str = STEP,
) -> "Figure":
    """One panel: one line per table row with the range of its seeds, named where it ends.

    Args:
        points: from `series`; not empty.
        title: above it.
        device: tells of which kind the time is.
        baseline: value of the Median baseline, a dashed line.
        across: `STEP` or `TIME`.
    """
    from matplotlib.figure import Figure

    drawn = lines(points)
    size, word = time_unit(drawn[TIME].max()) if across == TIME else (1.0, "")
    drawn = drawn.assign(x=drawn[across] / size)
    log = across == TIME and _wide(drawn["x"])
    if log:
        drawn = drawn[drawn["x"] > 0]
    names = list(dict.fromkeys(drawn["label"])) + ["Median"] * (not math.isnan(baseline))
    panel = max(PANEL, LINE * len(names))
    height = BELOW + panel + ABOVE
    figure = Figure(figsize=(WIDTH, height), layout=None)
    axes = figure.add_axes((0.11, BELOW / height, 0.575, panel / height))
    dress(axes)
    axes.set_xscale("log" if log else "linear")
    rows = drawn.groupby("label", sort=False)
    ends = [_draw_line(axes, str(label), line) for label, line in rows]
    if not math.isnan(baseline):
        axes.axhline(baseline, color=MUTED, lw=1.1, dashes=(2, 2))
    _cut_start(axes, drawn, baseline)
    if not log:
        axes.set_xlim(left=0)
    axes.set_xlim(right=drawn["x"].max())
    _thin_ticks(axes)
    make_room(figure, axes, ["mmm" + name for name in names], NAMES)
    _name_lines(axes, ends, baseline, LINE / panel)
    axes.set_xlabel("step" if across == STEP else time_title(device, word), color=MUTED)
    axes.set_title(title, loc="left", color=INK)
    return figure


def _draw_line(axes: "Axes", label: str, line: pd.DataFrame) -> tuple[float, float, str, Style]:
    """Draw a table row; returns where it ends, its name and its style."""
    style = Style(int(line["hue"].iloc[0]), int(line["dash"].iloc[0]))
    own = line_settings(style)
    if (line["n"] > 1).any():
        axes.fill_between(
            line["x"], line["low"], line["high"], color=own["color"], alpha=0.16, lw=0
        )
    every = max(1, math.ceil(len(line) / MARKS))
    marks = range(len(line) - 1, -1, -every)  # the end has one
    axes.plot(line["x"], line["value"], **own, lw=1.7, ms=4, markevery=list(marks))
    end = {"color": own["color"], "marker": own["marker"], "clip_on": False}
    axes.plot(line["x"].iloc[-1:], line["value"].iloc[-1:], ls="", ms=4, **end)
    return line["x"].iloc[-1], line["value"].iloc[-1], label, style


def _thin_ticks(axes: "Axes") -> None:
    """Few ticks with short words: a narrow panel has no room for six numbers of five digits."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: count(x) if x == int(x) else f"{x:g}")
        )


def _cut_start(axes: "Axes", drawn: pd.DataFrame, baseline: float) -> None:
    """Let an untrained start leave the panel, where it would press the rest against the bottom."""
    ends = [*drawn.groupby("label")["high"].last(), baseline]
    ends = [end for end in ends if not math.isnan(end)]
    top = HIGHEST * max(ends)
    if drawn["high"].max() > top:
        lowest = min(drawn["low"].min(), *ends)
        axes.set_ylim(lowest - 0.06 * (top - lowest), top)


def _name_lines(
    axes: "Axes", ends: Sequence[tuple[float, float, str, Style]], baseline: float, gap: float
) -> None:
    """Names right of the panel, each as high as its line ends, moved apart where they meet."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    wanted: list[tuple[float, float, str, Style | None]] = []
    for x, value, label, style in ends:
        end, height = to_fraction.transform((x, value))
        wanted.append((height, end, label, style))
    if not math.isnan(baseline):
        height = to_fraction.transform((axes.get_xlim()[1], baseline))[1]
        wanted.append((height, 1.0, "Median", None))
    wanted.sort(key=lambda one: one[:3])
    heights = spread([min(1.0, max(0.0, height)) for height, *_ in wanted], gap)
    left = 1.05
    for (height, end, label, named), placed in zip(wanted, heights, strict=True):
        own: dict[str, Any] = {"color": MUTED, "dashes": (2, 2)}
        own = own if named is None else line_settings(named)
        outside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([end, left], [height, placed], color=own["color"], lw=0.6, alpha=0.6, **outside)
        axes.plot(
            [left, left + HANDLE / 2, left + HANDLE], [placed] * 3,
            **own, lw=1.5, ms=4, markevery=[1], **outside,
        )  # fmt: skip
        axes.annotate(
            label, xy=(left + 1.25 * HANDLE, placed), xycoords="axes fraction", color=INK,
            fontsize=NAMES, va="center", annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights between 0 and 1 moved as little as a simple sweep can, `gap` apart.

    They stay between 0 and 1 where there is room for all.
    """
    groups: list[list[float]] = []  # touching labels, centred on the mean of where they belong
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) - _high(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [_low(group, gap) + gap * i for group in groups for i in range(len(group))]
    for i, height in enumerate(placed):
        placed[i] = max(height, i * gap)
    for i, height in enumerate(reversed(placed)):
        placed[-1 - i] = min(height, 1 - i * gap)
    return placed


def _low(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _wide(values: pd.Series) -> bool:
    """Whether positive values call for a logarithmic axis."""
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() > LOG_FROM * positive.min())
