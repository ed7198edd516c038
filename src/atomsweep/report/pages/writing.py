"""Report → files: Markdown, CSV, LaTeX, figures, page. Words and layout only, no arithmetic."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from atomsweep.report.figures import curves
from atomsweep.report.pages.report import Report
from atomsweep.report.read import published
from atomsweep.report.read.tidy import records
from atomsweep.report.tables import grids as render
from atomsweep.report.tables.grids import Grid, Text
from atomsweep.report.tables.parts import Gap, Part
from atomsweep.report.tables.verdicts import FAILS, HOLDS, UNDECIDED, Comparison, Judged
from atomsweep.tracking import schema


def write(report: Report, out: Path) -> Path:
    """Write a report into `out`; returns the page.

    report.html, report.md, table.csv (one line per cell), runs.csv, curves.csv, claims.csv,
    table.tex, and each figure as SVG, PDF and PNG.
    """
    from atomsweep.report.pages.html import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page(report), encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    cells = pd.concat([part.cells.assign(table=i) for i, part in enumerate(report.parts, 1)])
    _write_csv(cells, out / "table.csv")
    runs = report.provenance.assign(sweeps=report.provenance["sweeps"].map(" ".join))
    _write_csv(runs, out / "runs.csv")
    tex = (render.latex(part.layout, part.text, report.name) for part in report.parts)
    (out / "table.tex").write_text("\n".join(tex), encoding="utf-8")
    drawn = []
    for part, metric, name in _figures(report):
        curves.save(part.figures[metric], out / name)
        drawn.append(
            part.curves[metric].drop(columns=["hue", "dash", "rank"]).assign(metric=metric)
        )
    if drawn:
        _write_csv(pd.concat(drawn), out / "curves.csv")
    if report.claims:
        _write_csv(claims_frame(report.claims), out / "claims.csv")
    for section in report.sections:
        for picture in section.pictures:
            curves.save(picture.figure, out / picture.name)
    return out / "report.html"


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.10g")


def _figures(report: Report) -> list[tuple[Part, str, str]]:
    """Part, metric and file name of each figure."""
    several = len(report.parts) > 1
    return [
        (part, metric, f"curves-{number}-{split}" if several else f"curves-{split}")
        for number, part in enumerate(report.parts, 1)
        for metric in part.curves
        for split in [metric.partition("/")[0]]
    ]


MOST_RUNS = 2000  # of the table of provenance; runs.csv has all
CLAIMS_NOTE = (
    "Effects are left − right, paired by seed, with the 95 % interval of Student's t; a claim over "
    "several comparisons holds when each holds, and fails when one fails at 1 − 0.05/m for m of "
    "them. Seeds to decide are a guess at 80 % power. A sentence of the paper need not follow from "
    "its own table: the column on the paper's numbers says whether it does."
)


def claims_frame(claims: list[Judged]) -> pd.DataFrame:
    """One line per comparison, as numbers."""
    rows = [
        {
            "claim": claim.text,
            "verdict": claim.verdict,
            "metric": claim.metric,
            "left": c.left,
            "right": c.right,
            "effect": c.effect,
            "half_width": c.half_width,
            "n": c.n,
            "comparison": c.verdict,
            "seeds_needed": c.needed,
            "paper_left": c.paper[0] if c.paper else None,
            "paper_right": c.paper[1] if c.paper else None,
            "paper_holds": c.paper_holds,
            "note": c.note,
        }
        for claim in claims
        for c in claim.comparisons
    ]
    return pd.DataFrame(rows)


def paper_words(holds: bool | None) -> str:
    """Whether the paper's own numbers satisfy a claim."""
    return {True: "satisfied", False: "not satisfied", None: "no numbers"}[holds]


def needed_words(claim: Judged | Comparison) -> str:
    """How many further seeds would decide."""
    if claim.verdict != UNDECIDED:
        return ""
    if claim.needed is None:
        return "cannot tell"
    return f"about {claim.needed} more"


def claims_grid(claims: list[Judged]) -> Grid:
    """One claim per line."""
    rows = [
        [
            Text(f"`{claim.text}`"),
            Text(claim.verdict, bold=claim.verdict != UNDECIDED),
            Text(tally([c.verdict for c in claim.comparisons])),
            Text(needed_words(claim)),
            Text(paper_words(claim.paper_holds)),
            Text("; ".join(t for t in (claim.metric, claim.note) if t)),
        ]
        for claim in claims
    ]
    header = ["Claim", "Verdict", "Comparisons", "Seeds to decide", "Paper's numbers", "Of"]
    return Grid(header, rows, "llllll")


def comparisons_grid(claims: list[Judged]) -> Grid:
    """One comparison per line."""
    header = ["Claim", "Left", "Right", "Left − right", "n", "Verdict", "Paper", "Note"]
    rows = [
        [
            f"{i}",
            c.left,
            c.right,
            effect_words(c),
            str(c.n),
            c.verdict,
            paper_numbers(c),
            comparison_note(c),
        ]
        for i, claim in enumerate(claims, 1)
        for c in claim.comparisons
    ]
    return render.plain(header, rows, "rllrrlll")


