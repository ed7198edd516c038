"""Journals of runs: lines that were logged while they trained, as points of curves."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from atomsweep.report.read.values import as_float
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_lines, read_lines_from

Journal = Sequence[Mapping[str, Any]]
POINT = ("identity", "step", "device_seconds", "eval_seconds", "metric", "value")


def read_journal(path: str, problems: list[str]) -> Journal:
    """Lines of the journal of a run directory; damaged ones are a problem, told once."""
    file = Path(path) / schema.JOURNAL
    damaged: list[int] = []
    lines = read_lines(file, damaged)
    if damaged:
        lines_are = "line" if len(damaged) == 1 else "lines"
        left = "is left out" if len(damaged) == 1 else "are left out"
        told = f"{file.parent.name}: {len(damaged)} damaged {lines_are} of its {file.name} {left}"
        if told not in problems:
            problems.append(told)
    return lines


def points_of(
    identity: str, journal: Journal, metrics: Collection[str] | None
) -> list[tuple[str, float, float, float, str, float]]:
    """Entries of a journal, its lines merged by step."""
    merged: dict[float, dict[str, Any]] = {}
    for line in journal:
        if schema.STEP in line:
            merged.setdefault(as_float(line[schema.STEP]), {}).update(line)
    return [
        (
            identity,
            step,
            as_float(line.get(schema.DEVICE_SECONDS)),
            as_float(line.get(schema.EVAL_SECONDS)),
            name,
            as_float(value),
        )
        for step, line in merged.items()
        for name, value in line.items()
        if "/" in name and (metrics is None or name in metrics)
    ]


class GrowingJournal:
    """Points of a journal while its run trains: each look reads what was added since the last.

    Args:
        run: its directory.
        metrics: that are kept; a journal has many.
    """

    def __init__(self, run: Path, metrics: Collection[str]) -> None:
        self._path, self._metrics = run / schema.JOURNAL, metrics
        self._file, self._end = 0, 0
        self._points: dict[str, dict[float, float]] = {}

    def points(self, metric: str) -> list[tuple[float, float]]:
        """Steps and values of one of them, as far as it is logged; [] where there is no journal."""
        try:
            found = self._path.stat()
            if found.st_ino != self._file or found.st_size < self._end:  # a resume cut it
                self._file, self._end, self._points = found.st_ino, 0, {}
            if found.st_size > self._end:
                lines, self._end = read_lines_from(self._path, self._end)
                for line in lines:
                    for name, value in line.items():
                        if name in self._metrics:
                            self._points.setdefault(name, {})[float(line["step"])] = as_float(value)
        except OSError:
            return []
        own = self._points.get(metric, {})
        return sorted((step, value) for step, value in own.items() if math.isfinite(value))
