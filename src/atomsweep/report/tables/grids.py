"""Cells → grids of text → Markdown, LaTeX. Layout and spelling only, no arithmetic."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from atomsweep.report.read import published
from atomsweep.report.read.papers import Axis
from atomsweep.report.read.tidy import CHOICE, CONFIG, normal
from atomsweep.tracking import schema

NOTHING = "–"
MINUS = "−"

SPLIT_TITLES = {
    schema.TRAIN: "Train",
    "val_id": "ID",
    "val_ood_ads": "OOD Ads",
    "val_ood_cat": "OOD Cat",
    "val_ood_both": "OOD Both",
    "val_ood": "OOD",
    schema.VAL_AVERAGE: "Avg",
}
METRIC_TITLES = {
    schema.FORCES_MAE: ("Force MAE", "eV/Å", 4),
    schema.FORCES_X_MAE: ("Force MAE, x", "eV/Å", 4),
    schema.FORCES_Y_MAE: ("Force MAE, y", "eV/Å", 4),
    schema.FORCES_Z_MAE: ("Force MAE, z", "eV/Å", 4),
    schema.FORCES_MAGNITUDE: ("Error of the force's magnitude", "eV/Å", 4),
    schema.FORCES_COS: ("Force cosine", "", 4),
    schema.ENERGY_MAE: ("Energy MAE", "eV", 4),
    schema.EFWT: ("EFwT", "", 4),
    schema.ENERGY_MAE: ("Energy MAE", "eV", 4),
    schema.EWT: ("Energy within 0.02 eV", "", 4),
    schema.EFWT: ("Energy and forces within threshold", "", 4),
    schema.NORMALISED_L1: ("L1 loss", "normalised", 4),
    schema.EPOCH_STRUCTURES_PER_S: ("Structures per second", "1/s", 1),
    schema.LOSS: ("Loss", "", 4),
    "parameters": ("Parameters", "", 0),
    "ranks": ("Ranks", "", 0),
    "forces_std": ("Instability under rotation", "eV/Å", 4),
    "device_hours_per_million": ("Inference", "device-hours per 10⁶ structures", 2),
    "seconds_per_system": ("Relaxation", "s per system", 2),
    "adwt": ("ADwT", "", 4),
    "afbt": ("AFbT", "", 4),
    "fbt": ("FbT", "", 4),
}
_BETTER_HIGH = re.compile(
    r"(^|_)(cos|per_second|per_s|adwt|afbt|fbt|efwt|ewt|accuracy|success)(_|$)"
)
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


def title_of(metric: str) -> tuple[str, str, int]:
    """Title, unit and decimals of a metric; an unknown one is called by its own name."""
    name = metric.rpartition("/")[2]
    plain = name.replace("_", " ")
    return METRIC_TITLES.get(name, (plain[:1].upper() + plain[1:], "", 4))


def better(metric: str) -> str:
    """Whether "low" or "high" values of a metric are better; "neither" of what a run is."""
    if metric.rpartition("/")[2] in schema.OF_RUN["run"]:
        return "neither"
    return "high" if _BETTER_HIGH.search(metric.rpartition("/")[2]) else "low"


def split_title(split: str) -> str:
    """A split as papers call it; the kind of an evaluation by its own name."""
    split = split.rpartition("/")[2]  # of `relax/val_id`
    return SPLIT_TITLES.get(split, split.replace("_", " ").capitalize())


def column_title(split: str, metric: str) -> str:
    """A column of a table: its split; what a run is has none and goes by its own name."""
    return title_of(metric)[0] if split in schema.OF_RUN else split_title(split)


def short(value: float, decimals: int = 4) -> str:
    """A number of unknown size: `0.0512`, `1 234`, `3.2e-05`."""
    if math.isnan(value):
        return NOTHING
    if value == 0 or 10.0**-decimals <= abs(value) < 1000:
        return number(value, decimals)
    return count(value) if 1000 <= abs(value) < 1e9 else f"{value:.2e}".replace("-", MINUS)


def number(value: float, decimals: int = 4) -> str:
    """`0.0512`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 4) -> str:
    """`+0.0199`, `−0.0010`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:+.{decimals}f}".replace("-", MINUS)


def times(value: float) -> str:
    """`0.53 ×`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.2f} ×"


