"""Learning curves: validation error against device-time, drawn for paper, screen and page.

The points come from `tables/curves.py`; here they are only drawn. Matplotlib is imported inside.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from atomsweep.report.figures.style import DASHES, INK, MUTED, SERIES, dress, make_room, time_unit
from atomsweep.report.read.tidy import is_gpu
from atomsweep.report.tables import titles
from atomsweep.report.tables.curves import MOST_OF_ROW
from atomsweep.report.tables.parts import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.9, 3.3)  # inches: in one column of a page, or the width of a phone
NAMES = 8.5  # points: size of the names of lines
ABOVE = 1.4  # the panel ends at this times the highest end of a line
LOG_FROM = 30.0  # ratio of the largest to the smallest from which an axis is logarithmic


def curve_figures(part: Part) -> "dict[str, Figure]":
    """Metric → drawing, of all curves of a table."""
    return {
        metric: draw(points, metric, part.device, part.baseline_value(metric))
        for metric, points in part.curves.items()
    }


def draw(points: pd.DataFrame, metric: str, device: str, baseline: float = math.nan) -> "Figure":
    """One panel: error against training time, each line named where it ends.

    Args:
        points: from `series`; not empty.
        metric: its name, e.g. `val_id/forces_mae`.
        device: tells of which kind the time is.
        baseline: value of the Median baseline, a dashed line.
    """
    from matplotlib.figure import Figure

    split, _, quantity = metric.partition("/")
    title, unit, _ = titles.title_of(quantity)
    size, word = time_unit(points["device_seconds"].max())
    points = points.assign(time=points["device_seconds"] / size)
    log_time = _wide(points["time"])
    if log_time:
        points = points[points["time"] > 0]

    figure = Figure(figsize=SIZE, layout=None)
    axes = figure.add_axes((0.11, 0.145, 0.575, 0.755))
    dress(axes)
    axes.set_xscale("log" if log_time else "linear")
    ends: dict[str, list[tuple[float, float, str]]] = {}
    for _, line in points[points["rank"] < MOST_OF_ROW].groupby("identity", sort=False):
        colour = SERIES[line["hue"].iloc[0] % len(SERIES)]
        dash = DASHES[(line["dash"].iloc[0] + line["hue"].iloc[0] // len(SERIES)) % len(DASHES)]
        axes.plot(line["time"], line["value"], color=colour, dashes=dash or (None, None), lw=1.7)
        time, value = line["time"].iloc[-1], line["value"].iloc[-1]
        axes.plot([time], [value], "o", color=colour, ms=3.6, clip_on=False)
        ends.setdefault(line["label"].iloc[0], []).append((time, value, colour))
    if not math.isnan(baseline):
        axes.axhline(baseline, color=MUTED, lw=1.1, dashes=(2, 2))
    _cut_start(axes, points, baseline)
    if not log_time:
        axes.set_xlim(left=0)
    axes.set_xlim(right=points["time"].max())
    make_room(figure, axes, ends, NAMES)
    _name_lines(axes, ends, baseline)
    kind = "GPU-" if is_gpu(device) else "CPU " if device.lower().startswith("cpu") else "device-"
    axes.set_xlabel(f"training time, {kind}{word}", color=MUTED)
    split_title = titles.split_title(split)
    axes.set_title(f"{title} on {split_title}{f', {unit}' if unit else ''}", loc="left", color=INK)
    return figure


def _cut_start(axes: "Axes", points: pd.DataFrame, baseline: float) -> None:
    """Let an untrained start leave the panel, where it would press the rest against the bottom."""
    ends = [*points.groupby("identity")["value"].last(), baseline]
    top = ABOVE * max(end for end in ends if not math.isnan(end))
    if points["value"].max() > top:
        lowest = min(points["value"].min(), *(end for end in ends if not math.isnan(end)))
        axes.set_ylim(lowest - 0.06 * (top - lowest), top)


def _name_lines(
    axes: "Axes", ends: Mapping[str, list[tuple[float, float, str]]], baseline: float
) -> None:
    """Names right of the panel, each as high as its line ends, moved apart where they meet."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    wanted: list[tuple[float, float, str, str]] = []  # height, where the line ends, name, colour
    for label, points in ends.items():
        time, value, colour = max(points)
        end, height = to_fraction.transform((time, value))
        wanted.append((height, end, label, colour))
    if not math.isnan(baseline):
        height = to_fraction.transform((axes.get_xlim()[1], baseline))[1]
        wanted.append((height, 1.0, "Median", MUTED))
    wanted.sort()
    heights = spread([height for height, *_ in wanted], gap=0.068)
    for (height, end, label, colour), placed in zip(wanted, heights, strict=True):
        axes.annotate(
            label,
            xy=(end, height),
            xytext=(1.045, placed),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=NAMES,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as a simple sweep can, so that neighbours are `gap` apart."""
    groups: list[list[float]] = []  # touching labels, centred on the mean of where they belong
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) - _high(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_low(group, gap) + gap * i for group in groups for i in range(len(group))]


def _low(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _wide(values: pd.Series) -> bool:
    """Whether positive values call for a logarithmic axis."""
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() > LOG_FROM * positive.min())
