"""Learning curves: validation error against device-time, drawn for paper, screen and page.

`series` prepares the numbers; `draw` and what follows only draw. Matplotlib is imported inside.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from atomsweep.report.read.tidy import is_gpu, normal
from atomsweep.report.tables import grids as render
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = (schema.VAL_SPLITS[0], schema.VAL_AVERAGE)  # whose curves are drawn
SIZE = (4.9, 3.3)  # inches: in one column of a page, or the width of a phone
SERIES = ("#0072b2", "#d55e00", "#009e73", "#a03f87", "#7a6a00", "#4aa3d8")  # after Okabe and Ito
DASHES = ((), (4, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5))
INK, MUTED, GRID = "#1c2733", "#5a6675", "#dfe4ea"
UNITS = ((1, "seconds", 180), (60, "minutes", 180), (3600, "hours", 96), (86_400, "days", math.inf))
NAMES = 8.5  # points: size of the names of lines
ABOVE = 1.4  # the panel ends at this times the highest end of a line
MOST = 5  # lines of one table row
LOG_FROM = 30.0  # ratio of the largest to the smallest from which an axis is logarithmic


def series(
    curves: pd.DataFrame, frame: pd.DataFrame, rows: Sequence[str], reference: str | None = None
) -> pd.DataFrame:
    """Points of curves with the words and the style of their table row.

    Args:
        curves: from `Store.curves`, of one metric.
        frame: the runs of a table.
        rows: columns that tell its rows apart.
        reference: published table that gives the words.

    Returns:
        identity, device_seconds, value, label, hue, dash, rank (of the run within its row); runs
        with fewer than two points are left out.
    """
    hues: dict[str, int] = {}
    dashes: dict[tuple[str, ...], int] = {}
    styles = []
    for _, run in frame.iterrows():
        keys = [normal(run[column]) for column in rows]
        hue = hues.setdefault(keys[0], len(hues))
        dash = dashes.setdefault(tuple(keys[1:]), len(dashes))
        label = ", ".join(render.label(column, run[column], reference) for column in rows)
        styles.append((run["identity"], label, hue, dash))
    style = pd.DataFrame(styles, columns=["identity", "label", "hue", "dash"])
    points = curves[curves["value"].notna() & curves["device_seconds"].notna()]
    several = points.groupby("identity")["value"].transform("size") >= 2
    joined = points[several].merge(style, on="identity")
    first = joined.drop_duplicates("identity")
    joined["rank"] = joined["identity"].map(
        dict(zip(first["identity"], first.groupby("label").cumcount(), strict=True))
    )
    kept = ["identity", "device_seconds", "value", "label", "hue", "dash", "rank"]
    return joined[kept].sort_values(["label", "identity", "device_seconds"], ignore_index=True)


def left_out(points: pd.DataFrame) -> str:
    """A sentence where a row has more runs than are drawn."""
    if points["rank"].max() < MOST:
        return ""
    return f" Of rows with more than {MOST} runs the first {MOST} are drawn."


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
    title, unit, _ = render.title_of(quantity)
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
    for _, line in points[points["rank"] < MOST].groupby("identity", sort=False):
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
    split_title = render.split_title(split)
    axes.set_title(f"{title} on {split_title}{f', {unit}' if unit else ''}", loc="left", color=INK)
    return figure


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write `path`.svg, .pdf and .png, the same bytes each time."""
    from matplotlib import rc_context

    written = []
    with rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        for suffix, metadata in (
            (".svg", {"Date": None, "Creator": None}),
            (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
            (".png", {"Software": None}),
        ):
            file = path.with_suffix(suffix)
            figure.savefig(file, dpi=200, metadata=metadata)
            written.append(file)
    return written


def inline(figure: "Figure", name: str, title: str) -> str:
    """SVG to stand inside a page: its colours follow the page's theme, its ids are its own.

    Args:
        figure: from `draw`.
        name: prefix of all ids; unique in the page.
        title: what it shows, for screen readers.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing: Mapping[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=dict(nothing), transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)  # it would style the whole page
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for number, colour in enumerate(SERIES, 1):
        svg = svg.replace(colour, f"var(--series-{number})")
    for colour, role in ((INK, "ink"), (MUTED, "muted"), (GRID, "line")):
        svg = svg.replace(colour, f"var(--{role})")
    viewbox = re.search(r'viewBox="[^"]*"', svg)
    assert viewbox, "matplotlib writes a viewBox"
    inches = (
        f"--inches: {figure.get_size_inches()[0]:.2f}"  # a phone scrolls rather than shrinks it
    )
    head = f'<svg {viewbox[0]} style="{inches}" role="img" aria-labelledby="{name}-title">'
    head += f'<title id="{name}-title">{_escape(title)}</title>'
    return re.sub(r"^<svg[^>]*>", lambda _: head, svg, count=1).strip()


def make_room(figure: "Figure", axes: "Axes", words: Iterable[str], size: float) -> None:
    """Widen a figure until the longest of some words, as large as `size`, fits right of a panel.

    Panels keep their inches; those further right move. Words begin 1/20 of the panel beside it.
    """
    from matplotlib.textpath import TextPath

    width, height = figure.get_size_inches()
    box = axes.get_position()
    right = min(
        (o.get_position().x0 for o in figure.axes if o.get_position().x0 > box.x1), default=1
    )
    room = width * (right - box.x1 - 0.05 * box.width)
    longest = max(
        (TextPath((0, 0), word, size=size).get_extents().width for word in words), default=0
    )
    extra = longest / 72 + 0.05 - room
    if extra <= 0:
        return
    for other in figure.axes:
        place = other.get_position()
        start = place.x0 * width + (extra if place.x0 > box.x1 else 0.0)
        shape = (place.width * width / (width + extra), place.height)
        other.set_position((start / (width + extra), place.y0, *shape))
    figure.set_size_inches(width + extra, height)


def dress(axes: "Axes") -> None:
    """Take away what is not needed of a panel."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set_fontsize(8.5)
    axes.title.set_fontsize(10)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


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


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds per unit and its name, for a time of this size."""
    return next((size, word) for size, word, limit in UNITS if longest < size * limit)


def _wide(values: pd.Series) -> bool:
    """Whether positive values call for a logarithmic axis."""
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() > LOG_FROM * positive.min())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