def duration(seconds: float) -> str:
    """`48 s`, `3.2 min`, `5.1 h`, `2.4 d`, or – for NaN."""
    if math.isnan(seconds):
        return NOTHING
    for size, unit, limit in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < size * limit:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def count(value: float) -> str:
    """`11 363 111`, or – for NaN."""
    return NOTHING if math.isnan(value) else f"{int(value):,}".replace(",", "\u202f")


@cache
def axis_of(column: str, reference: str | None = None) -> Axis:
    """Title and labels of a column: those of the published table, else of all that have it."""
    if reference:
        for axis in published.table(reference).axes:
            if axis.column == column:
                return axis
    tables = [table for paper in published.papers().values() for table in paper.tables.values()]
    found = [axis for table in tables for axis in table.axes if axis.column == column]
    if found:
        labels = {key: name for axis in reversed(found) for key, name in axis.labels.items()}
        return found[0].model_copy(update={"labels": labels})
    if column == "label":
        return Axis.model_construct(name=column, column=column, title="Setting", labels={})
    bare = column.removeprefix(CHOICE).removeprefix(CONFIG)
    title = bare.rpartition(".")[2].replace("_", " ").capitalize()
    return Axis.model_construct(name=bare, column=column, title=title, labels={})


def label(column: str, value: Any, reference: str | None = None) -> str:
    """A value of an axis in the paper's words; – where the run does not tell."""
    told = normal(value)
    return axis_of(column, reference).label(told) if told else NOTHING


def cell_text(cell: Mapping[str, Any] | pd.Series, decimals: int = 4) -> Text:
    """`0.0512`, `0.0512 ± 0.0011`, – for nothing, `– (2/3)` where seeds are missing."""
    if math.isnan(cell["mean"]):
        part = f" ({cell['n']}/{cell['planned']})" if cell["planned"] > 1 else ""
        return Text(NOTHING + part)
    same = cell["half_width"] == 0 and better(cell["metric"]) == "neither"  # as is to be expected
    alone = same or math.isnan(cell["half_width"])
    spread = "" if alone else f" ± {short(cell['half_width'], decimals)}"
    mark = f" {STALE_MARK}" if cell["stale"] else ""
    return Text(short(cell["mean"], decimals) + spread + mark, bool(cell["best"]))


def paper_layout(
    cells: pd.DataFrame,
    rows: Sequence[str],
    reference: str | None = None,
    baseline_name: str | None = "Median",
    baseline_line: bool = True,
) -> Grid:
    """One line per row, one column per split, as papers print it; first the baseline.

    After the splits: the first split's ratio to the baseline, then, for the last split (the
    average), the paper's number and the difference; where the paper has no average, its numbers of
    all splits. Without a baseline's name neither its line nor the ratio are shown; without its line
    it is a row like others.
    """
    splits = list(dict.fromkeys(cells["split"]))
    first, last = splits[0], splits[-1]
    metric = cells["metric"].iloc[0]
    decimals = title_of(metric)[2]
    told = set(cells.loc[cells["published"].notna(), "split"]) if reference else set()
    beside = [last] if last in told or not told else [s for s in splits if s in told]
    beside = beside if reference else []
    differs = len(beside) == 1 and better(metric) != "neither"
    seeds = bool((cells["planned"] > 1).any())
    header = [axis_of(column, reference).title for column in rows]
    header += ["Seeds"] * seeds + [column_title(s, metric) for s in splits]
    if baseline_name:
        header += [f"{split_title(first)} ÷ {baseline_name}"]
    header += [f"Paper {column_title(s, metric)}" for s in beside] + ["Difference"] * differs
    lines = []
    if baseline_name and baseline_line:
        for labels, values in baseline_lines(cells, rows, reference, baseline_name):
            top = [*labels, *[""] * seeds, *values, NOTHING if values[0] == NOTHING else times(1.0)]
            lines.append([Text(t) for t in top + [NOTHING] * (len(beside) + differs)])
    for _, group in by_row(cells, rows):
        at = group.set_index("split")
        line = [Text(label(c, group[c].iloc[0], reference)) for c in rows]
        if seeds:
            line.append(Text(str(group["n"].max())))
        line += [cell_text(at.loc[s], decimals) for s in splits]
        if baseline_name:
            line.append(Text(times(at.loc[first, "ratio"])))
        line += [
            Text(short(at.loc[s, "published"], decimals), bool(at.loc[s, "published_best"]))
            for s in beside
        ]
        line += [Text(signed(at.loc[s, "difference"], decimals)) for s in beside if differs]
        lines.append(line)
    return Grid(header, lines, "l" * len(rows) + "r" * (len(header) - len(rows)))


