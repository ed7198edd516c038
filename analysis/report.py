"""Store of runs → report: which tables, in which words, written to which files.

`build` decides what is said; `write` turns it into Markdown, CSV, LaTeX, figures and a page.
"""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import curves, published, render, tables, words
from analysis.frames import METRIC, as_float, columns, common, records
from analysis.render import Grid, Text
from analysis.runs import Store
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TERMINAL = 110  # characters of a line


class NothingFinished(LookupError):
    """There is no number to report; the message says in which state the runs are."""


@dataclass
class Part:
    """One table: runs of one data set, task and budget."""

    frame: pd.DataFrame
    cells: pd.DataFrame
    rows: list[str]
    metric: str
    reference: str | None
    baseline: pd.Series | None
    title: str
    caption: list[str]
    device: str
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)  # metric → points

    @property
    def layout(self) -> Grid:
        """The table as papers print it."""
        return render.paper_layout(self.cells, self.rows, self.reference)

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
        """Final value of the baseline, NaN without one."""
        value = None if self.baseline is None else self.baseline.get(METRIC + metric)
        return as_float(value)

    def best(self) -> pd.Series | None:
        """The best cell of the first split, None where none has a number."""
        first = self.cells["split"].iloc[0]
        here = self.cells[(self.cells["split"] == first) & self.cells["mean"].notna()]
        if here.empty:
            return None
        high = self.metric in render.BETTER_HIGH
        return here.loc[here["mean"].idxmax() if high else here["mean"].idxmin()]

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


