"""Report → one HTML page that needs nothing else: no network, light and dark, phone and print."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.report.figures import curves
from atomsweep.report.pages import paper
from atomsweep.report.read.layout import UNPLANNED
from atomsweep.report.read.tidy import METRIC, as_float, normal, records
from atomsweep.report.tables import grids as render
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from atomsweep.report.pages.overview import Entry
    from atomsweep.report.pages.report import Report
    from atomsweep.report.tables.parts import Part

MOST_BEHIND = 30  # runs that the pop-up of a cell lists
MOST_RUNS = 2000  # in the table of provenance; runs.csv has all
_TEMPLATES = Path(__file__).parent / "templates"


def page(report: "Report") -> str:
    """The whole page."""
    from atomsweep.report.pages import writing

    parts = [_part(report, number) for number in range(1, len(report.parts) + 1)]
    claims = report.claims and {
        "verdicts": writing.claims_grid(report.claims),
        "comparisons": writing.comparisons_grid(report.claims),
        "note": writing.CLAIMS_NOTE,
    }
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            parts=parts,
            claims=claims,
            tiles=_tiles(report),
            runs=_runs(report),
            more=max(0, len(report.provenance) - MOST_RUNS),
        )
    )


def paper_page(shown: paper.Paper) -> str:
    """The page of a published table that no sweep answers."""
    told = paper.sentence(shown.reference)
    return environment().get_template("paper.html").render(paper=shown, sentence=told)


def index(
    groups: Sequence[tuple[str, Sequence["Entry"]]], problems: Sequence[str], source: str
) -> str:
    """A page that leads to all tables, by paper."""
    template = environment().get_template("index.html")
    return template.render(groups=groups, problems=problems, source=source)


def environment() -> Any:
    """Templates of all pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    environment.filters["svg"] = lambda p: curves.inline(p.figure, f"fig-{p.name}", p.title)
    return environment


def _part(report: "Report", number: int) -> dict[str, Any]:
    """What the template shows of one table."""
    part = report.parts[number - 1]
    figures = [
        {
            "metric": metric,
            "svg": curves.inline(
                figure,
                f"p{number}-{metric.replace('/', '-')}",
                f"{metric} against training time, one line per run",
            ),
            "caption": f"{metric} on {part.device}; time of evaluation is not counted."
            + curves.left_out(part.curves[metric]),
        }
        for metric, figure in part.figures.items()
    ]
    return {
        "part": part,
        "number": number,
        "heading": report.heading_of(number),
        "header": [render.axis_of(c, part.reference).title for c in part.rows],
        "splits": [render.column_title(s, part.metric) for s in _splits(part)],
        "ratio": f"{render.split_title(_splits(part)[0])} ÷ Median",
        "baselines": render.baseline_lines(part.cells, part.rows, part.reference),
        "rows": _rows(part, number),
        "figures": figures,
        "paper": None if part.paper is None else paper.paper_of(part.paper),
        "first": part.paper not in [other.paper for other in report.parts[: number - 1]],
        "seeds": bool((part.cells["planned"] > 1).any()),
    }


def _splits(part: "Part") -> list[str]:
    return list(dict.fromkeys(part.cells["split"]))


def _rows(part: "Part", number: int) -> list[dict[str, Any]]:
    """Table rows, each with the runs behind it."""
    behind: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in records(part.frame):
        behind.setdefault(tuple(normal(run.get(c)) for c in part.rows), []).append(run)
    rows: list[dict[str, Any]] = []
    for position, (key, group) in enumerate(render.by_row(part.cells, part.rows)):
        first = group.iloc[0]
        runs = behind.get(tuple(key), [])
        ratio = as_float(first["ratio"])
        rows.append(
            {
                "id": f"runs-{number}-{position}",
                "labels": [render.label(c, first[c], part.reference) for c in part.rows],
                "cells": [_cell(cell, part, runs) for cell in records(group)],
                "runs": [_run_behind(run, part) for run in runs[:MOST_BEHIND]],
                "ratio": render.times(ratio),
                "bar": None if math.isnan(ratio) else round(100 * min(ratio, 1.0), 1),
                "n": f"{first['n']}"
                if first["n"] == first["planned"]
                else f"{first['n']} of {first['planned']}",
            }
        )
    return rows


