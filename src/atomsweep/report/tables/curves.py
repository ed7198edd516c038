"""Points of learning curves with the words and the style of their table row."""

from collections.abc import Sequence

import pandas as pd

from atomsweep.report.read.values import normal
from atomsweep.report.tables import titles
from atomsweep.tracking import schema

DRAWN_SPLITS = (schema.VAL_SPLITS[0], schema.VAL_AVERAGE)  # whose curves are drawn
MOST_OF_ROW = 5  # lines of one table row


def series(
    curves: pd.DataFrame, frame: pd.DataFrame, rows: Sequence[str], reference: str | None = None
) -> pd.DataFrame:
    """Points of curves with the words and the style of their table row.

    Args:
        curves: from `Runs.curves`, of one metric.
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
        label = ", ".join(titles.label(column, run[column], reference) for column in rows)
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
    if points["rank"].max() < MOST_OF_ROW:
        return ""
    return f" Of rows with more than {MOST_OF_ROW} runs the first {MOST_OF_ROW} are drawn."
