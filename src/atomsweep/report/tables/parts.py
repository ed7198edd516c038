"""One table of a report: runs of one data set, task and budget, and one metric."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from atomsweep.report.figures import curves
from atomsweep.report.read import published
from atomsweep.report.read.layout import Layout
from atomsweep.report.read.papers import EVALUATED, Table
from atomsweep.report.read.runs import Store
from atomsweep.report.read.tidy import METRIC, as_float, columns, common, normal, records
from atomsweep.report.tables import ablation as tables
from atomsweep.report.tables import grids as render
from atomsweep.report.tables import words
from atomsweep.report.tables.grids import Grid
from atomsweep.sweep.claims import is_split
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Part:
    """A table, and what belongs to it."""

    frame: pd.DataFrame
    cells: pd.DataFrame
    rows: list[str]
    metric: str
    reference: str | None
    baselines: pd.DataFrame  # a Median run for each data set that has one
    title: str
    caption: list[str]
    device: str
    across: list[str] = field(default_factory=list)  # those of `rows` that are columns of the file
    against_baseline: bool = True
    baseline_line: bool = True  # it has a line of its own, and is none of the rows
    paper: str | None = None  # published table that the file names, whether it stands beside or not
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)  # metric → points

    @property
    def layout(self) -> Grid:
        """The table as papers print it."""
        name = "Median" if self.against_baseline else None
        return render.paper_layout(self.cells, self.rows, self.reference, name, self.baseline_line)

    @property
    def matrix(self) -> Grid | None:
        """Rows against columns, where the sweep file has columns."""
        down = [row for row in self.rows if row not in self.across]
        if not self.across or not down:
            return None
        return render.matrix_layout(self.cells, down, self.across, self.reference)

    @property
    def text(self) -> str:
        """Title and caption as one paragraph."""
        return " ".join([f"{self.title}.", *self.caption])

    @cached_property
    def figures(self) -> "dict[str, Figure]":
        """A drawing of each curve."""
        return {
            metric: curves.draw(points, metric, self.device, self.baseline_value(metric))
            for metric, points in self.curves.items()
        }

    def baseline_value(self, metric: str) -> float:
        """Final value of the baseline, NaN where there is none or there are several."""
        one = len(tables.data_of(self.frame)) == len(self.baselines) == 1
        return as_float(self.baselines.iloc[0].get(METRIC + metric)) if one else math.nan

    def best(self) -> pd.Series | None:
        """The best cell of the first split, None where none has a number."""
        first = self.cells["split"].iloc[0]
        here = self.cells[(self.cells["split"] == first) & self.cells["mean"].notna()]
        if here.empty or render.better(self.metric) == "neither":
            return None
        high = render.better(self.metric) == "high"
        return here.loc[here["mean"].idxmax() if high else here["mean"].idxmin()]

    def members(self) -> dict[str, dict[float, dict[str, Any]]]:
        """Label of each table row → seed → run, of rows all of whose runs are finished."""
        found: dict[str, dict[float, dict[str, Any]]] = {}
        open_ = set()
        for run in records(self.frame):
            label = self.label(run)
            if run["state"] == schema.FINISHED:
                found.setdefault(label, {})[run["seed"]] = run
            else:
                open_.add(label)
        return {label: runs for label, runs in found.items() if label not in open_}

    def label(self, run: Mapping[str, Any] | pd.Series) -> str:
        """A run in the words of its table row, e.g. `Spherical, Swish`."""
        return ", ".join(render.label(c, run.get(c), self.reference) for c in self.rows)


@dataclass
class Gap:
    """A cell without a number, why, and what fills it."""

    cell: str
    state: str
    reason: str
    command: str


def make_part(store: Store, frame: pd.DataFrame, wanted: str | None, problems: list[str]) -> Part:
    """The table of some runs.

    Args:
        store: everything, for baseline and curves.
        frame: runs that may share a table.
        wanted: metric that the sweep file names; None to choose one.
        problems: what is missing or wrong is added.
    """
    layout: Layout | None = frame.attrs.get("layout")
    axes = list(frame.attrs.get("axes") or [])
    rows = [axis for axis in axes if axis in frame] or [words.RUN_AXIS]
    finished = frame[frame["state"] == schema.FINISHED]
    shared = common(finished)
    reference = reference_of(layout, rows, shared, problems)
    metric = _metric(finished, reference) if wanted is None else wanted
    table = published.table(reference) if reference else None
    baselines = tables.baselines_of(store.runs, frame)
    metric, splits = _splits(finished, table, metric)
    declared = list(layout.settings_axes) if layout else []
    arguments: dict[str, Any] = {
        "best_within": table.within(metric) if table else 0.0,
        "better": render.better(metric),
        "baselines": baselines,
        "reference": reference,
        "declared": declared,
    }
    try:
        cells = tables.ablation_table(frame, rows, metric, splits, **arguments)
    except tables.UnlikeRuns as error:
        problems.append(f"{error}; each run has a row of its own")
        rows = [words.RUN_AXIS] if frame["name"].is_unique else ["identity"]
        arguments["reference"] = reference = table = None
        cells = tables.ablation_table(frame, rows, metric, splits, **arguments)
    problems += _metric_problems(finished, metric, splits)
    order = None if layout else reference
    cells = tables.in_order(cells, rows, order)
    paper = reference
    if table is not None and cells["published"].isna().all():
        arguments["reference"] = reference = None
    device = words.devices(finished)
    # what the median of forces can be held against
    judged = is_split(splits[0]) and metric.startswith("forces_")
    part = Part(
        frame=frame,
        cells=cells,
        rows=rows,
        metric=metric,
        reference=reference,
        baselines=baselines,
        title=layout.statement.title if layout else words.title(rows, reference, shared),
        caption=words.caption(
            frame, cells, reference, metric, device, lacks_baseline(frame, baselines, judged)
        ),
        device=device,
        across=[c for c in frame.attrs.get("columns") or [] if c in rows],
        against_baseline=judged,
        baseline_line=judged and not _has_baseline(cells),
        paper=paper,
    )
    if paper is not None and reference is None:
        part.caption.append(words.apart(paper))
    part.curves = _curves(store, tables.in_order(frame, rows, order), part)
    return part


def reference_of(
    layout: Layout | None, rows: list[str], shared: Mapping[str, Any], problems: list[str]
) -> str | None:
    """The published table that the sweep file names, else the one that suits what was swept."""
    if layout is None:
        return published.matching(rows, shared)
    named = layout.statement.published
    if named is not None and named not in published.references():
        told = (
            f"{layout.file} names the published table {named}, which is not in analysis/published"
        )
        if told not in problems:
            problems.append(told)
        return None
    return named


def gaps_of(part: Part) -> list[Gap]:
    """Cells without a number."""
    gaps = []
    for run in records(part.frame[part.frame["state"] != schema.FINISHED]):
        seed = f", seed {render.count(run['seed'])}" if (part.cells["planned"] > 1).any() else ""
        progress = ""
        if run["state"] in (schema.RUNNING, schema.INTERRUPTED) and run["total_steps"]:
            progress = f"step {render.count(run['step'])} of {render.count(run['total_steps'])}"
        reason = "; ".join(t for t in (run["message"], progress) if t) or render.NOTHING
        gaps.append(Gap(part.label(run) + seed, run["state"], reason, run["command"]))
    for runs in lacks_baseline(part.frame, part.baselines, part.baseline_line):
        command = words.baseline_command(runs)
        gaps.append(Gap("Median", schema.MISSING, "no finished baseline on this data", command))
    return gaps


def lacks_baseline(
    frame: pd.DataFrame, baselines: pd.DataFrame, judged: bool = True
) -> list[pd.DataFrame]:
    """Runs of each data set that has no baseline; all runs where none has finished."""
    if not judged:
        return []
    data, there = tables.data_of(frame), set(baselines.get("data_fingerprint", ()))
    if not data:
        return [frame]
    return [frame[frame["data_fingerprint"] == one] for one in data if one not in there]


def _has_baseline(cells: pd.DataFrame) -> bool:
    """Whether the baseline is a row of the table."""
    models = cells.get("choice.model")
    return models is not None and bool((models == tables.BASELINE_MODEL).any())


def _curves(store: Store, frame: pd.DataFrame, part: Part) -> dict[str, pd.DataFrame]:
    """Curves of the first split and of the average, where they were logged during training."""
    names = [schema.metric_name(split, part.metric) for split in curves.SPLITS]
    keys = frame[part.rows].map(normal).apply(tuple, axis=1)
    frame = frame[frame.groupby(keys, sort=False).cumcount() <= curves.MOST]  # one more is told of
    logged = store.curves(frame, names)
    found = {}
    for name in names:
        points = curves.series(logged[logged["metric"] == name], frame, part.rows, part.reference)
        if not points.empty:
            found[name] = points
    return found


def _metric(finished: pd.DataFrame, reference: str | None) -> str:
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


def _splits(finished: pd.DataFrame, table: Table | None, metric: str) -> tuple[str, list[str]]:
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
    others -= {schema.TRAIN, *tables.SPLITS}
    splits = [*schema.VAL_SPLITS, *sorted(others, reverse=True), schema.VAL_AVERAGE]
    theirs = [c.split for c in table.columns if c.metric == name and c.split] if table else []
    found = [before + split for split in splits if known(before + split)]
    return name, found or theirs or [before + split for split in tables.SPLITS]


def _metric_problems(finished: pd.DataFrame, metric: str, splits: list[str]) -> list[str]:
    found = []
    for split in splits:
        column = f"{METRIC}{schema.metric_name(split, metric)}"
        lacking = finished[finished[column].isna()] if column in finished else finished
        for name, identity in zip(lacking["name"], lacking["identity"], strict=True):
            told = schema.metric_name(split, metric)
            found.append(f"{name}-{identity} is finished without a number for {told}")
    return found
