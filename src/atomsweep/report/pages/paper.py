"""Files of a published table that no sweep answers."""

from pathlib import Path

from atomsweep.report.pages.jinja import render
from atomsweep.report.read import published
from atomsweep.report.tables import grids
from atomsweep.report.tables.printed import printed_of, unanswered_words


def write_paper(reference: str, out: Path) -> Path:
    """Write the page of a table that no sweep answers, with Markdown and CSV; returns the page."""
    shown, told = printed_of(reference), unanswered_words(reference)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(
        render("paper.html", paper=shown, sentence=told), encoding="utf-8"
    )
    text = [f"# {shown.heading}", shown.cited + ".", told]
    text += [grids.markdown(shown.grid), shown.caption]
    text += ["\n".join(f"- {note}" for note in shown.footnotes)]
    (out / "report.md").write_text("\n\n".join(t for t in text if t) + "\n", encoding="utf-8")
    published.frame(reference).to_csv(out / "table.csv", index=False)
    return out / "report.html"
