"""Results that stay in the repository: tables of several sweeps as one Markdown page and one CSV.

Every number names the runs behind it, every claim its verdict, those that fail included.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atomsweep.report.figures.kinds import kind_metrics
from atomsweep.report.figures.leaving import LEFT_MEDIAN, steps_to_leave
from atomsweep.report.pages.report import Report, build
from atomsweep.report.pages.summary import summary_of
from atomsweep.report.read.asked import known_files
from atomsweep.report.read.runs import Runs, UnknownSweep
from atomsweep.report.read.tidy import (
    METRIC,
    OF_THE_RUN,
    by_row,
    is_of_cost,
    is_timed,
    records,
)
from atomsweep.report.read.values import as_float, normal
from atomsweep.report.tables import grids, spelled
from atomsweep.report.tables.grids import Grid
from atomsweep.report.tables.provenance import commit
from atomsweep.report.tables.statistics import interval
from atomsweep.report.tables.table import Table
from atomsweep.report.tables.trained import UNTRAINED
from atomsweep.report.tables.verdict_grids import (
    claims_note,
    comparisons_grid,
    paper_words,
    tally,
)
from atomsweep.report.tables.verdicts import Judged
from atomsweep.tracking import schema
from atomsweep.tracking.files import write_atomic

HEADER = ["sweep", "row", "split", "metric", "mean", "half_width_95", "n", "planned", "stale"]
HEADER += ["baseline", "published", "difference", "identities"]
HEADER += ["seeds", "values", "not_trained"]  # of these runs, in their order

PLACES = re.compile(r" (root|tracking)=[^\s`]+")
"""What a command says of the machine that it was typed on; it is left out."""
OF_TIME = re.compile(r", on average .+? of training on .+?, evaluation apart")
"""What a caption says of device time."""
NEVER = "never"  # in place of a step
UNTIMED = "Device times, tables of them and claims about them are left out."


def reports_of(runs: Runs, wanted: Sequence[str]) -> list[Report]:
    """Reports of sweeps, or of the files in a folder, of which something has finished.

    Raises:
        UnknownSweep: there is nothing of that name, or nothing of it has finished.
    """
    files = known_files(runs.files)
    names = [
        file for name in wanted for file in [f for f in files if f.startswith(f"{name}/")] or [name]
    ]
    dfs = [runs.sweep(file) for file in names]
    found = [build(runs, df) for df in dfs if (df["state"] == schema.FINISHED).any()]
    found = [one for one in found if (one.trained["state"] == schema.FINISHED).any()]
    if not found:
        raise UnknownSweep(
            f"nothing of {', '.join(wanted)} has finished; launch one of {', '.join(names)}"
        )
    return found


def write_results(
    reports: list[Report],
    title: str,
    command: str,
    out: Path,
    note: str | None = None,
    times: bool = True,
) -> list[Path]:
    """Write the page and, beside it, the CSV; returns both paths.

    Args:
        reports: of the sweeps.
        title: heading of the page.
        command: that makes the page again.
        out: the page's path; the CSV has its name.
        note: what a reader must know of how the runs were made.
        times: with device time, which means something if the machine did no other work. Without it
            tables and claims of time are left out, and the page says so.

    Raises:
        ValueError: nothing is left without times.
    """
    if not times:
        reports = [_without_times(one) for one in reports]
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = out.with_suffix(".csv")
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(HEADER)
    for one in reports:
        writer.writerows(line for table in one.tables for line in _lines(one, table))
        writer.writerows([*_further_lines(one), *_leaving_lines(one)])
    write_atomic(numbers, content.getvalue(), durable=False)
    page = _page(reports, title, command, numbers.name, note, times)
    write_atomic(out, page, durable=False)
    return [out, numbers]


def _without_times(report: Report) -> Report:
    tables = [table for table in report.tables if not is_timed(table.metric)]
    if not tables:
        raise ValueError(
            f"every table of {report.name} is of device time; leave it out, or --without-times"
        )
    claims = [claim for claim in report.claims if not claim.timed]
    summary = summary_of(tables, report.trained, claims, report.asked)
    return replace(report, tables=tables, claims=claims, summary=summary)


def _page(
    reports: list[Report], title: str, command: str, numbers: str, note: str | None, times: bool
) -> str:
    """The whole page as Markdown."""
    text = [
        f"# {title}",
        "Made by the program, not by hand; every number is of the runs that it names.",
        *([f"**Note.** {note}"] if note else []),
        *([] if times else [UNTIMED]),
    ]
    text += [f"    {command}", f"The same numbers, one per line: [{numbers}]({numbers})."]
    claims = [claim for one in reports for claim in one.claims]
    if claims:
        lines = [
            [one.name, f"`{c.text}`", f"**{c.verdict}**", paper_words(c.paper_holds)]
            for one in reports
            for c in one.claims
        ]
        text += ["## Claims", _tally_sentence(claims)]
        header = ["Sweep", "Claim", "Verdict", "Paper's numbers"]
        text += [grids.markdown(grids.plain(header, lines, "llll"))]
    for one in reports:
        text += [f"## {one.heading} ({one.name})", one.summary]
        if one.command:
            text += [f"    {one.command}"]
        for table in one.tables:
            caption = " ".join(table.caption)
            text += [grids.markdown(table.grid), caption if times else OF_TIME.sub("", caption)]
        if one.claims:
            text += ["### Comparisons", grids.markdown(comparisons_grid(one.claims))]
        text += _sections(one, "kinds", "leaving")
        text += _sections(one, "compute", "spent") if times else []
        text += ["### Runs", grids.markdown(_runs(one))]
        text += [f"- {problem}" for problem in one.problems]
    if claims:
        text += list(dict.fromkeys(claims_note(one.looks) for one in reports if one.claims))
    return PLACES.sub("", "\n\n".join(text)) + "\n"


def _tally_sentence(claims: Sequence[Judged]) -> str:
    """How many hold, fail and are undecided; what two sweeps find of the same runs, once too."""
    different: dict[Any, Judged] = {}
    for place, claim in enumerate(claims):
        pairs = tuple((c.left, c.right, c.n, c.effect, c.verdict) for c in claim.comparisons)
        told_apart = (
            all(c.n for c in claim.comparisons) and pairs
        )  # equal numbers are of equal runs
        different.setdefault((claim.text, claim.metric, pairs) if told_apart else place, claim)
    told = f"{len(claims)} claims: {tally([claim.verdict for claim in claims])}."
    if doubled := len(claims) - len(different):
        once = tally([claim.verdict for claim in different.values()])
        told += (
            f" {doubled} of them {'repeats' if doubled == 1 else 'repeat'} what another sweep asks "
            f"of the same runs; without: {once}."
        )
    return told


def _sections(one: Report, *slugs: str) -> list[str]:
    """Text and tables of some sections, as the report has them."""
    text: list[str] = []
    for section in one.sections:
        if section.slug.startswith(slugs) and section.text + section.grids:
            text += [f"### {section.title}", *section.text]
            text += [
                block
                for caption, grid in section.grids
                for block in (grids.markdown(grid), caption)
            ]
    return text


def _runs(one: Report) -> Grid:
    """Identities behind each row of the first table."""
    table = one.tables[0]
    lines = []
    for key, group in by_row(table.cells, table.rows):
        runs = _members(table, tuple(key))
        first = group.iloc[0]
        row = table.label(first)
        told = " ".join(f"`{run['identity']}`" for run in runs) or spelled.NOTHING
        commits = ", ".join(dict.fromkeys(commit(run) for run in runs)) or spelled.NOTHING
        lines.append([row, told, commits])
    shown = set(table.df["identity"])  # where the baseline is a row itself
    for run in records(table.baselines):
        if run["identity"] not in shown:
            lines.append(["Median", f"`{run['identity']}`", commit(run)])
    return grids.plain(["Row", "Identities, by seed", "Commit"], lines, "lll")


def _members(table: Table, key: tuple[str, ...]) -> list[dict[str, Any]]:
    """Finished runs of a table row, by seed."""
    found = [
        run
        for run in records(table.df[table.df["state"] == schema.FINISHED])
        if tuple(normal(run.get(column)) for column in table.rows) == key
    ]
    return sorted(found, key=lambda run: run["seed"])


def _lines(one: Report, table: Table) -> list[list[Any]]:
    lines = []
    for key, group in by_row(table.cells, table.rows):
        row = table.label(group.iloc[0])
        runs = _members(table, tuple(key))
        for cell in records(group):
            numbers = [cell[c] for c in ("mean", "half_width", "n", "planned", "stale")]
            numbers += [cell[c] for c in ("baseline", "published", "difference")]
            told = [_number(v) for v in numbers]
            column = METRIC + schema.metric_name(cell["split"], table.metric)
            lines.append([one.name, row, cell["split"], table.metric, *told])
            lines[-1] += _of_runs(runs, column)
    return lines


def _further_lines(one: Report) -> list[list[Any]]:
    """What claims and kinds of frames are judged by and no table shows."""
    table = one.tables[0]
    shown = {schema.metric_name(split, t.metric) for t in one.tables for split in t.cells["split"]}
    names = kind_metrics(table)
    for claim in (*one.claims, *(claim for kinds in one.by_kind for claim in kinds.values())):
        names += [claim.metric, *filter(None, [claim.minus])]
    lines: list[list[Any]] = []
    for name in dict.fromkeys(names):
        if name not in shown:
            lines += _by_run(one, name, name if name in OF_THE_RUN else METRIC + name)
    return lines


def _leaving_lines(one: Report) -> list[list[Any]]:
    """Steps at which the trainings left the Median."""
    found = {i: step for table in one.tables for i, step in steps_to_leave(table).items()}
    steps = {i: NEVER if math.isnan(step) else step for i, step in found.items()}
    return _by_run(one, f"{schema.VAL_SPLITS[0]}/{LEFT_MEDIAN}", LEFT_MEDIAN, steps)


def _by_run(
    one: Report, name: str, column: str, of_run: Mapping[str, float | str] | None = None
) -> list[list[Any]]:
    """A line for each row of the first table that has a number: of a column, or of a run."""
    table = one.tables[0]
    split, _, metric = name.rpartition("/")
    lines: list[list[Any]] = []
    for key, group in by_row(table.cells, table.rows):
        runs = _members(table, tuple(key))
        if of_run is not None:
            runs = [run | {column: of_run.get(run["identity"], "")} for run in runs]
        if not any(_is_told(run.get(column)) for run in runs):
            continue
        known = [v for v in (as_float(run.get(column)) for run in runs) if not math.isnan(v)]
        first = group.iloc[0]
        mean, half = interval(known)
        if any(run.get(column) == NEVER for run in runs):  # of those that did it means nothing
            mean = half = math.nan
        told = [_number(v) for v in (mean, half, len(known), first["planned"], first["stale"])]
        lines.append([one.name, table.label(first), split, metric, *told, "", "", ""])
        lines[-1] += _of_runs(runs, column)
    return lines


def _of_runs(runs: list[dict[str, Any]], column: str) -> list[str]:
    """Identities, seeds, values, and seeds that were not trained, where that matters for them."""
    matters = not is_of_cost(column.removeprefix(METRIC))
    return [
        " ".join(run["identity"] for run in runs),
        " ".join(spelled.count(run["seed"]) for run in runs),
        " ".join(str(_number(run.get(column))) or "-" for run in runs),
        " ".join(spelled.count(run["seed"]) for run in runs if matters and run.get(UNTRAINED)),
    ]


def _is_told(value: Any) -> bool:
    return value == NEVER or not math.isnan(as_float(value))


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return value