def _cell(cell: dict[str, Any], part: "Part", runs: list[dict[str, Any]]) -> dict[str, Any]:
    decimals = render.title_of(part.metric)[2]
    text = render.cell_text(cell, decimals)
    told = [f"{run['identity']} {run['state']}" for run in runs[:5]]
    told += [f"and {len(runs) - 5} more"] if len(runs) > 5 else []
    return {
        "text": text.text,
        "bold": text.bold,
        "paper": None
        if math.isnan(cell["published"])
        else render.short(cell["published"], decimals),
        "paper_bold": bool(cell["published_best"]),
        "difference": None
        if math.isnan(cell["difference"])
        else render.signed(cell["difference"], decimals),
        "title": f"n = {cell['n']} of {cell['planned']}: {'; '.join(told)}",
    }


def _run_behind(run: dict[str, Any], part: "Part") -> dict[str, Any]:
    """A run as the pop-up of a cell shows it."""
    from atomsweep.report.pages.writing import commit, state_of

    planned = str(run["identity"]).startswith(UNPLANNED)
    names = [f"{METRIC}{split}/{part.metric}" for split in _splits(part)]
    decimals = render.title_of(part.metric)[2]
    return {
        "identity": render.NOTHING if planned else run["identity"],
        "seed": render.count(run["seed"]),
        "state": state_of(run),
        "numbers": [render.short(as_float(run.get(name)), decimals) for name in names],
        "time": render.duration(run["device_seconds"]),
        "device": run["device"] or render.NOTHING,
        "commit": commit(run),
        "created": (run["created"] or render.NOTHING).replace("T", " ")[: len("2026-01-31 10:20")],
        "link": run["link"],
        "command": None if run["state"] == schema.FINISHED else run["command"],
    }


def _tiles(report: "Report") -> list[dict[str, str]]:
    """The few numbers that a reader looks for first."""
    frame = report.trained
    done = int((frame["state"] == schema.FINISHED).sum())
    tiles = [{"value": f"{done} / {len(frame)}", "name": "runs finished", "note": ""}]
    for part in report.parts[:1]:
        best = part.best()
        if best is not None:
            title, unit, _ = render.title_of(part.metric)
            split = render.split_title(best["split"])
            tiles.append(
                {
                    "value": render.number(best["mean"]),
                    "name": f"best {title[0].lower()}{title[1:]} on {split}, {unit}".rstrip(", "),
                    "note": part.label(best),
                }
            )
            if not math.isnan(best["ratio"]):
                tiles.append(
                    {
                        "value": render.times(best["ratio"]),
                        "name": "the Median baseline",
                        "note": f"Median {render.number(best['baseline'])}",
                    }
                )
    spent = frame["device_seconds"].sum()
    devices = ", ".join(dict.fromkeys(part.device for part in report.parts))
    tiles.append({"value": render.duration(spent), "name": "of training in all", "note": devices})
    return tiles


def _runs(report: "Report") -> list[dict[str, Any]]:
    from atomsweep.report.pages.writing import commit, state_of

    return [
        {
            "name": run["name"] or render.NOTHING,
            "identity": run["identity"],
            "state": state_of(run),
            "numbers": [
                (show(run[column]), run[column])
                for column, show in (
                    ("seed", render.count),
                    ("step", render.count),
                    ("parameters", render.count),
                    ("device_seconds", render.duration),
                    ("eval_seconds", render.duration),
                    ("gpu_days", render.number),
                )
            ],
            "device": run["device"] or render.NOTHING,
            "commit": commit(run),
            "data": run["data"] or render.NOTHING,
            "fingerprint": run["data_fingerprint"] or "",
            "created": run["created"] or render.NOTHING,
        }
        for run in records(report.provenance.head(MOST_RUNS))
    ]


def _code(text: str) -> Any:
    """Sentences with `commands` in back ticks → escaped HTML with <code>."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    told = [
        Markup("<code>{}</code>").format(piece) if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    ]
    return Markup("").join(told)
