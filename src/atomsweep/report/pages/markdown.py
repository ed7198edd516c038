"""Report → Markdown. Words and layout only, no arithmetic."""

from atomsweep.report.figures.curves import AGAINST
from atomsweep.report.pages.report import Report
from atomsweep.report.tables import grids
from atomsweep.report.tables.forms import beside_grid
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.printed import citation, printed_of
from atomsweep.report.tables.provenance import MOST_RUNS, provenance_grid
from atomsweep.report.tables.table import Gap
from atomsweep.report.tables.verdict_grids import claims_grid, claims_note, comparisons_grid


def report_markdown(report: Report) -> str:
    """The whole report as Markdown."""
    text = [f"# {report.title}", report.summary]
    for number, table in enumerate(report.tables, 1):
        heading = table.title if len(report.tables) == 1 else report.heading_of(number)
        text += [f"## {heading}", grids.markdown(table.grid), " ".join(table.caption)]
        if table.matrix is not None:
            split = table.split_title(table.splits[-1])
            text += [f"### {split}, rows against columns", grids.markdown(table.matrix)]
        if table.reference and table.beside:
            text += [
                f"### Beside the paper: {citation(table.reference)}",
                grids.markdown(beside_grid(table.cells, table.rows, table.reference)),
            ]
    apart = dict.fromkeys(p.paper for p in report.tables if p.paper and not p.beside)
    for paper in map(printed_of, apart):
        text += [f"## {paper.cited}", grids.markdown(paper.grid), paper.caption]
    if report.claims:
        text += ["## Claims", grids.markdown(claims_grid(report.claims))]
        text += [grids.markdown(comparisons_grid(report.claims))]
        text += [claims_note(report.looks)]
    if report.footnotes:
        text += ["### On the published numbers", _bullets(report.footnotes)]
    if figures := report.figure_names():
        text += ["## Learning curves"]
        text += [
            f"![{metric} against {AGAINST[across]}]({name}.svg)"
            for _, metric, across, name in figures
        ]
    reasons = [report.without_curves(number) for number in range(1, len(report.tables) + 1)]
    if any(reasons):
        text += [] if figures else ["## Learning curves"]
        text += list(dict.fromkeys(reason for reason in reasons if reason))
    for section in report.sections:
        text += [f"## {section.title}", *section.text]
        for caption, grid in section.grids:
            text += [caption, grids.markdown(grid)]
        text += [f"![{p.title}]({p.name}.svg)\n\n{p.caption}" for p in section.pictures]
        text += [_bullets(section.notes)] if section.notes else []
    if report.gaps:
        text += ["## Cells without a number", grids.markdown(_gap_grid(report.gaps))]
        if report.fill:
            text += [f"What is missing of the sweep's cells, and nothing else: `{report.fill}`"]
    shown = report.provenance.head(MOST_RUNS)
    text += ["## Provenance", grids.markdown(provenance_grid(shown))]
    if len(report.provenance) > len(shown):
        text += [f"And {len(report.provenance) - len(shown)} more in runs.csv."]
    if report.problems:
        text += ["## Problems", _bullets(report.problems)]
    return "\n\n".join(text) + "\n"


def _gap_grid(gaps: list[Gap]) -> Grid:
    """Cells without a number, one per line."""
    rows = [
        [Text(g.cell), Text(g.state), Text(g.reason), Text(f"`{g.command}`" if g.command else "")]
        for g in gaps
    ]
    return Grid(["Cell", "State", "Reason", "Filled by"], rows, "llll")


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
