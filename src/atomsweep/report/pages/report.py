"""Store of runs → report: which tables, claims and sections, in which words.

`build` decides what is said; `writing.py` turns it into files.
"""

import textwrap
from dataclasses import dataclass, field
from functools import cache

import pandas as pd

from atomsweep.report.figures.budget import budget_section
from atomsweep.report.figures.costs import inference_section, ledger_section, scaling_section
from atomsweep.report.figures.sections import Section
from atomsweep.report.figures.structures import structures_section
from atomsweep.report.read import published
from atomsweep.report.read.layout import Layout
from atomsweep.report.read.runs import Store
from atomsweep.report.read.tidy import CHOICE, CONFIG
from atomsweep.report.tables import ablation as tables
from atomsweep.report.tables import grids as render
from atomsweep.report.tables import parts as tables_of
from atomsweep.report.tables.compute import Curve, curves_of
from atomsweep.report.tables.parts import Gap, Part, gaps_of, make_part
from atomsweep.report.tables.verdicts import FAILS, HOLDS, UNDECIDED, Cell, Evidence, Judged, judge
from atomsweep.sweep.claims import is_split
from atomsweep.tracking import schema

TERMINAL = 110  # characters of a line
VERDICT_WORDS = {HOLDS: "hold", FAILS: "fail", UNDECIDED: "are undecided"}


class NothingFinished(LookupError):
    """There is no number to report; the message says in which state the runs are."""


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
    claims: list[Judged]
    sections: list[Section]
    command: str | None
    source: str
    footnotes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Heading and sweep."""
        return f"{self.heading} · {self.name}"

    def heading_of(self, number: int) -> str:
        """Of a table, from 1: what tells it from the others of the page."""
        part = self.parts[number - 1]
        title, unit, _ = render.title_of(part.metric)
        quantity = f"{title}, {unit}".rstrip(", ")
        if len(self.parts) == 1:
            return quantity
        alike = [other for other in self.parts if other.title == part.title]
        told = quantity if len(alike) == len(self.parts) else f"{part.title}, {quantity}"
        same = [other for other in alike if other.metric == part.metric]
        return told if len(same) == 1 else f"{told} ({number})"

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
        if self.claims:
            shown.append("\n".join(f"{claim.verdict:>9}  {claim.text}" for claim in self.claims))
        return "\n\n".join(shown)


def build(store: Store, frame: pd.DataFrame) -> Report:
    """The report on a frame from `store.sweep` or `store.where`.

    Raises:
        NothingFinished: no run of the frame is finished.
    """
    name = str(frame.attrs.get("sweep") or "runs")
    command = frame.attrs.get("command")
    axes = list(frame.attrs.get("axes") or [])
    layout: Layout | None = frame.attrs.get("layout")
    problems = list(store.problems)
    trained = _trained(frame, axes)
    if layout is None and not (trained["state"] == schema.FINISHED).any():
        raise NothingFinished(_nothing(name, trained, command))
    metrics = layout.statement.metrics if layout else [None]
    parts = [
        make_part(store, part, metric, problems)
        for part in tables.comparable(trained, layout.settings_axes if layout else ())
        if layout is not None or (part["state"] == schema.FINISHED).any()
        for metric in metrics
    ]
    footnotes = []
    for reference in dict.fromkeys(part.reference for part in parts if part.reference):
        paper, table = published.paper(reference), published.table(reference)
        footnotes += [paper.footnotes[key] for key in table.footnotes]
    everything = pd.concat([frame, *(p.baselines for p in parts)]).drop_duplicates("identity")
    evidence = _evidence(store, trained, parts[0], layout)
    report = Report(
        name=name,
        heading=layout.statement.title if layout else _heading(parts),
        summary="",
        parts=parts,
        gaps=list({gap.cell + gap.command: gap for p in parts for gap in gaps_of(p)}.values()),
        trained=trained,
        provenance=everything[everything["state"] != schema.MISSING].reset_index(drop=True),
        problems=list(dict.fromkeys(problems)),
        claims=judge(evidence) if evidence else [],
        sections=[],
        command=command,
        source=store.source,
        footnotes=footnotes,
    )
    report.summary = _summary(report, layout)
    report.sections = [section for section in _sections(store, report) if section]
    report.problems = list(dict.fromkeys([*store.problems, *report.problems]))  # of journals, too
    return report


def _sections(store: Store, report: Report) -> list[Section]:
    """What is told beside tables and claims."""
    found = []
    pictured: set[str] = set()  # runs whose structures are shown
    for number, part in enumerate(report.parts, 1):
        if is_split(part.cells["split"].iloc[0]):
            of_part = [
                budget_section(store, part, number),
                inference_section(part, number),
                scaling_section(part, number),
                structures_section(part, number, report.problems, pictured),
            ]
            if len(report.parts) > 1:
                for section in of_part:
                    section.title += f": {report.heading_of(number)}"
            found += of_part
    return [*found, ledger_section(report.trained)]


def _trained(frame: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Runs without the baseline, unless the baseline is what was asked for."""
    models = frame.get("choice.model", pd.Series(None, frame.index))
    is_baseline = models == tables.BASELINE_MODEL
    trained = frame[~is_baseline].copy() if "choice.model" not in axes else frame.copy()
    if trained.empty:
        trained = frame.copy()
    trained.attrs.update(frame.attrs)
    return trained


