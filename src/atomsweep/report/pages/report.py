"""Runs → report: which tables, claims and sections.

`build` decides what is said; `writing.py` turns it into files.
"""

import textwrap
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING

import pandas as pd

from atomsweep.report.figures.compute import compute_section
from atomsweep.report.figures.curves import STEP, TIME, curve_figures
from atomsweep.report.figures.inference import inference_section
from atomsweep.report.figures.kinds import kinds_section
from atomsweep.report.figures.leaving import leaving_section
from atomsweep.report.figures.scaling import scaling_section
from atomsweep.report.figures.sections import Section
from atomsweep.report.figures.spent import spent_section
from atomsweep.report.figures.structures import structures_section
from atomsweep.report.pages.summary import heading_of, nothing_finished, summary_of
from atomsweep.report.read import published
from atomsweep.report.read.asked import Asked
from atomsweep.report.read.runs import Runs
from atomsweep.report.read.tidy import CHOICE, CONFIG
from atomsweep.report.tables import curves, grids, titles, words
from atomsweep.report.tables.baselines import BASELINE_MODEL
from atomsweep.report.tables.choosing import metrics_of, reference_of
from atomsweep.report.tables.comparable import comparable
from atomsweep.report.tables.compute import Curve, curves_of
from atomsweep.report.tables.evidence import Cell, Evidence
from atomsweep.report.tables.questions import look_at, with_reasons
from atomsweep.report.tables.styles import Styles
from atomsweep.report.tables.table import GOING, Gap, Table, gaps_of, make_table
from atomsweep.report.tables.trained import mark_untrained
from atomsweep.report.tables.verdict_grids import kinds_grid
from atomsweep.report.tables.verdicts import Judged, judge, judge_kinds
from atomsweep.sweep.claims import is_split
from atomsweep.sweep.looks import Look, Looks, looks_of
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ON_KINDS = "Claims on force MAE and cosine, judged on all frames and on those of each kind."
TERMINAL = 110  # characters of a line


class NothingFinished(LookupError):
    """There is no number to report; the message says in which state the runs are."""


@dataclass
class Report:
    """Everything a report says."""

    name: str
    heading: str
    summary: str
    tables: list[Table]
    gaps: list[Gap]
    trained: pd.DataFrame  # what was asked for, without the baseline
    provenance: pd.DataFrame  # every run behind the report
    problems: list[str]
    claims: list[Judged]
    sections: list[Section]
    command: str | None
    source: str
    asked: Asked | None = None  # by a sweep file
    footnotes: list[str] = field(default_factory=list)
    by_kind: list[dict[str, Judged]] = field(default_factory=list)  # claims, on kinds of frames
    looks: Looks | None = None  # claims are looked at after every seed
    level: str | None = None  # `mini_oc: classical potential, not DFT`

    @cached_property
    def figures(self) -> "list[dict[str, dict[str, Figure]]]":
        """Of each table: metric → what it is drawn against → drawing of its learning curves."""
        return [curve_figures(table) for table in self.tables]

    def without_curves(self, number: int) -> str:
        """Why a table, from 1, with finished runs has no curves; empty where it has, or no runs."""
        table = self.tables[number - 1]
        if table.curves or not (table.df["state"] == schema.FINISHED).any():
            return ""
        return curves.why_none(titles.title_of(table.metric)[0], table.splits[0])

    def figure_names(self) -> list[tuple[int, str, str, str]]:
        """Number of the table from 1, metric, what it is drawn against, name of the file."""
        several = len(self.tables) > 1
        return [
            (number, metric, across, f"curves-{f'{number}-' if several else ''}{split}{ending}")
            for number, table in enumerate(self.tables, 1)
            for metric in table.curves
            for split in [metric.partition("/")[0]]
            for across, ending in ((STEP, ""), (TIME, "-time"))
        ]

    @property
    def title(self) -> str:
        """Heading, sweep, and what the labels are where they are not DFT's."""
        return " · ".join(word for word in (self.heading, self.name, self.level) if word)

    @staticmethod
    def quantity_of(table: Table) -> str:
        """`Force MAE, eV/Å`: what a table shows."""
        title, unit, _ = titles.title_of(table.metric)
        return f"{title}, {unit}".rstrip(", ")

    def heading_of(self, number: int) -> str:
        """Of a table, from 1: what tells it from the others of the page."""
        table = self.tables[number - 1]
        quantity = self.quantity_of(table)
        if len(self.tables) == 1:
            return quantity
        alike = [other for other in self.tables if other.title == table.title]
        told = quantity if len(alike) == len(self.tables) else f"{table.title}, {quantity}"
        same = [other for other in alike if other.metric == table.metric]
        return told if len(same) == 1 else f"{told} ({number})"

    @property
    def fill(self) -> str | None:
        """The sweep's own command, where it would run anything."""
        return self.command if any(gap.of_sweep and gap.command for gap in self.gaps) else None

    @property
    def complete(self) -> bool:
        """Nothing is missing, nothing contradicts."""
        return not self.gaps and not self.problems

    @property
    def text(self) -> str:
        """Title, summary and tables: what a terminal shows."""
        shown = [self.title, _filled(self.summary)]
        for table in self.tables:
            shown.append(grids.markdown(table.grid))
            shown.append(_filled(" ".join(table.caption)))
        if self.claims:
            shown.append("\n".join(f"{claim.verdict:>9}  {claim.text}" for claim in self.claims))
        return "\n\n".join(shown)


def _filled(text: str) -> str:
    """Lines of a terminal; names and commands are not broken at their hyphens."""
    return textwrap.fill(text, TERMINAL, break_on_hyphens=False, break_long_words=False)


