"""A grid of text, and its forms: Markdown and LaTeX. No arithmetic."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from atomsweep.report.tables.spelled import MINUS, NOTHING

STALE_MARK = "†"  # after a number that other code than the present made


@dataclass(frozen=True)
class Text:
    """A cell as it is shown."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as it is shown: header, rows, and `l` or `r` per column."""

    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    align: str


def plain(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> Grid:
    """A grid of bare strings."""
    return Grid(header, [[Text(cell) for cell in row] for row in rows], align)


def markdown(grid: Grid) -> str:
    """An aligned Markdown table; readable as it stands on a terminal."""
    body = [[f"**{_line(c)}**" if c.bold else _line(c) for c in row] for row in grid.rows]
    table = [list(grid.header), *body]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(grid.header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if side == "r" else text.ljust(width)
            for text, width, side in zip(row, widths, grid.align, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(
        "-" * (width + 1) + (":" if side == "r" else "-")
        for width, side in zip(widths, grid.align, strict=True)
    )
    return "\n".join([line(table[0]), f"|{rule}|", *(line(row) for row in body)])


def _line(cell: Text) -> str:
    """On one line, and without ending its column."""
    return re.sub(r"[\r\n]+", " ", cell.text).replace("|", "\\|")


def latex(grid: Grid, caption: str, name: str) -> str:
    """A table for LaTeX; needs the package booktabs and nothing else."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_tex(caption)}}}",
        rf"  \label{{tab:{re.sub(r'[^a-zA-Z0-9]+', '-', name).strip('-')}}}",
        rf"  \begin{{tabular}}{{{grid.align}}}",
        r"    \toprule",
        "    " + " & ".join(_tex(text) for text in grid.header) + r" \\",
        r"    \midrule",
    ]
    for row in grid.rows:
        shown = (rf"\textbf{{{_tex(c.text)}}}" if c.bold else _tex(c.text) for c in row)
        lines.append("    " + " & ".join(shown) + r" \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$/$",
    MINUS: r"$-$",
    STALE_MARK: r"$^\dagger$",
    "→": r"$\to$",
    NOTHING: "--",
    "Å": r"\AA{}",
    "\u202f": r"\,",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