def baseline_lines(
    cells: pd.DataFrame, rows: Sequence[str], reference: str | None, name: str = "Median"
) -> list[tuple[list[str], list[str]]]:
    """A line for each baseline: its row labels, and its values by split.

    One baseline of all rows has no label but its name; of several, each has those that only the
    rows held against it share, such as the molecule.
    """
    decimals = title_of(cells["metric"].iloc[0])[2]
    held: dict[tuple[str, ...], list[list[str]]] = {}
    for _, group in by_row(cells, rows):
        values = tuple(number(value, decimals) for value in group["baseline"])
        held.setdefault(values, []).append([label(c, group[c].iloc[0], reference) for c in rows])
    lines = []
    for values, members in held.items():
        shared = [words[0] if len(set(words)) == 1 else "" for words in zip(*members, strict=True)]
        labels = shared if len(held) > 1 else [""] * len(rows)
        labels[0] = f"{name}, {labels[0]}" if labels[0] else name
        lines.append((labels, list(values)))
    return lines


def matrix_layout(
    cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], reference: str | None = None
) -> Grid:
    """Rows against columns, as the sweep file has them, at the last split (the average)."""
    here = cells[cells["split"] == cells["split"].iloc[-1]]
    decimals = title_of(cells["metric"].iloc[0])[2]
    across = dict(by_row(here, columns))
    header = [axis_of(column, reference).title for column in rows]
    header += [
        ", ".join(label(c, group[c].iloc[0], reference) for c in columns)
        for group in across.values()
    ]
    lines = []
    for _, group in by_row(here, rows):
        at = {key: one.iloc[0] for key, one in by_row(group, columns)}
        line = [Text(label(c, group[c].iloc[0], reference)) for c in rows]
        line += [cell_text(at[key], decimals) if key in at else Text("") for key in across]
        lines.append(line)
    return Grid(header, lines, "l" * len(rows) + "r" * len(across))


def beside_layout(cells: pd.DataFrame, rows: Sequence[str], reference: str) -> Grid:
    """One line per row and split: ours, the paper's, the difference."""
    header = [axis_of(column, reference).title for column in rows]
    header += ["Split", "Ours", "÷ Median", "Paper", "Difference"]
    lines = []
    for _, group in by_row(cells, rows):
        for _, cell in group.iterrows():
            line = [Text(label(c, cell[c], reference)) for c in rows]
            line += [Text(split_title(cell["split"])), cell_text(cell)]
            line += [Text(times(cell["ratio"]))]
            line += [Text(number(cell["published"]), bool(cell["published_best"]))]
            line += [Text(signed(cell["difference"]))]
            lines.append(line)
    return Grid(header, lines, "l" * (len(rows) + 1) + "rrrr")


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


def by_row(cells: pd.DataFrame, rows: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Groups of cells of one table row, in order of appearance."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(cells[list(rows)].map(normal).itertuples(index=False)):
        groups.setdefault(tuple(key), []).append(position)
    return [(key, cells.iloc[positions]) for key, positions in groups.items()]


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
