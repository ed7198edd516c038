"""What stands around a table: its title, and the sentences without which it would mislead."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from atomsweep import console
from atomsweep.report.read import published
from atomsweep.report.read.asked import Asked
from atomsweep.report.read.tidy import COUNT, common, device_of, is_timed, records
from atomsweep.report.read.values import normal
from atomsweep.report.tables import grids, spelled, titles
from atomsweep.report.tables.baselines import baseline_command
from atomsweep.tracking import schema

RUN_AXIS = "name"  # what tells rows apart where nothing was swept


def title(rows: list[str], reference: str | None, shared: Mapping[str, Any]) -> str:
    """The published table's title, else the axes and the model that they vary."""
    if reference:
        return published.table(reference).title
    axes = " × ".join(titles.axis_of(column).title for column in rows)
    model = shared.get("choice.model")
    return f"{axes} of {model}" if model and rows != [RUN_AXIS] else axes


def devices(finished: pd.DataFrame) -> str:
    """Names of the devices that the runs trained on."""
    return ", ".join(dict.fromkeys(d for d in finished["device"] if d)) or "an unknown device"


def caption(
    frame: pd.DataFrame,
    cells: pd.DataFrame,
    reference: str | None,
    metric: str,
    device: str,
    without_baseline: Sequence[pd.DataFrame] = (),
) -> list[str]:
    """Sentences that a reader needs to read the table rightly."""
    finished = frame[frame["state"] == schema.FINISHED]
    shared = common(finished)
    title, unit, _ = titles.title_of(metric)
    better = {"high": ", higher is better", "low": ", lower is better"}
    told = [f"{title}{f' in {unit}' if unit else ''}{better.get(titles.better(metric), '')}."]
    told += _scale_sentence(frame.attrs.get("asked"))
    if finished.empty:
        return [*told, "Nothing of it has finished."]
    several = [str(d) for d in finished["data"].dropna().unique()]
    data = str(shared.get("data") or ", ".join(several) or "an unnamed data set")
    told.append(_data_sentence(data, shared))
    if finished["data_fingerprint"].nunique() > 1:
        told.append(
            "Rows are on different data: compare only those of one data set; each has a best of "
            "its own."
        )
    told.append(_budget_sentence(finished, shared, device))
    on = sorted({device_of(run, f"{cells['split'].iloc[0]}/{metric}") for run in records(finished)})
    if is_timed(metric):
        unlike = f"unlike devices ({', '.join(on)}): rows do not compare" if len(on) > 1 else on[0]
        told.append(f"Times are on {unlike}.")
    if cells["stale"].any():
        told.append(f"{grids.STALE_MARK}: made with other code than the present (stale).")
    told += _seed_sentences(cells)
    if commands := [f"`{baseline_command(runs)}`" for runs in without_baseline]:
        told.append(f"No Median baseline on this data yet; {', '.join(commands)} makes it.")
    if reference is None:
        return told
    chosen = [str(option) for option in finished["choice.data"].unique()]
    return told + _paper_sentences(reference, metric, data, shared, chosen)


def _scale_sentence(asked: Asked | None) -> list[str]:
    """The scale of the sweep file, and what was typed besides."""
    if asked is None or asked.scale is None:
        return []
    overrides = " ".join(asked.statement.scale.get(asked.scale, []))
    as_filed = asked.name in (asked.file, f"{asked.file}-{asked.scale}")
    typed = "" if as_filed else f", changed by what was typed: `{asked.command}`"
    return [f"Scale {asked.scale}: `{overrides}`{typed}{asked.statement.smaller}."]


def _budget_sentence(finished: pd.DataFrame, shared: Mapping[str, Any], device: str) -> str:
    spent = console.duration(finished["device_seconds"].mean())
    return (
        f"Budget: {shared.get('budget') or 'as each run says'} per run, on average "
        f"{spent} of training on {device}, evaluation apart."
    )


def _seed_sentences(cells: pd.DataFrame) -> list[str]:
    """What ± means, or why there is none."""
    if not (cells["planned"] > 1).any():
        return ["n = 1 seed, so no interval."]
    told = ["± is the half-width of the 95 % interval of the mean over seeds (Student's t)."]
    return told + ["n = 1: no interval."] * bool((cells["n"] == 1).any())


def _paper_sentences(
    reference: str, metric: str, data: str, shared: Mapping[str, Any], chosen: Collection[str]
) -> list[str]:
    """What a comparison with the paper must be read with: its data and its setting.

    `chosen` are the options of the group `data` that the runs have.
    """
    table, paper = published.table(reference), published.paper(reference)
    told = []
    if within := table.within(metric):
        told.append(f"Bold: best and within {within:g} of it, ours and theirs apart.")
    if not set(chosen) <= set(paper.data_names):
        told.append(
            f"Results on {data} are ours on {data}, the paper's are on {paper.dataset}; "
            f"the difference is between two tasks and judges neither."
        )
    differs = [
        f"{column.partition('.')[2]} {normal(shared[column])} (paper: {normal(theirs)})"
        for column, theirs in table.setting.items()
        if column in shared and normal(shared[column]) != normal(theirs)
    ]
    differs += [
        f"{axis.name} {normal(shared[axis.column])} (paper: "
        f"{axis.label(axis.stand_ins[normal(shared[axis.column])])})"
        for axis in table.axes
        if axis.column != "label" and normal(shared.get(axis.column)) in axis.stand_ins
    ]
    if differs:
        told.append(f"Beyond the data, ours differ in {', '.join(differs)}.")
    return told


def apart(reference: str) -> str:
    """Why the numbers of a published table stand beside none of ours."""
    table = published.table(reference)
    units = ", ".join(dict.fromkeys(c.unit for c in table.columns if c.unit not in ("1", "1e6")))
    return (
        f"Table {table.number} of the paper ({published.paper(reference).dataset}; {units}) is "
        "shown in full; none of its rows and columns is of the same kind as these numbers."
    )


def _data_sentence(data: str, shared: Mapping[str, Any]) -> str:
    counts = {k.removeprefix(COUNT): v for k, v in shared.items() if k.startswith(COUNT)}
    size = f", {spelled.count(counts['train'])} training structures" if "train" in counts else ""
    held = sum(counts.get(split, 0) for split in schema.VAL_SPLITS)
    size += f" and {spelled.count(held)} for validation" if held else ""
    note = shared.get("data_provenance")
    return f"Data: {data}{size}.{f' {note.rstrip(chr(46))}.' if note else ''}"
