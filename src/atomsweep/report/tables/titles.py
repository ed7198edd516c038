"""Titles of metrics, splits and axes, and the paper's words for values of an axis."""

import re
from functools import cache
from typing import Any

from atomsweep.report.read import published
from atomsweep.report.read.papers import Axis
from atomsweep.report.read.tidy import CHOICE, CONFIG
from atomsweep.report.read.values import normal
from atomsweep.report.tables.spelled import NOTHING
from atomsweep.tracking import schema

SPLIT_TITLES = {
    schema.TRAIN: "Train",
    "val_id": "ID",
    "val_ood_ads": "OOD Ads",
    "val_ood_cat": "OOD Cat",
    "val_ood_both": "OOD Both",
    "val_ood": "OOD",
    schema.VAL_AVERAGE: "Avg",
}
METRIC_TITLES = {
    schema.FORCES_MAE: ("Force MAE", "eV/Å", 4),
    schema.FORCES_X_MAE: ("Force MAE, x", "eV/Å", 4),
    schema.FORCES_Y_MAE: ("Force MAE, y", "eV/Å", 4),
    schema.FORCES_Z_MAE: ("Force MAE, z", "eV/Å", 4),
    schema.FORCES_MAGNITUDE: ("Error of the force's magnitude", "eV/Å", 4),
    schema.FORCES_COS: ("Force cosine", "", 4),
    schema.ENERGY_MAE: ("Energy MAE", "eV", 4),
    schema.ENERGY_PER_ATOM_MAE: ("Energy MAE", "meV/atom", 2),
    schema.EWT: ("Energy within 0.02 eV", "", 4),
    schema.EFWT: ("Energy and forces within threshold", "", 4),
    schema.NORMALISED_L1: ("L1 loss", "normalised", 4),
    schema.EPOCH_STRUCTURES_PER_S: ("Structures per second", "1/s", 1),
    schema.LOSS: ("Loss", "", 4),
    "parameters": ("Parameters", "", 0),
    "hidden_channels": ("Hidden channels", "", 0),
    "num_layers": ("Layers", "", 0),
    "ranks": ("Ranks", "", 0),
    "device_hours": ("Training", "device-hours", 2),
    "structures_per_s_per_rank": ("Structures per second and rank", "1/s", 1),
    "forces_std": ("Instability under rotation", "eV/Å", 4),
    "device_hours_per_million": ("Inference", "device-hours per 10⁶ structures", 2),
    "seconds_per_system": ("Relaxation", "s per system", 2),
    "adwt": ("ADwT", "", 4),
    "afbt": ("AFbT", "", 4),
    "fbt": ("FbT", "", 4),
}
OF_ROW = {"label": "Setting", "name": "Run", "identity": "Run"}  # axes that are no choices
_BETTER_HIGH = re.compile(
    r"(^|_)(cos|per_second|per_s|adwt|afbt|fbt|efwt|ewt|accuracy|success)(_|$)"
)


def title_of(metric: str) -> tuple[str, str, int]:
    """Title, unit and decimals of a metric; an unknown one is called by its own name."""
    name = metric.rpartition("/")[2]
    plain = name.replace("_", " ")
    return METRIC_TITLES.get(name, (plain[:1].upper() + plain[1:], "", 4))


def better(metric: str) -> str:
    """Whether "low" or "high" values of a metric are better; "neither" of what a run is."""
    if metric.rpartition("/")[2] in schema.OF_RUN["run"]:
        return "neither"
    return "high" if _BETTER_HIGH.search(metric.rpartition("/")[2]) else "low"


def split_title(split: str, alone: bool = False) -> str:
    """A split as papers call it; the kind of an evaluation by its own name.

    Args:
        split: its name.
        alone: the data have no splits out of distribution, so that none is called `ID`.
    """
    split = split.rpartition("/")[2]  # of `relax/val_id`
    if alone and split in (schema.VAL_SPLITS[0], schema.VAL_AVERAGE):
        return "Validation"
    whole = schema.whole_of(split)
    if whole != split:
        return f"{split_title(whole, alone)}, {split.removeprefix(whole)[1:]}"
    return SPLIT_TITLES.get(split, split.replace("_", " ").capitalize())


def column_title(split: str, metric: str, alone: bool = False) -> str:
    """A column of a table: its split; what a run is has none and goes by its own name."""
    return title_of(metric)[0] if split in schema.OF_RUN else split_title(split, alone)


def full_title(split: str, metric: str, alone: bool = False) -> str:
    """`Force MAE on ID, eV/Å`: a metric on a split, with its unit."""
    title, unit, _ = title_of(metric)
    where = "" if split in schema.OF_RUN else f" on {split_title(split, alone)}"
    return f"{title}{where}{f', {unit}' if unit else ''}"


@cache
def axis_of(column: str, reference: str | None = None) -> Axis:
    """Title and labels of a column: those of the published table, else of all that have it."""
    if reference:
        for axis in published.table(reference).axes:
            if axis.column == column:
                return axis
    tables = [table for paper in published.papers().values() for table in paper.tables.values()]
    found = [axis for table in tables for axis in table.axes if axis.column == column]
    if found:
        labels = {key: name for axis in reversed(found) for key, name in axis.labels.items()}
        return found[0].model_copy(update={"labels": labels})
    if column in OF_ROW:
        return Axis.model_construct(name=column, column=column, title=OF_ROW[column], labels={})
    bare = column.removeprefix(CHOICE).removeprefix(CONFIG)
    title = bare.rpartition(".")[2].replace("_", " ").capitalize()
    return Axis.model_construct(name=bare, column=column, title=title, labels={})


def label(column: str, value: Any, reference: str | None = None) -> str:
    """A value of an axis in the paper's words; – where the run does not tell."""
    told = normal(value)
    return axis_of(column, reference).label(told) if told else NOTHING
