"""Report → one HTML page that needs nothing else: no network, light and dark, phone and print."""

import json
import math
from collections.abc import Callable, Collection
from typing import Any

from atomsweep import console
from atomsweep.report.figures.compute import clock_note
from atomsweep.report.figures.curves import AGAINST, TIME
from atomsweep.report.figures.files import inline
from atomsweep.report.pages.jinja import render
from atomsweep.report.pages.report import Report
from atomsweep.report.pages.run import compared, details_of
from atomsweep.report.read.asked import UNPLANNED
from atomsweep.report.read.tidy import METRIC, by_row, records, shown_state
from atomsweep.report.read.values import as_float, normal
from atomsweep.report.tables import curves, spelled, titles
from atomsweep.report.tables.forms import baseline_lines, cell_text
from atomsweep.report.tables.printed import printed_of
from atomsweep.report.tables.provenance import MOST_RUNS, commit
from atomsweep.report.tables.table import Table
from atomsweep.report.tables.verdict_grids import claims_grid, claims_note, comparisons_grid
from atomsweep.tracking import schema

MOST_BEHIND = 30  # runs that the pop-up of a cell lists


def page(report: Report) -> str:
    """The whole page."""
    details = details_of(report.provenance)
    detailed = {one["run"].identity for one in details}
    tables = [_drawn(report, number, detailed) for number in range(1, len(report.tables) + 1)]
    claims = report.claims and {
        "verdicts": claims_grid(report.claims),
        "comparisons": comparisons_grid(report.claims),
        "note": claims_note(report.looks),
    }
    return render(
        "report.html",
        report=report,
        tables=tables,
        claims=claims,
        tiles=_tiles(report),
        run_titles=list(_numbers(report)),
        runs=_runs(report),
        details=details,
        compared=json.dumps(compared(details)),
        undetailed=max(0, len(report.provenance) - len(details)),
        more=max(0, len(report.provenance) - MOST_RUNS),
    )


def _drawn(report: Report, number: int, detailed: Collection[str]) -> dict[str, Any]:
    """What the template shows of one table; `detailed` are runs that are told one by one."""
    table = report.tables[number - 1]
    figures = [
        {
            "name": f"{metric} against {AGAINST[across]}",
            "svg": inline(
                figure,
                f"p{number}-{metric.replace('/', '-')}-{across}",
                f"{metric} against {AGAINST[across]}, one line per table row",
            ),
            "caption": _curve_caption(table, metric, across),
        }
        for metric, drawn in report.figures[number - 1].items()
        for across, figure in drawn.items()
    ]
    return {
        "table": table,
        "number": number,
        "heading": report.heading_of(number),
        "header": [titles.axis_of(c, table.reference).title for c in table.rows],
        "splits": [titles.column_title(s, table.metric, table.alone) for s in table.splits],
        "ratio": f"{table.split_title(table.splits[0])} ÷ Median",
        "baselines": baseline_lines(table.cells, table.rows, table.reference),
        "rows": _rows(table, number, detailed),
        "figures": figures,
        "no_curves": report.without_curves(number),
        "anew": not (table.df["state"] == schema.FINISHED).any(),
        "paper": None if table.paper is None else printed_of(table.paper),
        "first": table.paper not in [other.paper for other in report.tables[: number - 1]],
        "seeds": bool((table.cells["planned"] > 1).any()),
    }


def _curve_caption(table: Table, metric: str, across: str) -> str:
    told = f"{metric} against {AGAINST[across]}."
    if across == TIME:
        told = f"The same against time on {table.device}; that of evaluation is not counted."
        told += f" {clock_note(table)}".rstrip()
    return told + curves.told(table.curves[metric])


def _rows(table: Table, number: int, detailed: Collection[str]) -> list[dict[str, Any]]:
    """Table rows, each with the runs behind it."""
    behind: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in records(table.df):
        behind.setdefault(tuple(normal(run.get(c)) for c in table.rows), []).append(run)
    rows: list[dict[str, Any]] = []
    for position, (key, group) in enumerate(by_row(table.cells, table.rows)):
        first = group.iloc[0]
        runs = behind.get(tuple(key), [])
        ratio = as_float(first["ratio"])
        rows.append(
            {
                "id": f"runs-{number}-{position}",
                "labels": [titles.label(c, first[c], table.reference) for c in table.rows],
                "cells": [_cell(cell, table, runs) for cell in records(group)],
                "runs": [
                    _run_behind(run, table) | {"detailed": run["identity"] in detailed}
                    for run in runs[:MOST_BEHIND]
                ],
                "ratio": spelled.times(ratio),
                "bar": None if math.isnan(ratio) else round(100 * min(ratio, 1.0), 1),
                "n": f"{first['n']}"
                if first["n"] == first["planned"]
                else f"{first['n']} of {first['planned']}",
            }
        )
    return rows


