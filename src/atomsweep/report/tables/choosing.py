"""Which metric, which splits and which published table a table of a report shows."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.asked import Asked
from atomsweep.report.read.papers import EVALUATED, Table
from atomsweep.report.read.tidy import METRIC, columns
from atomsweep.report.tables.cells import SPLITS
from atomsweep.sweep.claims import is_split
from atomsweep.tracking import schema


def reference_of(
    asked: Asked | None, rows: list[str], shared: Mapping[str, Any], problems: list[str]
) -> str | None:
    """The published table that the sweep file names, else the one that suits what was swept."""
    if asked is None:
        return published.matching(rows, shared)
    named = asked.statement.published
    if named is not None and named not in published.references():
        told = f"{asked.file} names the published table {named}, which is not in analysis/published"
        if told not in problems:
            problems.append(told)
        return None
    return named


def metric_of(finished: pd.DataFrame, reference: str | None) -> str:
    """The paper's metric where there is a paper, else force MAE, else the first there is."""
    there = [
        c.removeprefix(METRIC).partition("/")[2] for c in columns(finished) if c.startswith(METRIC)
    ]
    told = published.measured(published.table(reference)) if reference else []
    wanted = [c.metric for c in told if c.split not in EVALUATED]
    for metric in [*wanted, schema.FORCES_MAE, *there]:
        if metric in there:
            return str(metric)
    return schema.FORCES_MAE


def metrics_of(df: pd.DataFrame, asked: Asked | None) -> list[str | None]:
    """Metrics that have a table each; None for the one that suits the runs.

    Those of the sweep file. Where nobody chose them, the error of energies is among them wherever
    energies were trained beside forces.
    """
    if asked is not None and "metrics" in asked.statement.model_fields_set:
        return list(asked.statement.metrics)
    there = {c.partition("/")[2] for c in columns(df) if c.startswith(METRIC)}
    of_energies = (schema.ENERGY_PER_ATOM_MAE, schema.ENERGY_MAE)  # older runs have the second
    found = next((metric for metric in of_energies if metric in there), None)
    return [None, found] if found and schema.FORCES_MAE in there else [None]


def splits_of(finished: pd.DataFrame, table: Table | None, metric: str) -> tuple[str, list[str]]:
    """Metric without a split, and its splits: those with a number, the average last.

    Where nothing has finished they are those of the published table, or OC20's.

    `val_id/forces_cos` is of one split; `rotation/forces_std` of an evaluation after training;
    `relax/adwt` of an evaluation of each split, whose splits are `relax/val_id` ….
    """
    first, slash, name = metric.partition("/")
    spread = name in schema.EVALUATED_BY_SPLIT.get(first, ())
    if slash and not spread:
        return name, [first]
    name, before = (name, f"{first}/") if spread else (metric, "")

    def known(split: str) -> bool:
        column = f"{METRIC}{schema.metric_name(split, name)}"
        return column in finished and bool(finished[column].notna().any())

    parts = (c.removeprefix(METRIC).split("/") for c in columns(finished) if c.startswith(METRIC))
    others = {p[0] for p in parts if len(p) == 2 and p[1] == name and is_split(p[0])}
    others = {split for split in others if schema.whole_of(split) == split}
    others -= {schema.TRAIN, *SPLITS}
    splits = [*schema.VAL_SPLITS, *sorted(others, reverse=True), schema.VAL_AVERAGE]
    theirs = [c.split for c in table.columns if c.metric == name and c.split] if table else []
    found = [before + split for split in splits if known(before + split)]
    return name, found or theirs or [before + split for split in SPLITS]


def is_alone(df: pd.DataFrame) -> bool:
    """Whether finished runs have no split out of distribution; False where nothing has finished.

    Then their validation split is not one of several and is called so.
    """
    finished = df[df["state"] == schema.FINISHED]
    others = [f"{METRIC}{split}/" for split in schema.VAL_SPLITS[1:]]
    told = [c for c in columns(finished) if c.startswith(tuple(others))]
    return bool(len(finished)) and not bool(finished[told].notna().any().any())


def metric_problems(finished: pd.DataFrame, metric: str, splits: list[str]) -> list[str]:
    """A sentence for each finished run that lacks a number of the table.

    Where tasks differ, one whose runs all lack it is none that measures it: forces have no energy.
    """
    found = []
    for split in splits:
        column = f"{METRIC}{schema.metric_name(split, metric)}"
        lacking = finished[finished[column].isna()] if column in finished else finished
        if "choice.task" in finished and len(lacking) < len(finished):
            measuring = finished.drop(lacking.index)["choice.task"]
            lacking = lacking[lacking["choice.task"].isin(measuring)]
        for name, identity in zip(lacking["name"], lacking["identity"], strict=True):
            told = schema.metric_name(split, metric)
            found.append(f"{name}-{identity} is finished without a number for {told}")
    return found
