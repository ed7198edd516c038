"""A published table as the paper has it: grid, marks, notes."""

from dataclasses import dataclass

from atomsweep.report.read import published
from atomsweep.report.read.papers import Provenance
from atomsweep.report.tables import grids, spelled
from atomsweep.report.tables.grids import Grid

MARKS: dict[Provenance, tuple[str, str]] = {
    "inferred": ("*", "inferred from the paper's other numbers"),
    "recovered": ("§", "recovered from another version of the paper"),
}
UNITS = {"1": "", "1e6": "10⁶"}


@dataclass(frozen=True)
class Printed:
    """A published table in full.

    Attributes:
        reference: `forcenet.table5`.
        number: of the table.
        workshop: its number in the workshop version, or None.
        heading: title of the table.
        title: of the paper.
        citation: authors and year.
        arxiv: its number.
        dataset: what the numbers are of.
        caption: sentences of the table, with the meaning of its marks.
        grid: the numbers, in the paper's units.
        footnotes: what a reader must know.
    """

    reference: str
    number: str
    workshop: str | None
    heading: str
    title: str
    citation: str
    arxiv: str
    dataset: str
    caption: str
    grid: Grid
    footnotes: list[str]

    @property
    def cited(self) -> str:
        """`Table 5 of Hu … (2021), ForceNet …, arXiv:2103.01436`."""
        return f"Table {self.number} of {self.citation}, {self.title}, arXiv:{self.arxiv}"


def printed_of(reference: str) -> Printed:
    """A published table in full; what is not as printed carries a mark."""
    table, paper = published.table(reference), published.paper(reference)
    rows, used = [], {kind for row in table.rows for kind in row.marks.values()}
    for row in table.rows:
        keys = [
            axis.label(value) + _mark(row.marks.get(axis.name))
            for axis, value in zip(table.axes, row.key, strict=True)
        ]
        numbers = [
            spelled.NOTHING
            if value is None
            else f"{value:.{column.decimals}f}" + _mark(row.marks.get(column.name))
            for column, value in zip(table.columns, row.values, strict=True)
        ]
        rows.append(keys + numbers)
    titles = [f"{c.title}, {UNITS.get(c.unit, c.unit)}".removesuffix(", ") for c in table.columns]
    told = [table.caption]
    told += [f"{mark}: {words}." for kind, (mark, words) in MARKS.items() if kind in used]
    if table.provenance != "printed":
        told.append(f"The whole table is {MARKS[table.provenance][1]}.")
    return Printed(
        reference=reference,
        number=str(table.number),
        workshop=None if table.workshop_number is None else str(table.workshop_number),
        heading=table.title,
        title=paper.title,
        citation=paper.citation,
        arxiv=paper.arxiv,
        dataset=paper.dataset,
        caption=" ".join(t for t in told if t),
        grid=grids.plain(
            [axis.title for axis in table.axes] + titles,
            rows,
            "l" * len(table.axes) + "r" * len(table.columns),
        ),
        footnotes=[paper.footnotes[key] for key in table.footnotes],
    )


def unanswered_words(reference: str) -> str:
    """That nothing of ours stands beside a table, and what would."""
    paper, _, table = reference.partition(".")
    return (
        f"No sweep file names `published: {reference}`, so none of our runs answers this table, "
        f"and no command fills it yet. A file `sweeps/{paper}/{table}.yaml` would "
        f"(docs/sweep-files.md). The numbers below are the paper's own."
    )


def _mark(kind: Provenance | None) -> str:
    return MARKS[kind][0] if kind in MARKS else ""


def citation(reference: str) -> str:
    """`Hu … (2021), arXiv:2103.01436, Table 5`."""
    paper, table = published.paper(reference), published.table(reference)
    return f"{paper.citation}, arXiv:{paper.arxiv}, Table {table.number}"