def effect_words(c: Comparison) -> str:
    """`−0.0130 ± 0.0021`."""
    told = render.signed(c.effect)
    return told if math.isnan(c.half_width) else f"{told} ± {render.short(c.half_width)}"


def paper_numbers(c: Comparison) -> str:
    """`0.0360, 0.0373`."""
    return ", ".join(render.short(v) for v in c.paper) if c.paper else render.NOTHING


def comparison_note(c: Comparison) -> str:
    """Why there is no verdict, or what would bring one."""
    more = needed_words(c) if c.n > 1 else ""
    return "; ".join(t for t in (c.note, more and f"{more} seeds to decide") if t)


def tally(verdicts: Sequence[str]) -> str:
    """How many hold, fail and are undecided, in words."""
    counted = ((verdicts.count(v), v) for v in (HOLDS, FAILS, UNDECIDED) if v in verdicts)
    plural = {HOLDS: "hold", FAILS: "fail"}
    return ", ".join(f"{n} {v if n == 1 else plural.get(v, v)}" for n, v in counted)


def markdown(report: Report) -> str:
    """The whole report as Markdown."""
    text = [f"# {report.title}", report.summary]
    for number, part in enumerate(report.parts, 1):
        heading = part.title if len(report.parts) == 1 else report.heading_of(number)
        text += [f"## {heading}", render.markdown(part.layout), " ".join(part.caption)]
        if part.matrix is not None:
            split = render.split_title(part.cells["split"].iloc[-1])
            text += [f"### {split}, rows against columns", render.markdown(part.matrix)]
        if part.reference:
            text += [
                f"### Beside the paper: {citation(part.reference)}",
                render.markdown(render.beside_layout(part.cells, part.rows, part.reference)),
            ]
    if report.claims:
        text += ["## Claims", render.markdown(claims_grid(report.claims))]
        text += [render.markdown(comparisons_grid(report.claims))]
        text += [CLAIMS_NOTE]
    if report.footnotes:
        text += ["### On the published numbers", _bullets(report.footnotes)]
    if figures := _figures(report):
        text += ["## Learning curves"]
        text += [f"![{metric} against training time]({name}.svg)" for _, metric, name in figures]
    for section in report.sections:
        text += [f"## {section.title}", *section.text]
        for caption, grid in section.grids:
            text += [caption, render.markdown(grid)]
        text += [f"![{p.title}]({p.name}.svg)\n\n{p.caption}" for p in section.pictures]
        text += [_bullets(section.notes)] if section.notes else []
    if report.gaps:
        text += ["## Cells without a number", render.markdown(gap_grid(report.gaps))]
        if report.command:
            text += [f"All of them, and nothing else, at once: `{report.command}`"]
    shown = report.provenance.head(MOST_RUNS)
    text += ["## Provenance", render.markdown(provenance_grid(shown))]
    if len(report.provenance) > len(shown):
        text += [f"And {len(report.provenance) - len(shown)} more in runs.csv."]
    if report.problems:
        text += ["## Problems", _bullets(report.problems)]
    return "\n\n".join(text) + "\n"


def citation(reference: str) -> str:
    """`Hu … (2021), arXiv:2103.01436, Table 5`."""
    paper, table = published.paper(reference), published.table(reference)
    return f"{paper.citation}, arXiv:{paper.arxiv}, Table {table.number}"


def gap_grid(gaps: list[Gap]) -> Grid:
    """Cells without a number, one per line."""
    rows = [[Text(g.cell), Text(g.state), Text(g.reason), Text(f"`{g.command}`")] for g in gaps]
    return Grid(["Cell", "State", "Reason", "Filled by"], rows, "llll")


def provenance_grid(frame: pd.DataFrame) -> Grid:
    """One line per run: what it was, on what, from which code, at which cost."""
    header = ["Run", "Identity", "State", "Seed", "Steps", "Parameters", "Training", "Evaluation"]
    header += ["GPU-days", "Device", "Commit", "Data"]
    rows = [
        [
            str(run["name"] or render.NOTHING),
            run["identity"],
            state_of(run),
            render.count(run["seed"]),
            render.count(run["step"]),
            render.count(run["parameters"]),
            render.duration(run["device_seconds"]),
            render.duration(run["eval_seconds"]),
            render.number(run["gpu_days"]),
            run["device"] or render.NOTHING,
            commit(run),
            " ".join(str(v) for v in (run["data"], run["data_fingerprint"]) if v) or render.NOTHING,
        ]
        for run in records(frame)
    ]
    return render.plain(header, rows, "lll" + "r" * 6 + "lll")


def state_of(run: Mapping[str, Any]) -> str:
    """State of a run, `stale` where it is finished with other code than the present."""
    return schema.STALE if run["stale"] is True else str(run["state"])


def commit(run: Mapping[str, Any]) -> str:
    """Short commit, with a + where there were uncommitted changes."""
    if not run["commit"]:
        return render.NOTHING
    return f"{str(run['commit'])[:9]}{'+' if run['dirty'] else ''}"


def slug(name: str) -> str:
    """A name as a relative path: letters, digits and `._-/` stay, `..` does not."""
    parts = [re.sub(r"[^\w.-]+", "-", part).strip(".-") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "report"


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
