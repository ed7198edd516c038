"""The report of a study as one page and as Markdown, in the dress of all reports."""

from typing import TYPE_CHECKING, Any

from atomsweep.report.figures import curves
from atomsweep.report.pages.html import environment
from atomsweep.report.study.numbers import importance_grid
from atomsweep.report.tables import grids as render

if TYPE_CHECKING:
    from atomsweep.report.study.numbers import StudyReport


def page(report: "StudyReport") -> str:
    """A page that needs nothing else."""
    figures = [
        {"svg": curves.inline(figure, f"study-{name}", caption), "caption": caption, "name": name}
        for name, (figure, caption) in report.figures.items()
    ]
    template = environment().get_template("study.html")
    return template.render(report=report, figures=figures, tiles=_tiles(report))


def text(report: "StudyReport") -> str:
    """The whole report as Markdown."""
    parts = [f"# {report.heading} · {report.name}", report.summary]
    parts += ["## Trials", render.markdown(report.layout)]
    parts += [f"Objectives: {_objectives(report)}"]
    if report.constraints:
        parts.append(f"Constraints: {'; '.join(report.constraints)}")
    parts.append("## Importance of parameters")
    if not report.importance.empty:
        parts.append(render.markdown(importance_grid(report)))
    parts.append(f"Of {report.weighed}." if not report.importance.empty else f"{report.weighed}.")
    parts.append("## Figures")
    parts += [f"![{caption}]({name}.svg)" for name, (_, caption) in report.figures.items()]
    if report.command:
        parts.append(f"More trials, or the rest of them: `{report.command}`")
    if report.problems:
        parts += ["## Problems", "\n".join(f"- {problem}" for problem in report.problems)]
    return "\n\n".join(parts) + "\n"


def _objectives(report: "StudyReport") -> str:
    return ", ".join(f"{direction} {name}" for name, direction in report.objectives.items())


def _tiles(report: "StudyReport") -> list[dict[str, Any]]:
    best = report.trials[report.trials["best"]].iloc[0]
    done = int((report.trials["state"] == "complete").sum())
    pruned = int((report.trials["state"] == "pruned").sum())
    failed = int((report.trials["state"] == "failed").sum())
    spent = float(report.provenance["device_seconds"].sum())
    return [
        {
            "value": render.number(best[f"value.{report.first}"]),
            "name": f"best {report.first}",
            "note": f"trial {best['number']}: {report.point(best)}",
        },
        {
            "value": f"{len(report.trials)} / {report.wanted}",
            "name": "trials",
            "note": f"{done} complete, {pruned} pruned, {failed} failed",
        },
        {"value": render.duration(spent), "name": "of training in all", "note": ""},
    ]