def _evidence(
    store: Store, frame: pd.DataFrame, part: Part, layout: Layout | None
) -> Evidence | None:
    if layout is None or not layout.statement.claims:
        return None
    devices = dict(zip(frame["identity"], frame["device"], strict=True))

    @cache
    def curves(metric: str) -> dict[str, Curve]:
        return curves_of(store.curves(frame, [metric]), devices, render.better(metric))

    def words(cell: Cell) -> str:
        label, setting = cell
        told = (
            render.label((CONFIG if "." in axis else CHOICE) + axis, value, reference)
            for axis, value in setting.items()
        )
        return label or ", ".join(told)

    reference = tables_of.reference_of(layout, part.rows, {}, [])
    return Evidence(layout, frame, reference, curves, words)


def _heading(parts: list[Part]) -> str:
    titles = list(dict.fromkeys(part.title for part in parts))
    return titles[0] if len(titles) == 1 else "Comparison"


def _summary(report: Report, layout: Layout | None) -> str:
    parts, frame = report.parts, report.trained
    done = int((frame["state"] == schema.FINISHED).sum())
    told = [f"{done} of {len(frame)} runs finished."]
    if stale := sum(value is True for value in frame["stale"]):
        told.append(f"{stale} of them with other code than the present ({schema.STALE}).")
    for part in parts:
        best = part.best()
        if best is None:
            continue
        title, unit, decimals = render.title_of(part.metric)
        ratio = f", {render.times(best['ratio'])} Median" if best["ratio"] == best["ratio"] else ""
        split = render.split_title(best["split"])
        told.append(
            f"Best {title[0].lower()}{title[1:]} on {split}: "
            f"{render.number(best['mean'], decimals)}{f' {unit}' if unit else ''} "
            f"({part.label(best)}){ratio}."
        )
    for verdict in (HOLDS, FAILS, UNDECIDED):
        if n := sum(claim.verdict == verdict for claim in report.claims):
            told.append(f"{n} of {len(report.claims)} claims {VERDICT_WORDS[verdict]}.")
    if layout is not None and layout.dropped:
        told.append(f"{layout.dropped} planned runs are no longer in the sweep file.")
    metrics = {part.metric for part in parts}
    if len(parts) > len(metrics):
        told.append(f"{len(parts)} tables, as data sets, tasks or budgets differ.")
    return " ".join(told)


def _nothing(name: str, frame: pd.DataFrame, command: str | None) -> str:
    states = ", ".join(f"{n} {state}" for state, n in frame["state"].value_counts().items())
    failed = frame[frame["state"] == schema.FAILED]
    first = f"; first failure: {failed['message'].iloc[0]}" if len(failed) else ""
    fill = f"; run `{command}`" if command else ""
    return f"nothing of {name} has finished ({states or 'no runs'}){first}{fill}"
