"""Named points of cost and error, drawn with their Pareto front."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atomsweep.report.figures.style import INK, MUTED, dress, line_settings, plain_ticks
from atomsweep.report.tables.pareto import pareto
from atomsweep.report.tables.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 8  # points; of more only those of the front have their name


def draw_points(
    axes: "Axes",
    points: Mapping[str, tuple[float, float]],
    across: str,
    title: str,
    styles: Mapping[str, Style] | None = None,
) -> None:
    """Named points of cost and error, the Pareto front among them joined.

    Args:
        axes: the panel.
        points: label → cost, error.
        across: name of the cost.
        title: of the panel.
        styles: label → how a setting is drawn elsewhere on the page.
    """
    dress(axes)
    front = pareto(points)
    for label, (cost, error) in points.items():
        own: dict[str, Any] = {"color": INK if label in front else MUTED, "marker": "o"}
        if styles and label in styles:
            own = {k: v for k, v in line_settings(styles[label]).items() if k != "dashes"}
        axes.plot([cost], [error], **own, ls="", ms=5.5)
        if len(points) > MOST_NAMED and label not in front:
            continue
        axes.annotate(
            label, (cost, error), xytext=(5, 5), textcoords="offset points", fontsize=8, color=INK
        )
    ordered = sorted(points[label] for label in front)
    axes.plot([c for c, _ in ordered], [e for _, e in ordered], color=MUTED, lw=1, dashes=(3, 2))
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    plain_ticks(axes)
    axes.set_xlabel(across, color=MUTED)
    axes.set_title(title, loc="left", color=INK)
