"""The section on what a sweep cost: trained, evaluated, lost, and what the rest will cost."""

import math

import pandas as pd

from atomsweep.report.figures.sections import Section
from atomsweep.report.read.tidy import records
from atomsweep.report.read.values import as_float
from atomsweep.report.tables import spelled
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.statistics import interval
from atomsweep.tracking import schema


def spent_section(df: pd.DataFrame) -> Section:
    """Device-hours of a sweep: trained, evaluated, lost, and a guess of what the rest will cost.

    Each kind of device is counted for itself; nothing converts one to another.
    """
    section = Section("spent", "What it cost")
    begun = df[df["device_seconds"].notna() | df["allocated_seconds"].notna()]
    if begun.empty:
        return section
    lines = []
    for device, runs in begun.groupby(begun["device"].map(lambda d: d or "not told"), sort=False):
        trained = runs["device_seconds"].sum()
        evaluated = runs["eval_seconds"].sum()
        useful = runs["state"] == schema.FINISHED
        failed = runs.loc[runs["state"] == schema.FAILED, "allocated_seconds"].sum()
        allocated = runs["allocated_seconds"].sum(min_count=1)  # NaN where nobody wrote it down
        kept = (runs["device_seconds"].fillna(0) + runs["eval_seconds"].fillna(0)).where(
            runs["state"] != schema.FAILED, 0.0
        )
        told = runs["allocated_seconds"].notna()
        lost = max(0.0, (runs["allocated_seconds"] - kept)[told].sum() - failed)
        lost = lost if told.any() else math.nan
        counts = [str(int(useful.sum())), str(len(runs))]
        times = [trained, evaluated, failed, lost, allocated]
        lines.append(
            [Text(str(device)), *map(Text, counts), *(Text(device_hours(t)) for t in times)]
        )
    times_of = ("Training", "Evaluation", "Failed runs", "Start-up and lost", "Allocated")
    header = ["Device", "Finished, runs", "Begun, runs", *(f"{t}, device-h" for t in times_of)]
    section.grids.append(
        (
            "Device-hours are wall time × devices, each kind of device by itself. Allocated is "
            "what all processes held; start-up and lost is what of it is neither training nor "
            "evaluation of a run that counts: imports, data, and steps that a kill or requeue "
            "made again.",
            Grid(header, lines, "l" + "r" * 7),
        )
    )
    if rest := _rest_of(df):
        section.text.append(rest)
    again = df["processes"] > 1
    if again.any():
        section.text.append(
            f"{int(again.sum())} runs took more than one process (requeued or continued), "
            f"{int(df.loc[again, 'processes'].max())} at most."
        )
    return section


def _rest_of(df: pd.DataFrame) -> str:
    """A sentence on what the unfinished runs will cost, guessed from the finished ones."""
    finished = df[df["state"] == schema.FINISHED]
    left = df[df["state"] != schema.FINISHED]
    if left.empty:
        return ""
    spent = finished["device_seconds"] + finished["eval_seconds"]
    values = [float(v) for v in spent.dropna()]
    if not values or finished["device"].nunique() > 1:
        return f"{len(left)} runs are not finished; nothing tells what they will cost."
    mean, half = interval(values)
    begun = [
        min(1.0, as_float(r["step"]) / as_float(r["total_steps"]))
        for r in records(left)
        if as_float(r["total_steps"]) > 0 and as_float(r["step"]) > 0
    ]
    open_ = len(left) - sum(begun)
    spread = "" if math.isnan(half) else f" ± {device_hours(open_ * half)}"
    more = f"{device_hours(open_ * mean)}{spread} device-hours more"
    return (
        f"{len(left)} runs are not finished: about {more} "
        f"on {finished['device'].iloc[0]}, a guess from the {len(values)} that are."
    )


def device_hours(seconds: float) -> str:
    """`0.027`, `12.3`: seconds as hours with three figures."""
    value = seconds / 3600
    if math.isnan(value):
        return spelled.NOTHING
    return f"{value:.3g}" if value < 1000 else spelled.count(value)
