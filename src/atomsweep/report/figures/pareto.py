"""Named points of cost and error, drawn with their Pareto front."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atomsweep.report.figures.style import INK, MUTED, SERIES, dress, plain_ticks
from atomsweep.report.tables.pareto import pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 8  # points; of more only those of the front have their name


def draw_points(
    axes: "Axes", points: Mapping[str, tuple[float, float]], across: str, title: str
) -> None:
    """Named points of cost and error, the Pareto front among them joined."""
    dress(axes)
    front = pareto(points)
    for label, (cost, error) in points.items():
        colour = SERIES[0] if label in front else MUTED
        axes.plot([cost], [error], "o", color=colour, ms=5)
        if len(points) > MOST_NAMED and label not in front:
            continue
        axes.annotate(
            label, (cost, error), xytext=(5, 5), textcoords="offset points", fontsize=8, color=INK
        )
    ordered = sorted(points[label] for label in front)
    axes.plot(
        [c for c, _ in ordered], [e for _, e in ordered], color=SERIES[0], lw=1, dashes=(3, 2)
    )
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    plain_ticks(axes)
    axes.set_xlabel(across, color=MUTED)
    axes.set_title(title, loc="left", color=INK)
