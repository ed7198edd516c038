"""The findings of a report in a few sentences."""

import pandas as pd

from atomsweep.report.read.asked import Asked
from atomsweep.report.tables import spelled, titles
from atomsweep.report.tables.table import Table
from atomsweep.report.tables.trained import UNTRAINED
from atomsweep.report.tables.verdicts import EQUAL, FAILS, HOLDS, UNDECIDED, Judged
from atomsweep.tracking import schema

VERDICT_WORDS = {  # of one claim, of several
    HOLDS: ("holds", "hold"),
    EQUAL: ("is equal", "are equal"),
    FAILS: ("fails", "fail"),
    UNDECIDED: ("is undecided", "are undecided"),
}


def heading_of(tables: list[Table]) -> str:
    """The title that all tables share, else that they are compared."""
    several = list(dict.fromkeys(table.title for table in tables))
    return several[0] if len(several) == 1 else "Comparison"


def summary_of(
    tables: list[Table], df: pd.DataFrame, claims: list[Judged], asked: Asked | None
) -> str:
    """What is finished, the best of each table, and the verdicts.

    Args:
        tables: tables of the report.
        df: its runs, without the baseline.
        claims: with their verdicts.
        asked: by its sweep file, None where there is none.
    """
    done = int((df["state"] == schema.FINISHED).sum())
    told = [f"{done} of {len(df)} runs finished."]
    told += _going(df)
    if stale := sum(value is True for value in df["stale"]):
        told.append(f"{stale} of them with other code than the present ({schema.STALE}).")
    if untrained := sum(map(bool, df[UNTRAINED])):
        decides = "it decides" if untrained == 1 else "they decide"
        but = "but of cost or against the Median"
        told.append(f"{untrained} of them not trained: {decides} no claim {but}.")
    for table in tables:
        best = table.best()
        if best is None:
            continue
        title, unit, decimals = titles.title_of(table.metric)
        ratio = f", {spelled.times(best['ratio'])} Median" if best["ratio"] == best["ratio"] else ""
        split = table.split_title(best["split"])
        seeds = ", one seed" if best["n"] == 1 else ""
        told.append(
            f"Best {title[0].lower()}{title[1:]} on {split}: "
            f"{spelled.number(best['mean'], decimals)}{f' {unit}' if unit else ''} "
            f"({table.label(best)}{seeds}){ratio}."
        )
    for verdict, words in VERDICT_WORDS.items():
        if n := sum(claim.verdict == verdict for claim in claims):
            told.append(f"{n} of {len(claims)} claims {words[n > 1]}.")
    if asked is not None and asked.dropped:
        told.append(f"{asked.dropped} planned runs are no longer in the sweep file.")
    metrics = {table.metric for table in tables}
    if len(tables) > len(metrics):
        told.append(f"{len(tables)} tables, as data sets, tasks or budgets differ.")
    return " ".join(told)


def _going(df: pd.DataFrame) -> list[str]:
    """How far the runs are that train or wait."""
    waiting = int((df["state"] == schema.QUEUED).sum())
    running = df[df["state"] == schema.RUNNING]
    told = []
    if len(running):
        done, total = running["step"].fillna(0).sum(), running["total_steps"].sum()
        share = f", {100 * done / total:.0f} % of their steps done" if total > 0 else ""
        told.append(f"{len(running)} {'runs' if len(running) > 1 else 'run'} training{share}.")
    return told + ([f"{waiting} waiting for their turn."] if waiting else [])


def nothing_finished(name: str, df: pd.DataFrame, command: str | None) -> str:
    """That there is no number to report, in which state the runs are, and what fills them."""
    states = ", ".join(f"{n} {state}" for state, n in df["state"].value_counts().items())
    failed = df[df["state"] == schema.FAILED]
    first = f"; first failure: {failed['message'].iloc[0]}" if len(failed) else ""
    fill = f"; run `{command}`" if command else ""
    return f"nothing of {name} has finished ({states or 'no runs'}){first}{fill}"
