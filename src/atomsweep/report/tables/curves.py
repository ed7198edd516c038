"""Learning curves of table rows: logged points of runs, and their mean and range over seeds."""

from collections.abc import Sequence

import pandas as pd

from atomsweep.report.read.tidy import records
from atomsweep.report.tables import titles
from atomsweep.report.tables.styles import Styles
from atomsweep.sweep.claims import is_split
from atomsweep.tracking import schema

DRAWN_SPLITS = (schema.VAL_SPLITS[0], schema.VAL_AVERAGE)  # whose curves are drawn
MOST_OF_ROW = 20  # runs of one table row whose curves are read


def series(
    curves: pd.DataFrame,
    df: pd.DataFrame,
    rows: Sequence[str],
    reference: str | None = None,
    styles: Styles | None = None,
) -> pd.DataFrame:
    """Points of curves with the words and the style of their table row.

    Args:
        curves: from `Runs.curves`, of one metric.
        df: the runs of a table.
        rows: columns that tell its rows apart.
        reference: published table that gives the words.
        styles: of the page.

    Returns:
        identity, seed, step, device_seconds, value, label, hue, dash, rank (of the run within its
        row), finished; runs with fewer than two points are left out.
    """
    styles = Styles() if styles is None else styles
    told = []
    for run in records(df):
        style = styles.of(run, rows)
        label = ", ".join(titles.label(column, run[column], reference) for column in rows)
        done = run["state"] == schema.FINISHED
        told.append((run["identity"], run["seed"], label, style.hue, style.dash, done))
    named = ["identity", "seed", "label", "hue", "dash", "finished"]
    points = curves[curves["value"].notna() & curves["device_seconds"].notna()]
    several = points.groupby("identity")["value"].transform("size") >= 2
    joined = points[several].merge(pd.DataFrame(told, columns=named), on="identity")
    first = joined.drop_duplicates("identity")
    joined["rank"] = joined["identity"].map(
        dict(zip(first["identity"], first.groupby("label").cumcount(), strict=True))
    )
    kept = ["identity", "seed", "step", "device_seconds", "value"]
    kept += ["label", "hue", "dash", "rank", "finished"]
    return joined[kept].sort_values(["label", "identity", "step"], ignore_index=True)


def lines(points: pd.DataFrame) -> pd.DataFrame:
    """One line per table row: the mean over its seeds, at the steps that all of them logged.

    Where some runs of a row are finished, only these count: one that failed early would end the
    line where it failed.

    Args:
        points: from `series`; not empty.

    Returns:
        label, hue, dash, step, device_seconds (mean), value (mean), low and high (of the seeds), n.
    """
    points = points[points["rank"] < MOST_OF_ROW]
    some_done = points.groupby("label")["finished"].transform("any")
    points = points[points["finished"] | ~some_done]
    seeds = points.groupby("label")["identity"].transform("nunique")
    by_step = points.groupby(["label", "hue", "dash", "step"], sort=False)
    table = by_step.agg(
        device_seconds=("device_seconds", "mean"),
        value=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        n=("identity", "nunique"),
    ).reset_index()
    wanted = table["label"].map(dict(zip(points["label"], seeds, strict=True)))
    return table[table["n"] == wanted].sort_values(["label", "step"], ignore_index=True)


def why_none(title: str, split: str) -> str:
    """Why a table with numbers has no curves; empty where a run is told of, which has none.

    Args:
        title: of its metric.
        split: its first one.
    """
    if split in schema.OF_RUN:
        return ""
    if not is_split(split):
        return f"{title} is measured once, after the training: there are no curves of it."
    return (
        f"No run logged {title} twice, so there are no curves; engine.eval_every=<steps> says how "
        "often it is measured during the training."
    )


def told(points: pd.DataFrame) -> str:
    """What the lines are, for the caption."""
    drawn = lines(points)
    most = int(drawn["n"].max()) if len(drawn) else 1
    text = ""
    if most > 1:
        text = (
            " A line is the mean over the seeds of a row, the band reaches from lowest to highest."
        )
    if points["rank"].max() >= MOST_OF_ROW:
        text += f" Of rows with more than {MOST_OF_ROW} runs the first {MOST_OF_ROW} count."
    return text
