"""Report → one HTML page that needs nothing else: no script, no network, light and dark, print."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import curves, published, render
from analysis.frames import as_float, normal, records
from atomsweep.tracking import schema

if TYPE_CHECKING:
    from analysis.report import Part, Report

_NAMED = ["name", "identity", "state"]
_TEMPLATES = Path(__file__).parent / "templates"


def page(report: "Report") -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    template = environment.get_template("report.html")
    alone = len(report.parts) == 1
    parts = [_part(part, number, alone) for number, part in enumerate(report.parts, 1)]
    return template.render(report=report, parts=parts, tiles=_tiles(report), runs=_runs(report))


def _part(part: "Part", number: int, alone: bool) -> dict[str, Any]:
    """What the template shows of one table."""
    quantity, unit, _ = render.METRIC_TITLES.get(part.metric, (part.metric, "", 4))
    figures = [
        {
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
        "heading": f"{quantity}, {unit}".rstrip(", ") if alone else part.title,
        "header": [render.axis_of(c, part.reference).title for c in part.rows],
        "splits": [render.SPLIT_TITLES.get(s, s) for s in _splits(part)],
        "ratio": f"{render.SPLIT_TITLES.get(_splits(part)[0], _splits(part)[0])} ÷ Median",
        "baseline": _baseline(part),
        "rows": _rows(part),
        "figures": figures,
        "paper": _paper(part.reference),
        "seeds": bool((part.cells["planned"] > 1).any()),
    }


def _splits(part: "Part") -> list[str]:
    return list(dict.fromkeys(part.cells["split"]))


def _baseline(part: "Part") -> list[str]:
    values = part.cells.drop_duplicates("split")["baseline"]
    return [render.number(value) for value in values]


def _rows(part: "Part") -> list[dict[str, Any]]:
    """Table rows; a first axis that repeats is one header over several rows."""
    rows: list[dict[str, Any]] = []
    for _, group in render.by_row(part.cells, part.rows):
        first = group.iloc[0]
        labels = [render.label(c, first[c], part.reference) for c in part.rows]
        cells = [_cell(cell, part) for cell in records(group)]
        ratio = as_float(first["ratio"])
        rows.append(
            {
                "labels": labels,
                "span": 1,
                "cells": cells,
                "ratio": render.times(ratio),
                "bar": None if math.isnan(ratio) else round(100 * min(ratio, 1.0), 1),
                "n": f"{first['n']}"
                if first["n"] == first["planned"]
                else f"{first['n']} of {first['planned']}",
            }
        )
    leader: dict[str, Any] | None = None
    for row in rows:
        if leader and len(row["labels"]) > 1 and row["labels"][0] == leader["labels"][0]:
            leader["span"] += 1
            row["span"] = 0
        else:
            leader = row
    return rows


def _cell(cell: dict[str, Any], part: "Part") -> dict[str, Any]:
    text = render.cell_text(cell)
    members = part.frame
    for column in part.rows:
        members = members[members[column].map(normal) == normal(cell[column])]
    behind = [
        f"{run['name']} {run['identity']}, {run['state']}" for run in records(members[_NAMED])
    ]
    return {
        "text": text.text,
        "bold": text.bold,
        "paper": None if math.isnan(cell["published"]) else render.number(cell["published"]),
        "paper_bold": bool(cell["published_best"]),
        "difference": None if math.isnan(cell["difference"]) else render.signed(cell["difference"]),
        "title": "; ".join(behind),
    }


def _paper(reference: str | None) -> dict[str, Any] | None:
    """The published table in full."""
    if reference is None:
        return None
    table, paper = published.table(reference), published.paper(reference)
    rows = [
        [axis.label(value) for axis, value in zip(table.axes, row.key, strict=True)]
        + [
            render.NOTHING if value is None else f"{value:.{column.decimals}f}"
            for column, value in zip(table.columns, row.values, strict=True)
        ]
        for row in table.rows
    ]
    return {
        "number": table.number,
        "workshop": table.workshop_number,
        "title": paper.title,
        "citation": paper.citation,
        "arxiv": paper.arxiv,
        "dataset": paper.dataset,
        "caption": table.caption,
        "axes": len(table.axes),
        "header": [axis.title for axis in table.axes] + [c.title for c in table.columns],
        "rows": rows,
        "footnotes": [paper.footnotes[key] for key in table.footnotes],
    }


def _tiles(report: "Report") -> list[dict[str, str]]:
    """The few numbers that a reader looks for first."""
    frame = report.trained
    done = int((frame["state"] == schema.FINISHED).sum())
    tiles = [{"value": f"{done} / {len(frame)}", "name": "runs finished", "note": ""}]
    for part in report.parts[:1]:
        best = part.best()
        if best is not None:
            title, unit, _ = render.METRIC_TITLES.get(part.metric, (part.metric, "", 4))
            split = render.SPLIT_TITLES.get(best["split"], best["split"])
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
    from analysis.report import commit, state_of

    return [
        {
            "name": run["name"] or render.NOTHING,
            "identity": run["identity"],
            "state": state_of(run),
            "numbers": [
                render.count(run["seed"]),
                render.count(run["step"]),
                render.count(run["parameters"]),
                render.duration(run["device_seconds"]),
                render.duration(run["eval_seconds"]),
                render.number(run["gpu_days"]),
            ],
            "device": run["device"] or render.NOTHING,
            "commit": commit(run),
            "data": run["data"] or render.NOTHING,
            "fingerprint": run["data_fingerprint"] or "",
            "created": run["created"] or render.NOTHING,
        }
        for run in records(report.provenance)
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
