"""Files of a published table that no sweep answers."""

from pathlib import Path

from atomsweep.report.pages.jinja import render
from atomsweep.report.read import published
from atomsweep.report.tables import grids
from atomsweep.report.tables.printed import printed_of, unanswered_words
from atomsweep.tracking.files import write_atomic


def write_paper(reference: str, out: Path) -> Path:
    """Write the page of a table that no sweep answers, with Markdown and CSV; returns the page."""
    shown, told = printed_of(reference), unanswered_words(reference)
    out.mkdir(parents=True, exist_ok=True)
    page = render("paper.html", paper=shown, sentence=told)
    write_atomic(out / "report.html", page, durable=False)
    text = [f"# {shown.heading}", shown.cited + ".", told]
    text += [grids.markdown(shown.grid), shown.caption]
    text += ["\n".join(f"- {note}" for note in shown.footnotes)]
    write_atomic(out / "report.md", "\n\n".join(t for t in text if t) + "\n", durable=False)
    table = published.numbers(reference).to_csv(index=False)
    write_atomic(out / "table.csv", table, durable=False)
    return out / "report.html"
