"""How all drawings look: colours, a bare panel, ticks, room for names."""

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from atomsweep.report.read.tidy import is_gpu
from atomsweep.report.tables.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc6fa5", "#6b5b00", "#000000")  # after Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # another number than of colours: pairs repeat late
DASHES = ((), (4, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5))
INK, MUTED, GRID = "#1c2733", "#5a6675", "#dfe4ea"
TICK_WIDTH, TICK_HEIGHT = 0.62, 0.3  # inches that a tick's number takes
ROUND = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,))  # ticks of a decade, most first
UNITS = ((1, "seconds", 180), (60, "minutes", 180), (3600, "hours", 96), (86_400, "days", math.inf))


def line_settings(style: Style) -> dict[str, Any]:
    """Colour, marker and dashes of a setting, as matplotlib's `plot` takes them.

    Marker and dashes alone tell settings apart too: in grey, and for who sees few colours.
    """
    dash = DASHES[(style.dash + style.hue // len(SERIES)) % len(DASHES)]
    return {
        "color": SERIES[style.hue % len(SERIES)],
        "marker": MARKERS[style.hue % len(MARKERS)],
        "dashes": dash or (None, None),
    }


def dress(axes: "Axes", ticks: float = 8.5) -> None:
    """Take away what is not needed of a panel.

    Args:
        axes: the panel.
        ticks: size of their words, in points.
    """
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=ticks, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set_fontsize(8.5)
    axes.title.set_fontsize(10)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def make_room(figure: "Figure", axes: "Axes", words: Iterable[str], size: float) -> None:
    """Widen a figure until the longest of some words, as large as `size`, fits right of a panel.

    Panels keep their inches; those further right move. Words begin 1/20 of the panel beside it.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, height = figure.get_size_inches()
    box = axes.get_position()
    right = min(
        (o.get_position().x0 for o in figure.axes if o.get_position().x0 > box.x1), default=1
    )
    room = width * (right - box.x1 - 0.05 * box.width)
    font = FontProperties(size=size)
    plain = (literal(word).replace(r"\$", "$") for word in words)
    longest = max(
        (text_to_path.get_text_width_height_descent(word, font, False)[0] for word in plain),
        default=0,
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


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds per unit and its name, for a time of this size."""
    return next((size, word) for size, word, limit in UNITS if longest < size * limit)


def time_title(device: str, word: str) -> str:
    """What the axis of training time is called, with its unit.

    Of GPUs it is time × devices. On a CPU it is wall time, never the time of processors: a machine
    that does other work too makes it longer.
    """
    if is_gpu(device):
        return f"training time, GPU-{word}"
    return f"wall time of training, {word}"


def plain_ticks(axes: "Axes") -> None:
    """Ticks of logarithmic axes at round numbers, as many as have room, written plainly."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of a figure"
    width, height = axes.get_position().size * figure.get_size_inches()
    for axis, scale, room in (
        (axes.xaxis, axes.get_xscale(), width / TICK_WIDTH),
        (axes.yaxis, axes.get_yscale(), height / TICK_HEIGHT),
    ):
        if scale == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(FixedLocator(round_numbers(low, high, max(2, int(room)))))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
            axis.set_minor_formatter(NullFormatter())


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two, evenly spread in the logarithm as far as round numbers are.

    Args:
        low: above 0.
        high: above `low`.
        most: so many at most, 2 or more.
    """
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ROUND:
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) < 2:  # as on an axis that is not logarithmic
            near = MaxNLocator(max(1, most - 1)).tick_values(low, high)
            return [value for value in map(float, near) if low <= value <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def literal(words: str) -> str:
    """Words for matplotlib in which `$` begins no mathematics; the same where that was done."""
    return re.sub(r"(?<!\\)\$", r"\\$", words)
