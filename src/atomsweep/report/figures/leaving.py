"""The section on when trainings left the Median, in all three directions."""

import math
from typing import Any

from atomsweep.report.figures.sections import Section
from atomsweep.report.read.tidy import CHOICE, CONFIG, by_row, records
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.baselines import BASELINE_MODEL
from atomsweep.report.tables.curves import MOST_OF_ROW
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.table import Table
from atomsweep.report.tables.trained import NEAR, left_at, limits_of
from atomsweep.tracking import schema

LEFT_MEDIAN = "left_median_at"  # step, in the kept numbers


def leaving_section(table: Table) -> Section:
    """A line for each row: when its seeds left the Median, and how many never did."""
    section = Section("leaving", "Leaving the Median")
    steps = steps_to_leave(table)
    lines = []
    for _, members in by_row(table.df, table.rows):
        runs = [run for run in records(members) if run["identity"] in steps]
        if not runs:
            continue
        left = [run for run in runs if not math.isnan(steps[run["identity"]])]
        line = [titles.label(c, members[c].iloc[0], table.reference) for c in table.rows]
        line += [spelled.count(len(runs)), *_latest(left, steps)]
        line.append(spelled.count(len(runs) - len(left)) if len(left) < len(runs) else "none")
        lines.append([Text(told) for told in line])
    if lines:
        header = [titles.axis_of(c, table.reference).title for c in table.rows]
        header += ["Seeds", "First, step", "Last, step", "Last, of the budget", "Never"]
        section.grids.append(
            (
                "The evaluation from which on the errors of x, y and z on ID each stay more than "
                f"{100 * NEAR:.0f} % below the Median’s: of the first seed and of the last one, "
                "and how many never get there. It is known as often as engine.eval_every says, of "
                f"the first {MOST_OF_ROW} runs of a row.",
                Grid(header, lines, "l" * len(table.rows) + "r" * 5),
            )
        )
    return section


def steps_to_leave(table: Table) -> dict[str, float]:
    """Identity → step from which on a finished run is below the Median; NaN: never.

    Left out are runs whose components were not logged, or on other frames than the Median's, and
    those whose data have no Median.
    """
    limits = {row["data_fingerprint"]: limits_of(row) for row in records(table.baselines)}
    points = dict(iter(table.components.groupby("identity"))) if len(table.components) else {}
    return {
        run["identity"]: left_at(points[run["identity"]], limits[run["data_fingerprint"]])
        for run in records(table.df)
        if run["state"] == schema.FINISHED
        and run["identity"] in points
        and limits.get(run["data_fingerprint"])
        and not as_float(run.get(f"{CONFIG}engine.eval_frames")) > 0
        and run.get(f"{CHOICE}model") != BASELINE_MODEL
    }


def _latest(runs: list[dict[str, Any]], steps: dict[str, float]) -> list[str]:
    """First and last step, and the last as a share of its budget."""
    if not runs:
        return [spelled.NOTHING] * 3
    last = max(runs, key=lambda run: steps[run["identity"]])
    ends = (min(steps[run["identity"]] for run in runs), steps[last["identity"]])
    total = as_float(last["total_steps"])
    share = f"{100 * ends[1] / total:.0f} %" if total > 0 else spelled.NOTHING
    return [*(spelled.count(int(step)) for step in ends), share]