def build(runs: Runs, df: pd.DataFrame) -> Report:
    """The report on runs from `runs.sweep` or `runs.where`.

    Raises:
        NothingFinished: none of the runs is finished, and none is on its way.
    """
    name = str(df.attrs.get("sweep") or "runs")
    command = df.attrs.get("command")
    axes = list(df.attrs.get("axes") or [])
    asked: Asked | None = df.attrs.get("asked")
    problems = list(runs.problems)
    trained = mark_untrained(_trained(df, axes), runs.df)
    if asked is None and not trained["state"].isin((schema.FINISHED, *GOING)).any():
        raise NothingFinished(nothing_finished(name, trained, command))
    styles = Styles()
    tables = [
        make_table(runs, table, metric, problems, styles)
        for table in comparable(trained, asked.settings_axes if asked else ())
        if asked is not None or table["state"].isin((schema.FINISHED, *GOING)).any()
        for metric in metrics_of(table, asked)
    ]
    everything = pd.concat([df, *(p.baselines for p in tables)]).drop_duplicates("identity")
    evidence = _evidence(runs, trained, tables[0].rows, asked)
    claims = judge(evidence) if evidence else []
    claims = with_reasons(claims, runs.plans.get(name, {}).get(schema.CLAIMS) or {})
    report = Report(
        name=name,
        heading=asked.statement.title if asked else heading_of(tables),
        summary=summary_of(tables, trained, claims, asked),
        tables=tables,
        gaps=list({(gap.cell, gap.command): gap for p in tables for gap in gaps_of(p)}.values()),
        trained=trained,
        provenance=everything[everything["state"] != schema.MISSING].reset_index(drop=True),
        problems=list(dict.fromkeys(problems)),
        claims=claims,
        sections=[],
        command=command,
        source=runs.source,
        asked=asked,
        footnotes=_footnotes(tables),
        by_kind=judge_kinds(evidence) if evidence else [],
        looks=looks_of(asked.statement) if asked else None,
        level=words.labels_note(trained[trained["state"] == schema.FINISHED]),
    )
    report.sections = [section for section in _sections(runs, report) if section]
    report.problems = list(dict.fromkeys([*runs.problems, *report.problems]))  # of journals, too
    return report


def _footnotes(tables: list[Table]) -> list[str]:
    """What a reader must know of the published tables that stand beside ours."""
    found = []
    for reference in dict.fromkeys(table.reference for table in tables if table.reference):
        notes = published.paper(reference).footnotes
        found += [notes[key] for key in published.table(reference).footnotes]
    return found


def _sections(runs: Runs, report: Report) -> list[Section]:
    """What is told beside tables and claims."""
    found = []
    pictured: set[str] = set()  # runs whose structures are shown
    for number, table in enumerate(report.tables, 1):
        if is_split(table.cells["split"].iloc[0]):
            of_table = [
                compute_section(runs, table, number),
                inference_section(table, number),
                scaling_section(table, number),
                structures_section(table, number, report.problems, pictured),
            ]
            if len(report.tables) > 1:
                for section in of_table:
                    section.title += f": {report.heading_of(number)}"
            found += of_table
    return [*found, *_of_runs(report), spent_section(report.trained)]


def _of_runs(report: Report) -> list[Section]:
    """What is the same for all tables of the same runs: told once, at the first that has it."""
    found: list[Section] = []
    for make in (kinds_section, leaving_section):
        first: dict[tuple[str, ...], tuple[int, Section]] = {}
        for number, table in enumerate(report.tables, 1):
            if section := make(table):
                first.setdefault(tuple(table.df["identity"]), (number, section))
        several = len(first) > 1
        for number, section in first.values():
            if several:
                section.slug += f"-{number}"
                section.title += f": {report.heading_of(number)}"
            found.append(section)
    if report.by_kind and (kinds := next((s for s in found if s.slug.startswith("kinds")), None)):
        kinds.grids.append((ON_KINDS, kinds_grid(report.claims, report.by_kind)))
    return found


def _trained(df: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Runs without the baseline, unless the baseline is what was asked for."""
    models = df.get("choice.model", pd.Series(None, df.index))
    is_baseline = models == BASELINE_MODEL
    trained = df[~is_baseline].copy() if "choice.model" not in axes else df.copy()
    if trained.empty:
        trained = df.copy()
    trained.attrs.update(df.attrs)
    return trained


def look(runs: Runs, sweep: str) -> Look:
    """How the claims of a sweep stand, as its page would say."""
    df = runs.sweep(sweep)
    axes = list(df.attrs.get("axes") or [])
    trained = mark_untrained(_trained(df, axes), runs.df)
    evidence = _evidence(runs, trained, axes, df.attrs.get("asked"))
    return look_at(evidence) if evidence else Look()


def _evidence(
    runs: Runs, df: pd.DataFrame, rows: list[str], asked: Asked | None
) -> Evidence | None:
    """What the claims of a sweep file are judged by; None where it has none."""
    if asked is None or not asked.statement.claims:
        return None
    devices = dict(zip(df["identity"], df["device"], strict=True))

    @cache
    def logged(metric: str) -> dict[str, Curve]:
        return curves_of(runs.curves(df, [metric]), devices, titles.better(metric))

    def cell_words(cell: Cell) -> str:
        label, setting = cell
        told = (
            titles.label((CONFIG if "." in axis else CHOICE) + axis, value, reference)
            for axis, value in setting.items()
        )
        return label or ", ".join(told)

    reference = reference_of(asked, rows, {}, [])
    return Evidence(asked, df, reference, logged, cell_words)
