"""Pages that follow runs while they train: the index of a root, and one page for each sweep.

They are made of plain values, so that whoever looks at the runs decides how; they refresh
themselves, and need no network but the server that they came from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from atomsweep import console
from atomsweep.report.figures.curves import draw
from atomsweep.report.figures.files import inline
from atomsweep.report.pages.jinja import render
from atomsweep.report.pages.run import small_curve
from atomsweep.report.tables import spelled, titles
from atomsweep.tracking import schema

MOST_DRAWN = 12  # lines of the drawing
POINTS = 60  # of a small curve


@dataclass(frozen=True)
class LiveCell:
    """A cell, or a run of no sweep, as a page shows it.

    Attributes:
        identity: of the run.
        setting: what tells it from the other cells, without the seed.
        seed: in words, or "".
        state: of `tracking.state`.
        share: of its budget that is done, 0 to 1; None where nothing tells.
        step: in words.
        metric: the one that decides, or None.
        value: the latest, NaN without one.
        time: device-seconds; None where nothing tells.
        heard: when it was last heard of, in words.
        message: why it failed or was stopped, or None.
        page: address of its own page; "" without one.
        drawn: name of the metric of its curve.
        points: steps and values of that.
    """

    identity: str
    setting: str
    seed: str
    state: str
    share: float | None
    step: str
    metric: str | None
    value: float
    time: float | None
    heard: str
    message: str | None
    page: str
    drawn: str = ""
    points: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class LiveSweep:
    """A sweep as a page shows it.

    Attributes:
        name: of it.
        page: address of its own page.
        report: address of its report.
        counts: state → cells.
        spent: device-seconds so far.
        left: guess of the device-seconds to come.
        unknown: cells whose cost nothing tells.
        launching: who launches it now, in words; "" where nobody does.
        command: launches the rest of it.
        cells: that are told one by one.
        hidden: state → cells that are not.
    """

    name: str
    page: str
    report: str
    counts: Mapping[str, int]
    spent: float
    left: float
    unknown: int
    launching: str
    command: str | None
    cells: Sequence[LiveCell] = ()
    hidden: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of cells."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """Cells with a result."""
        return self.counts.get(schema.FINISHED, 0) + self.counts.get(schema.STALE, 0)

    @property
    def states(self) -> str:
        """`3 finished, 1 running`."""
        return ", ".join(f"{number} {state}" for state, number in self.counts.items())

    @property
    def to_come(self) -> str:
        """`about 3.2 min and 4 cells unknown`."""
        told = [f"about {console.duration(self.left)}"] if self.left else []
        told += [f"{self.unknown} cells unknown"] if self.unknown else []
        return " and ".join(told) or ("nothing" if self.done == self.total else spelled.NOTHING)

    @property
    def parts(self) -> list[tuple[str, float]]:
        """State and its share of the cells in per cent."""
        return [(state, 100 * number / self.total) for state, number in self.counts.items()]


def sweep_page(
    sweep: LiveSweep, figures: Sequence[str], problems: Sequence[str], every: float
) -> str:
    """The page of a sweep.

    Args:
        sweep: as it stands.
        figures: of `drawings`, as SVG.
        problems: a sentence each.
        every: seconds until the page asks again.
    """
    return render(
        "live_sweep.html",
        sweep=sweep,
        rows=[_row(cell) for cell in sweep.cells],
        tiles=_tiles(sweep),
        figures=figures,
        hidden=", ".join(f"{n} {state}" for state, n in sweep.hidden.items()),
        problems=problems,
        every=every,
    )


def index_page(
    sweeps: Sequence[LiveSweep],
    singles: Sequence[LiveCell],
    more: int,
    files: Sequence[tuple[str, str]],
    problems: Sequence[str],
    source: str,
    every: float,
) -> str:
    """The index of a root.

    Args:
        sweeps: newest first.
        singles: runs of no sweep, newest first.
        more: further ones that are not told.
        files: name and title of each sweep file that nobody has launched.
        problems: a sentence each.
        source: the root.
        every: seconds until the page asks again.
    """
    return render(
        "live_index.html",
        sweeps=sweeps,
        singles=[_row(cell) for cell in singles],
        more=more,
        files=files,
        problems=problems,
        source=source,
        every=every,
    )


def drawings(cells: Sequence[LiveCell]) -> list[str]:
    """Curves as SVG, of each metric that some cell has two points of: a line for each setting.

    The line is the mean over seeds, as in the report, with the range of the seeds around it.
    """
    found = []
    for metric in dict.fromkeys(cell.drawn for cell in cells if len(cell.points) > 1):
        own = [cell for cell in cells if cell.drawn == metric and len(cell.points) > 1]
        settings = list(dict.fromkeys(cell.setting for cell in own))[:MOST_DRAWN]
        rows = [
            (cell.identity, cell.setting, hue, hue, rank, cell.state == schema.FINISHED, *point)
            for rank, cell in enumerate(own)
            if cell.setting in settings
            for hue in [settings.index(cell.setting)]
            for point in cell.points
        ]
        columns = ["identity", "label", "hue", "dash", "rank", "finished", "step", "value"]
        points = pd.DataFrame(rows, columns=columns).assign(device_seconds=0.0)
        points["rank"] = points.groupby("label")["rank"].rank("dense").astype(int) - 1
        split, _, quantity = metric.rpartition("/")
        title = titles.full_title(split, quantity)
        found.append(inline(draw(points, title, ""), f"live-{metric.replace('/', '-')}", title))
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most so many of the points, evenly chosen, first and last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _row(cell: LiveCell) -> dict[str, Any]:
    """What the template shows of a cell."""
    return {
        "cell": cell,
        "bar": None if cell.share is None else round(100 * min(1.0, max(0.0, cell.share)), 1),
        "value": spelled.short(cell.value),
        "time": console.duration(cell.time),
        "curve": small_curve(cell.drawn, thinned(cell.points)) if len(cell.points) > 1 else None,
    }


def _tiles(sweep: LiveSweep) -> list[dict[str, str]]:
    running = sweep.counts.get(schema.RUNNING, 0)
    tiles = [
        {"name": "cells finished", "value": f"{sweep.done} / {sweep.total}", "note": ""},
        {"name": "running now", "value": str(running), "note": sweep.launching},
        {
            "name": "device time so far",
            "value": console.duration(sweep.spent),
            "note": "all processes, lost work included",
        },
        {"name": "device time to come", "value": sweep.to_come, "note": "from finished runs alike"},
    ]
    if running and sweep.left and not sweep.unknown:
        tiles.append(
            {
                "name": "at this pace",
                "value": f"{console.duration(sweep.left / running)} left",
                "note": f"{running} at a time",
            }
        )
    best = [cell for cell in sweep.cells if cell.state in (schema.FINISHED, schema.STALE)]
    metric = next((cell.metric for cell in best if cell.metric), None)
    known = [cell for cell in best if cell.metric == metric and not math.isnan(cell.value)]
    if metric is not None and known:
        pick = max if titles.better(metric) == "high" else min
        one = pick(known, key=lambda cell: cell.value)
        note = " ".join(word for word in (one.setting, one.seed) if word)
        tiles.append({"name": f"best {metric}", "value": spelled.short(one.value), "note": note})
    return tiles
