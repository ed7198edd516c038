"""The report of a study as files: page, Markdown, CSV, LaTeX, drawings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep import console
from atomsweep.report.figures.files import inline, save
from atomsweep.report.pages.jinja import render
from atomsweep.report.read.tidy import df_of, records
from atomsweep.report.study.drawings import Drawing, drawings, objective_title
from atomsweep.report.study.report import StudyReport, importance_grid
from atomsweep.report.tables import grids, spelled
from atomsweep.tracking.files import write_atomic


def study_page(report: StudyReport, drawn: Mapping[str, Drawing]) -> str:
    """A page that needs nothing else."""
    figures = [
        {"svg": inline(figure, f"study-{name}", caption), "caption": caption, "name": name}
        for name, (figure, caption) in drawn.items()
    ]
    return render("study.html", report=report, figures=figures, tiles=_tiles(report))


def _study_markdown(report: StudyReport, drawn: Mapping[str, Drawing]) -> str:
    """The whole report as Markdown."""
    parts = [f"# {report.heading} · {report.name}", report.summary]
    parts += ["## Trials", grids.markdown(report.grid)]
    parts += [f"Objectives: {_objectives(report)}"]
    if report.constraints:
        parts.append(f"Constraints: {'; '.join(report.constraints)}")
    parts.append("## Importance of parameters")
    if not report.importance.empty:
        parts.append(grids.markdown(importance_grid(report)))
    parts.append(f"Of {report.weighed}." if not report.importance.empty else f"{report.weighed}.")
    parts.append("## Figures")
    parts += [f"![{caption}]({name}.svg)" for name, (_, caption) in drawn.items()]
    if report.command:
        parts.append(f"More trials, or the rest of them: `{report.command}`")
    if report.problems:
        parts += ["## Problems", "\n".join(f"- {problem}" for problem in report.problems)]
    return "\n\n".join(parts) + "\n"


def _objectives(report: StudyReport) -> str:
    return ", ".join(f"{direction} {name}" for name, direction in report.objectives.items())


def _tiles(report: StudyReport) -> list[dict[str, Any]]:
    best = report.trials[report.trials["best"]].iloc[0]
    done = int((report.trials["state"] == "complete").sum())
    pruned = int((report.trials["state"] == "pruned").sum())
    failed = int((report.trials["state"] == "failed").sum())
    words = objective_title(report.first)
    spent = float(report.provenance["device_seconds"].sum())
    return [
        {
            "value": spelled.number(best[f"value.{report.first}"]),
            "name": f"best {words[0].lower()}{words[1:]}",
            "note": f"trial {best['number']}: {report.point(best)}",
        },
        {
            "value": f"{len(report.trials)} / {report.wanted}",
            "name": "trials",
            "note": f"{done} complete, {pruned} pruned, {failed} failed",
        },
        {"value": console.duration(spent), "name": "of training in all", "note": ""},
    ]


def write_study(report: StudyReport, out: Path) -> Path:
    """Write the report into `out`; returns the page.

    report.html, report.md, trials.csv, runs.csv, importance.csv, table.tex, and each figure as SVG,
    PDF and PNG.
    """
    drawn = drawings(report)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "report.html", study_page(report, drawn), durable=False)
    write_atomic(out / "report.md", _study_markdown(report, drawn), durable=False)
    for df, name in (
        (report.trials, "trials.csv"),
        (report.importance, "importance.csv"),
        (df_of(records(report.provenance)), "runs.csv"),
    ):
        text = df.to_csv(index=False, float_format="%.10g")
        write_atomic(out / name, text, durable=False)
    tex = grids.latex(report.grid, f"{report.heading}.", report.summary, report.name)
    write_atomic(out / "table.tex", tex, durable=False)
    for name, (figure, _) in drawn.items():
        save(figure, out / name)
    return out / "report.html"
