"""A drawing as files, and as SVG that stands inside a page."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.report.figures.style import GRID, INK, MUTED, SERIES, literal
from atomsweep.tracking.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write `path`.svg, .pdf and .png, the same bytes each time."""
    from matplotlib import rc_context

    _literal(figure)
    written = []
    fonts = {"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}  # no Type 3 in a PDF
    with rc_context({"svg.hashsalt": path.name, **fonts}):
        for suffix, metadata in (
            (".svg", {"Date": None, "Creator": None}),
            (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
            (".png", {"Software": None}),
        ):
            file = path.with_suffix(suffix)
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
            write_atomic(file, content.getvalue(), durable=False)
            written.append(file)
    return written


def inline(figure: "Figure", name: str, title: str) -> str:
    """SVG to stand inside a page: its colours follow the page's theme, its ids are its own.

    Args:
        figure: from `draw`.
        name: prefix of all ids; unique in the page.
        title: what it shows, for screen readers.
    """
    from matplotlib import rc_context

    _literal(figure)
    buffer = io.StringIO()
    nothing: Mapping[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=dict(nothing), transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)  # it would style the whole page
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for number, colour in enumerate(SERIES, 1):
        svg = svg.replace(colour, f"var(--series-{number})")
    for colour, role in ((INK, "ink"), (MUTED, "muted"), (GRID, "line")):
        svg = svg.replace(colour, f"var(--{role})")
    viewbox = re.search(r'viewBox="[^"]*"', svg)
    assert viewbox, "matplotlib writes a viewBox"
    inches = (
        f"--inches: {figure.get_size_inches()[0]:.2f}"  # a phone scrolls rather than shrinks it
    )
    head = f'<svg {viewbox[0]} style="{inches}" role="img" aria-labelledby="{name}-title">'
    head += f'<title id="{name}-title">{_escape(title)}</title>'
    return re.sub(r"^<svg[^>]*>", lambda _: head, svg, count=1).strip()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _literal(figure: "Figure") -> None:
    """Let names that hold `$` stand as they are: only matplotlib's own labels are mathematics."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        words = text.get_text()
        if r"\mathdefault" not in words:
            text.set_text(literal(words))
