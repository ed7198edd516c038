"""Report → files: page, Markdown, CSV, LaTeX, figures."""

import re
from pathlib import Path

import pandas as pd

from atomsweep.report.figures.curves import STEP
from atomsweep.report.figures.files import save
from atomsweep.report.pages.html import page
from atomsweep.report.pages.markdown import report_markdown
from atomsweep.report.pages.report import Report
from atomsweep.report.tables import grids
from atomsweep.report.tables.verdict_grids import claims_df
from atomsweep.tracking.files import write_atomic


def write(report: Report, out: Path) -> Path:
    """Write a report into `out`; returns the page.

    report.html, report.md, table.csv (one line per cell), runs.csv, curves.csv, claims.csv,
    table.tex and its variants with siunitx and of one column, and each figure as SVG, PDF and PNG.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "report.html", page(report), durable=False)
    write_atomic(out / "report.md", report_markdown(report), durable=False)
    cells = pd.concat([table.cells.assign(table=i) for i, table in enumerate(report.tables, 1)])
    _write_csv(cells, out / "table.csv")
    runs = report.provenance.assign(sweeps=report.provenance["sweeps"].map(" ".join))
    _write_csv(runs, out / "runs.csv")
    _write_latex(report, out)
    drawn = []
    for number, metric, across, name in report.figure_names():
        save(report.figures[number - 1][metric][across], out / name)
        if across == STEP:
            points = report.tables[number - 1].curves[metric]
            drawn.append(points.drop(columns=["hue", "dash", "rank"]).assign(metric=metric))
    if drawn:
        _write_csv(pd.concat(drawn), out / "curves.csv")
    if report.claims:
        _write_csv(claims_df(report.claims), out / "claims.csv")
    for section in report.sections:
        for picture in section.pictures:
            save(picture.figure, out / picture.name)
    return out / "report.html"


def _write_latex(report: Report, out: Path) -> None:
    """The tables with every split, the same aligned by siunitx, and the last split alone."""
    for ending, narrow, aligned in (
        ("", False, False),
        ("-siunitx", False, True),
        ("-narrow", True, False),
    ):
        texts = [
            grids.latex(
                table.narrow if narrow else table.grid,
                f"{table.title}: {report.quantity_of(table)}.",
                " ".join(table.caption),
                report.name if len(report.tables) == 1 else f"{report.name}-{number}",
                aligned,
            )
            for number, table in enumerate(report.tables, 1)
        ]
        write_atomic(out / f"table{ending}.tex", "\n".join(texts), durable=False)


def _write_csv(df: pd.DataFrame, path: Path) -> None:
    write_atomic(path, df.to_csv(index=False, float_format="%.10g"), durable=False)


def slug(name: str) -> str:
    """A name as a relative path: letters, digits and `._-/` stay, `..` does not."""
    folders = [re.sub(r"[^\w.-]+", "-", folder).strip(".-") for folder in name.split("/")]
    return "/".join(filter(None, folders)) or "report"