@dataclass
class Report:
    """Everything a report says."""

    name: str
    heading: str
    summary: str
    parts: list[Part]
    gaps: list[Gap]
    trained: pd.DataFrame  # what was asked for, without the baseline
    provenance: pd.DataFrame  # every run behind the report
    problems: list[str]
    command: str | None
    source: str
    footnotes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Heading and sweep."""
        return f"{self.heading} · {self.name}"

    @property
    def complete(self) -> bool:
        """Nothing is missing, nothing contradicts."""
        return not self.gaps and not self.problems

    @property
    def text(self) -> str:
        """Title, summary and tables: what a terminal shows."""
        shown = [self.title, textwrap.fill(self.summary, TERMINAL)]
        for part in self.parts:
            shown.append(render.markdown(part.layout))
            shown.append(textwrap.fill(" ".join(part.caption), TERMINAL))
        return "\n\n".join(shown)


def build(store: Store, frame: pd.DataFrame) -> Report:
    """The report on a frame from `store.sweep` or `store.where`.

    Raises:
        NothingFinished: no run of the frame is finished.
    """
    name = str(frame.attrs.get("sweep") or "runs")
    command = frame.attrs.get("command")
    axes = list(frame.attrs.get("axes") or [])
    problems = list(store.problems)
    is_baseline = frame.get("choice.model", pd.Series(None, frame.index)) == tables.BASELINE_MODEL
    trained = frame[~is_baseline].copy() if "choice.model" not in axes else frame.copy()
    if trained.empty:
        trained = frame.copy()
    trained.attrs.update(frame.attrs)
    if not (trained["state"] == schema.FINISHED).any():
        raise NothingFinished(_nothing(name, trained, command))
    split = tables.comparable(trained)
    parts = [
        _part(store, part, axes, problems)
        for part in split
        if (part["state"] == schema.FINISHED).any()
    ]
    gaps = [gap for part in parts for gap in _gaps(part)]
    footnotes = []
    for reference in dict.fromkeys(part.reference for part in parts if part.reference):
        paper, table = published.paper(reference), published.table(reference)
        footnotes += [paper.footnotes[key] for key in table.footnotes]
    everything = pd.concat(
        [frame, *(p.baseline.to_frame().T for p in parts if p.baseline is not None)]
    ).drop_duplicates("identity")
    return Report(
        name=name,
        heading=_heading(parts),
        summary=_summary(parts, trained),
        parts=parts,
        gaps=gaps,
        trained=trained,
        provenance=everything.reset_index(drop=True),
        problems=problems,
        command=command,
        source=store.source,
        footnotes=footnotes,
    )


def write(report: Report, out: Path) -> Path:
    """Write a report into `out`; returns the page.

    report.html, report.md, table.csv (one line per cell), runs.csv, curves.csv, table.tex, and each
    figure as SVG, PDF and PNG.
    """
    from analysis.page import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page(report), encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    cells = pd.concat([part.cells.assign(table=i) for i, part in enumerate(report.parts, 1)])
    _write_csv(cells, out / "table.csv")
    runs = report.provenance.assign(sweeps=report.provenance["sweeps"].map(" ".join))
    _write_csv(runs, out / "runs.csv")
    tex = (render.latex(part.layout, part.text, report.name) for part in report.parts)
    (out / "table.tex").write_text("\n".join(tex), encoding="utf-8")
    drawn = []
    for part, metric, name in _figures(report):
        curves.save(part.figures[metric], out / name)
        drawn.append(
            part.curves[metric].drop(columns=["hue", "dash", "rank"]).assign(metric=metric)
        )
    if drawn:
        _write_csv(pd.concat(drawn), out / "curves.csv")
    return out / "report.html"


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.10g")


def _figures(report: Report) -> list[tuple[Part, str, str]]:
    """Part, metric and file name of each figure."""
    several = len(report.parts) > 1
    return [
        (part, metric, f"curves-{number}-{split}" if several else f"curves-{split}")
        for number, part in enumerate(report.parts, 1)
        for metric in part.curves
        for split in [metric.partition("/")[0]]
    ]


def markdown(report: Report) -> str:
    """The whole report as Markdown."""
    text = [f"# {report.title}", report.summary]
    for part in report.parts:
        text += [f"## {part.title}", render.markdown(part.layout), " ".join(part.caption)]
        if part.reference:
            text += [
                f"### Beside the paper: {citation(part.reference)}",
                render.markdown(render.beside_layout(part.cells, part.rows, part.reference)),
            ]
    if report.footnotes:
        text += ["### On the published numbers", _bullets(report.footnotes)]
    if figures := _figures(report):
        text += ["## Learning curves"]
        text += [f"![{metric} against training time]({name}.svg)" for _, metric, name in figures]
    if report.gaps:
        text += ["## Cells without a number", render.markdown(gap_grid(report.gaps))]
        if report.command:
            text += [f"All of them, and nothing else, at once: `{report.command}`"]
    text += ["## Provenance", render.markdown(provenance_grid(report.provenance))]
    if report.problems:
        text += ["## Problems", _bullets(report.problems)]
    return "\n\n".join(text) + "\n"


def citation(reference: str) -> str:
    """`Hu … (2021), arXiv:2103.01436, Table 5`."""
    paper, table = published.paper(reference), published.table(reference)
    return f"{paper.citation}, arXiv:{paper.arxiv}, Table {table.number}"


def gap_grid(gaps: list[Gap]) -> Grid:
    """Cells without a number, one per line."""
    rows = [[Text(g.cell), Text(g.state), Text(g.reason), Text(f"`{g.command}`")] for g in gaps]
    return Grid(["Cell", "State", "Reason", "Filled by"], rows, "llll")


def provenance_grid(frame: pd.DataFrame) -> Grid:
    """One line per run: what it was, on what, from which code, at which cost."""
    header = ["Run", "Identity", "State", "Seed", "Steps", "Parameters", "Training", "Evaluation"]
    header += ["GPU-days", "Device", "Commit", "Data"]
    rows = [
        [
            str(run["name"] or render.NOTHING),
            run["identity"],
            state_of(run),
            render.count(run["seed"]),
            render.count(run["step"]),
            render.count(run["parameters"]),
            render.duration(run["device_seconds"]),
            render.duration(run["eval_seconds"]),
            render.number(run["gpu_days"]),
            run["device"] or render.NOTHING,
            commit(run),
            " ".join(str(v) for v in (run["data"], run["data_fingerprint"]) if v) or render.NOTHING,
        ]
        for run in records(frame)
    ]
    return render.plain(header, rows, "lll" + "r" * 6 + "lll")


def state_of(run: Mapping[str, Any]) -> str:
    """State of a run, `stale` where it is finished with other code than the present."""
    return schema.STALE if run["stale"] is True else str(run["state"])


def commit(run: Mapping[str, Any]) -> str:
    """Short commit, with a + where there were uncommitted changes."""
    if not run["commit"]:
        return render.NOTHING
    return f"{str(run['commit'])[:9]}{'+' if run['dirty'] else ''}"


def slug(name: str) -> str:
    """A name as a relative path: letters, digits and `._-/` stay, `..` does not."""
    parts = [re.sub(r"[^\w.-]+", "-", part).strip(".-") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "report"


def _part(store: Store, frame: pd.DataFrame, axes: list[str], problems: list[str]) -> Part:
    rows = [axis for axis in axes if axis in frame] or [words.RUN_AXIS]
    finished = frame[frame["state"] == schema.FINISHED]
    shared = common(finished)
    reference = published.matching(rows, shared)
    metric = _metric(finished, reference)
    table = published.table(reference) if reference else None
    baseline = tables.baseline_of(store.runs, frame)
    splits = _splits(finished, baseline, metric)
    better = "high" if metric in render.BETTER_HIGH else "low"
    arguments: dict[str, Any] = {
        "best_within": table.best_within if table else 0.0,
        "better": better,
        "baseline": baseline,
        "reference": reference,
    }
    try:
        cells = tables.ablation_table(frame, rows, metric, splits, **arguments)
    except tables.UnlikeRuns as error:
        problems.append(f"{error}; each run has a row of its own")
        rows = [words.RUN_AXIS] if frame["name"].is_unique else ["identity"]
        arguments["reference"] = reference = table = None
        cells = tables.ablation_table(frame, rows, metric, splits, **arguments)
    problems += _metric_problems(finished, metric, splits)
    cells = tables.in_order(cells, rows, reference)
    device = words.devices(finished)
    caption = words.caption(frame, cells, reference, metric, baseline, device)
    part = Part(
        frame=frame,
        cells=cells,
        rows=rows,
        metric=metric,
        reference=reference,
        baseline=baseline,
        title=words.title(rows, reference, shared),
        caption=caption,
        device=device,
    )
    part.curves = _curves(store, tables.in_order(frame, rows, reference), part)
    return part


def _heading(parts: list[Part]) -> str:
    titles = list(dict.fromkeys(part.title for part in parts))
    return titles[0] if len(titles) == 1 else "Comparison"


def _curves(store: Store, frame: pd.DataFrame, part: Part) -> dict[str, pd.DataFrame]:
    """Curves of the first split and of the average, where they were logged during training."""
    names = [schema.metric_name(split, part.metric) for split in curves.SPLITS]
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
    wanted = [c.metric for c in published.measured(published.table(reference))] if reference else []
    for metric in [*wanted, schema.FORCES_MAE, *there]:
        if metric in there:
            return str(metric)
    return schema.FORCES_MAE


def _splits(finished: pd.DataFrame, baseline: pd.Series | None, metric: str) -> list[str]:
    """The four splits and their average, without those that no run has."""

    def known(split: str) -> bool:
        column = f"{METRIC}{schema.metric_name(split, metric)}"
        return column in finished and bool(finished[column].notna().any())

    return [split for split in tables.SPLITS if known(split)] or list(tables.SPLITS)


def _metric_problems(finished: pd.DataFrame, metric: str, splits: list[str]) -> list[str]:
    found = []
    for split in splits:
        column = f"{METRIC}{schema.metric_name(split, metric)}"
        lacking = finished[finished[column].isna()] if column in finished else finished
        for name, identity in zip(lacking["name"], lacking["identity"], strict=True):
            told = schema.metric_name(split, metric)
            found.append(f"{name}-{identity} is finished without a number for {told}")
    return found


def _summary(parts: list[Part], frame: pd.DataFrame) -> str:
    done = int((frame["state"] == schema.FINISHED).sum())
    told = [f"{done} of {len(frame)} runs finished."]
    if stale := sum(value is True for value in frame["stale"]):
        told.append(f"{stale} of them with other code than the present ({schema.STALE}).")
    for part in parts:
        best = part.best()
        if best is None:
            continue
        title, unit, decimals = render.METRIC_TITLES.get(part.metric, (part.metric, "", 4))
        ratio = f", {render.times(best['ratio'])} Median" if best["ratio"] == best["ratio"] else ""
        split = render.SPLIT_TITLES.get(best["split"], best["split"])
        told.append(
            f"Best {title[0].lower()}{title[1:]} on {split}: "
            f"{render.number(best['mean'], decimals)}{f' {unit}' if unit else ''} "
            f"({part.label(best)}){ratio}."
        )
    if len(parts) > 1:
        told.append(f"{len(parts)} tables, as data sets, tasks or budgets differ.")
    return " ".join(told)


def _gaps(part: Part) -> list[Gap]:
    gaps = []
    for run in records(part.frame[part.frame["state"] != schema.FINISHED]):
        seed = f", seed {render.count(run['seed'])}" if (part.cells["planned"] > 1).any() else ""
        progress = ""
        if run["state"] in (schema.RUNNING, schema.INTERRUPTED) and run["total_steps"]:
            progress = f"step {render.count(run['step'])} of {render.count(run['total_steps'])}"
        reason = "; ".join(t for t in (run["message"], progress) if t) or render.NOTHING
        gaps.append(Gap(part.label(run) + seed, run["state"], reason, run["command"]))
    if part.baseline is None:
        command = words.baseline_command(part.frame)
        gaps.append(Gap("Median", schema.MISSING, "no finished baseline on this data", command))
    return gaps


def _nothing(name: str, frame: pd.DataFrame, command: str | None) -> str:
    states = ", ".join(f"{n} {state}" for state, n in frame["state"].value_counts().items())
    failed = frame[frame["state"] == schema.FAILED]
    first = f"; first failure: {failed['message'].iloc[0]}" if len(failed) else ""
    fill = f"; run `{command}`" if command else ""
    return f"nothing of {name} has finished ({states or 'no runs'}){first}{fill}"


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