def _cell(cell: dict[str, Any], table: Table, runs: list[dict[str, Any]]) -> dict[str, Any]:
    decimals = titles.title_of(table.metric)[2]
    text = cell_text(cell, decimals)
    told = [f"{run['identity']} {shown_state(run)}" for run in runs[:5]]
    told += [f"and {len(runs) - 5} more"] if len(runs) > 5 else []
    return {
        "text": text.text,
        "bold": text.bold,
        "paper": None
        if math.isnan(cell["published"])
        else spelled.short(cell["published"], decimals),
        "paper_bold": bool(cell["published_best"]),
        "difference": None
        if math.isnan(cell["difference"])
        else spelled.signed(cell["difference"], decimals),
        "title": f"n = {cell['n']} of {cell['planned']}: {'; '.join(told)}",
    }


def _run_behind(run: dict[str, Any], table: Table) -> dict[str, Any]:
    """A run as the pop-up of a cell shows it."""
    planned = str(run["identity"]).startswith(UNPLANNED)
    names = [f"{METRIC}{split}/{table.metric}" for split in table.splits]
    decimals = titles.title_of(table.metric)[2]
    return {
        "identity": spelled.NOTHING if planned else run["identity"],
        "seed": spelled.count(run["seed"]),
        "state": shown_state(run),
        "numbers": [spelled.short(as_float(run.get(name)), decimals) for name in names],
        "time": console.duration(run["device_seconds"]),
        "device": run["device"] or spelled.NOTHING,
        "commit": commit(run),
        "created": (run["created"] or spelled.NOTHING).replace("T", " ")[: len("2026-01-31 10:20")],
        "link": run["link"],
        "command": None if run["state"] == schema.FINISHED else run["command"],
    }


def _tiles(report: Report) -> list[dict[str, str]]:
    """The few numbers that a reader looks for first."""
    df = report.trained
    done = int((df["state"] == schema.FINISHED).sum())
    first = {"value": f"{done} / {len(df)}", "name": "runs finished", "note": report.level or ""}
    tiles = [first]
    for table in report.tables[:1]:
        best = table.best()
        if best is not None:
            name = table.metric_title(schema.metric_name(best["split"], table.metric))
            seeds = " (one seed)" if best["n"] == 1 else ""
            tiles.append(
                {
                    "value": spelled.number(best["mean"]),
                    "name": f"best {name[0].lower()}{name[1:]}",
                    "note": table.label(best) + seeds,
                }
            )
            if not math.isnan(best["ratio"]):
                tiles.append(
                    {
                        "value": spelled.times(best["ratio"]),
                        "name": "the Median baseline",
                        "note": f"Median {spelled.number(best['baseline'])}",
                    }
                )
    spent = df["device_seconds"].sum()
    devices = ", ".join(dict.fromkeys(table.device for table in report.tables))
    tiles.append({"value": console.duration(spent), "name": "of training in all", "note": devices})
    return tiles


def _numbers(report: Report) -> dict[str, tuple[str, Callable[[float], str]]]:
    """Titles of what the provenance tells in numbers: column and form; GPU-days where any are."""
    found = {
        "Seed": ("seed", spelled.count),
        "Step": ("step", spelled.count),
        "Parameters": ("parameters", spelled.count),
        "Training": ("device_seconds", console.duration),
        "Evaluation": ("eval_seconds", console.duration),
    }
    gpu = {"GPU-days": ("gpu_days", spelled.number)}
    return found | (gpu if (report.provenance["gpu_days"] > 0).any() else {})


def _runs(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "name": run["name"] or spelled.NOTHING,
            "identity": run["identity"],
            "state": shown_state(run),
            "numbers": [
                (show(run[column]), run[column]) for column, show in _numbers(report).values()
            ],
            "device": run["device"] or spelled.NOTHING,
            "commit": commit(run),
            "data": run["data"] or spelled.NOTHING,
            "fingerprint": run["data_fingerprint"] or "",
            "created": run["created"] or spelled.NOTHING,
        }
        for run in records(report.provenance.head(MOST_RUNS))
    ]
