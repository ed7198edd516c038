"""A grid of text, and its forms: Markdown and LaTeX. No arithmetic."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from atomsweep import console
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
    header, *lines = console.padded([list(grid.header), *body], grid.align, least=3)
    rule = "|".join(
        "-" * (len(cell) + 1) + (":" if side == "r" else "-")
        for cell, side in zip(header, grid.align, strict=True)
    )
    told = ["| " + " | ".join(cells) + " |" for cells in (header, *lines)]
    return "\n".join([told[0], f"|{rule}|", *told[1:]])


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
