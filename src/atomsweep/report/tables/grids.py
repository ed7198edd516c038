"""A grid of text, and its forms: Markdown and LaTeX. No arithmetic."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from atomsweep import console
from atomsweep.report.tables.spelled import MINUS, NOTHING

UNTRAINED_MARK = "‡"  # after a number with runs that have not left the Median
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
    body = [[f"**{_line(c.text)}**" if c.bold else _line(c.text) for c in row] for row in grid.rows]
    header, *lines = console.padded([list(map(_line, grid.header)), *body], grid.align, least=3)
    rule = "|".join(
        "-" * (len(cell) + 1) + (":" if side == "r" else "-")
        for cell, side in zip(header, grid.align, strict=True)
    )
    told = ["| " + " | ".join(cells) + " |" for cells in (header, *lines)]
    return "\n".join([told[0], f"|{rule}|", *told[1:]])


def _line(text: str) -> str:
    """On one line, and without ending its column."""
    return re.sub(r"[\r\n]+", " ", text).replace("|", "\\|")


def latex(grid: Grid, title: str, note: str, name: str, aligned: bool = False) -> str:
    """A table for LaTeX with a short caption, and what its reader must know as a note below.

    It needs the package booktabs; where numbers are aligned at their point, siunitx too.

    Args:
        grid: the table.
        title: a short caption.
        note: sentences; `commands` in back ticks.
        name: of its label.
        aligned: whether siunitx aligns columns of numbers.
    """
    columns = [
        _column([row[i].text for row in grid.rows]) if aligned and side == "r" else side
        for i, side in enumerate(grid.align)
    ]
    heads = [
        f"{{{_tex(text)}}}" if column.startswith("S") else _tex(text)
        for text, column in zip(grid.header, columns, strict=True)
    ]
    label = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")
    lines = [
        r"% needs \usepackage{booktabs}" + r" and \usepackage{siunitx}" * aligned,
        r"\begin{table}",
        r"  \centering",
        *([r"  \sisetup{separate-uncertainty=true, detect-weight=true}"] if aligned else []),
        rf"  \caption{{{_tex(title)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{''.join(columns)}}}",
        r"    \toprule",
        "    " + " & ".join(heads) + r" \\",
        r"    \midrule",
    ]
    for row in grid.rows:
        shown = (_tex_cell(c, column) for c, column in zip(row, columns, strict=True))
        lines.append("    " + " & ".join(shown) + r" \\")
    told = "".join(
        rf"\texttt{{{_tex(piece)}}}" if i % 2 else _tex(piece)
        for i, piece in enumerate(note.split("`"))
    )
    below = [r"  \par\smallskip", r"  \parbox{\linewidth}{\footnotesize\raggedright", f"  {told}}}"]
    end = [r"    \bottomrule", r"  \end{tabular}", *(below if note else []), r"\end{table}", ""]
    return "\n".join([*lines, *end])


_NUMBER = re.compile(rf"[{MINUS}+]?(\d+)(?:\.(\d+))?(?: ± (\d+(?:\.\d+)?))?")


def _column(texts: Sequence[str]) -> str:
    """A column of siunitx with room for its numbers; `r` where it has none."""
    found = [match for match in map(_NUMBER.fullmatch, texts) if match]
    if not found:
        return "r"
    whole, behind = (max(len(match[i] or "") for match in found) for i in (1, 2))
    signed = "-" if any(text.startswith((MINUS, "+")) for text in texts) else ""
    spread = f"({behind})" if any(match[3] for match in found) else ""
    return f"S[table-format={signed}{whole}.{behind}{spread}]"


def _tex_cell(cell: Text, column: str) -> str:
    """A cell; in a column of siunitx what is no number is in braces."""
    if not column.startswith("S"):
        return rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
    if _NUMBER.fullmatch(cell.text):
        plain_text = cell.text.replace(MINUS, "-").replace(" ± ", " +- ")
        return rf"\bfseries {plain_text}" if cell.bold else plain_text
    return f"{{{_tex(cell.text)}}}"


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
    UNTRAINED_MARK: r"$^\ddagger$",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "⁶": r"$^6$",
    NOTHING: "--",
    "Å": r"\AA{}",
    "\u202f": r"\,",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character) or _latin(character) for character in text)


def _latin(character: str) -> str:
    """What plain LaTeX cannot set is written as near as ASCII comes to it, else by its number."""
    if ord(character) < 256 or character in "‘’“”":
        return character
    near = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return near or f"[U+{ord(character):04X}]"
