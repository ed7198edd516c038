"""What stands around a table: its title, and the sentences without which it would mislead."""

import re
from collections.abc import Mapping, Sequence
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


NOT_DFT = re.compile(r"\bnot DFT\b", re.IGNORECASE)


def title(rows: list[str], reference: str | None, shared: Mapping[str, Any]) -> str:
    """The published table's title, else the axes and what they vary, or the model and its data."""
    if reference:
        return published.table(reference).title
    model, data = shared.get("choice.model"), data_name(shared)
    if rows == [RUN_AXIS]:
        return " on ".join(word for word in (model or "Runs", data) if word)
    axes = " × ".join(titles.axis_of(column).title for column in rows)
    return f"{axes} of {model}" if model else axes


def data_name(shared: Mapping[str, Any]) -> str | None:
    """What the data are called: the file that was named for them, else the data set."""
    return shared.get("data_files") or shared.get("data")


def labels_note(finished: pd.DataFrame) -> str | None:
    """`mini_oc: classical potential, not DFT`, where the data say so of their labels."""
    told = []
    for data, note in finished[["data", "data_provenance"]].drop_duplicates().itertuples(False):
        if NOT_DFT.search(str(note)):
            before = re.split(r",|\bnot DFT\b", str(note), flags=re.IGNORECASE)[0].strip()
            classical = "classical potential" in str(note)
            told.append(f"{data}: {'classical potential' if classical else before}, not DFT")
    return "; ".join(told) or None


def devices(finished: pd.DataFrame) -> str:
    """Names of the devices that the runs trained on."""
    return ", ".join(dict.fromkeys(d for d in finished["device"] if d)) or "an unknown device"


def caption(
    df: pd.DataFrame,
    cells: pd.DataFrame,
    reference: str | None,
    metric: str,
    device: str,
    without_baseline: Sequence[pd.DataFrame] = (),
    unlike: Sequence[str] = (),
) -> list[str]:
    """Sentences that a reader needs to read the table rightly."""
    finished = df[df["state"] == schema.FINISHED]
    shared = common(finished)
    title, unit, _ = titles.title_of(metric)
    better = {"high": ", higher is better", "low": ", lower is better"}
    told = [f"{title}{f' in {unit}' if unit else ''}{better.get(titles.better(metric), '')}."]
    told += _scale_sentence(df.attrs.get("asked"))
    if finished.empty:
        return [*told, "Nothing of it has finished."]
    several = [str(d) for d in finished["data"].dropna().unique()]
    data = str(data_name(shared) or ", ".join(several) or "an unnamed data set")
    told.append(_data_sentence(data, shared))
    if finished["data_fingerprint"].nunique() > 1:
        told.append(
            "Rows are on different data: compare only those of one data set; each has a best of "
            "its own."
        )
    told.append(_budget_sentence(finished, shared, device))
    on = sorted({device_of(run, f"{cells['split'].iloc[0]}/{metric}") for run in records(finished)})
    if is_timed(metric):
        where = f"unlike devices ({', '.join(on)}): rows do not compare" if len(on) > 1 else on[0]
        told.append(f"Times are on {where}.")
    if cells["stale"].any():
        told.append(f"{grids.STALE_MARK}: made with other code than the present (stale).")
    told += _seed_sentences(cells)
    if within := published.table(reference).within(metric) if reference else 0.0:
        theirs = "" if unlike else ", ours and theirs apart"
        told.append(f"Bold, from two seeds on: best and within {within:g} of it{theirs}.")
    if commands := [f"`{baseline_command(runs)}`" for runs in without_baseline]:
        told.append(f"No Median baseline on this data yet; {', '.join(commands)} makes it.")
    return told + ([apart(reference, unlike)] if reference and unlike else [])


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
    told = []
    if cells["half_width"].notna().any():
        told += ["± is the half-width of the 95 % interval of the mean over seeds (Student's t)."]
    if (cells["mean"].notna() & (cells["n"] == 1)).any():
        told.append("n = 1: no interval.")
    if (part := cells[cells["so_far"].notna()]).size:
        of = f"({part['n'].iloc[0]} of {part['planned'].iloc[0]})"
        told.append(f"{of}: mean of the seeds that are finished, of those that are wanted.")
    return told


def unlike_paper(reference: str, df: pd.DataFrame, asked: Asked | None) -> list[str]:
    """Why numbers of the paper must not stand in one cell with ours; empty where they may.

    They may where data and size are the paper's: its data set, its setting, no smaller stand-in for
    a model, and the sweep file's scale `paper` where it has one.

    Args:
        reference: the published table.
        df: the runs of a table.
        asked: by its sweep file, None where there is none.
    """
    table, paper = published.table(reference), published.paper(reference)
    finished = df[df["state"] == schema.FINISHED]
    df = finished if len(finished) else df
    told = []
    data = list(dict.fromkeys(df["choice.data"].dropna())) if "choice.data" in df else []
    if not data or any(name not in paper.data_names for name in data):
        told.append(f"ours are on {', '.join(map(str, data)) or 'other data'}")
    for column, theirs in table.setting.items():
        told += _unlike(column.partition(".")[2], df, column, {normal(theirs)}, normal(theirs))
    for axis in table.axes:
        if axis.column.startswith("choice.") and axis.column in df:
            small = {key: axis.label(value) for key, value in axis.stand_ins.items()}
            used = dict.fromkeys(v for v in map(normal, df[axis.column]) if v in small)
            told += [f"{axis.name} {value} (paper: {small[value]})" for value in used]
    if asked is not None and "paper" in asked.statement.scale and asked.scale != "paper":
        told.append(f"scale {asked.scale}, not paper")
    return told


def _unlike(name: str, df: pd.DataFrame, column: str, theirs: set[str], shown: str) -> list[str]:
    """What runs have in a column that the paper has not."""
    if column not in df:
        return []
    values = dict.fromkeys(v for v in map(normal, df[column]) if v and v not in theirs)
    return [f"{name} {', '.join(values)} (paper: {shown})"] if values else []


def apart(reference: str, unlike: Sequence[str] = ()) -> str:
    """Why the numbers of a published table stand beside none of ours."""
    table = published.table(reference)
    units = ", ".join(dict.fromkeys(c.unit for c in table.columns if c.unit not in ("1", "1e6")))
    whose = f"Table {table.number} of the paper ({published.paper(reference).dataset}; {units})"
    if unlike:
        return (
            f"{whose} stands apart, in full: its numbers and ours do not compare, as "
            f"{'; '.join(unlike)}."
        )
    return (
        f"{whose} is shown in full; none of its rows and columns is of the kind of these numbers."
    )


def _data_sentence(data: str, shared: Mapping[str, Any]) -> str:
    counts = {k.removeprefix(COUNT): v for k, v in shared.items() if k.startswith(COUNT)}
    size = f", {spelled.count(counts['train'])} training structures" if "train" in counts else ""
    held = sum(counts.get(split, 0) for split in schema.VAL_SPLITS)
    size += f" and {spelled.count(held)} for validation" if held else ""
    note = str(shared.get("data_provenance") or "").rstrip(".")
    by = f" Split by {shared['split_by']}." if shared.get("split_by") else ""
    return f"Data: {data}{size}.{by}{f' {note[0].upper()}{note[1:]}.' if note else ''}"
