"""A sweep on the screen: one bar for each running cell on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomsweep.console import LINE_SECONDS, RunBar, open_bar, summary
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

FIRST_SECONDS = 15.0  # until the first lines
MOST = 8  # cells that are shown at once: those that began first, of which the slowest are left


def sweep_display() -> "Bars | Lines":
    """Bars on a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()


class _Begun:
    """Running cells in the order in which they began, as far as that was seen."""

    def __init__(self) -> None:
        self._order: dict[Path, int] = {}

    def first(self, running: Sequence[RunDirectory]) -> list[RunDirectory]:
        """At most `MOST` of them."""
        for run in running:
            self._order.setdefault(run.path, len(self._order))
        return sorted(running, key=lambda run: self._order[run.path])[:MOST]


class Lines:
    """A line for each cell that is shown, and one that counts them all, every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._next = time.monotonic() + FIRST_SECONDS
        self._begun = _Begun()

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Log the cells when it is time."""
        shown = self._begun.first(running)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        for run in shown:
            log.info("[%d/%d done] %s: %s", done, total, run.path.name, summary(run.status))
        if more := len(running) - len(shown):
            log.info("[%d/%d done] and %d more that began later", done, total, more)

    def close(self) -> None:
        """Nothing is open."""


class Bars:
    """A bar for the sweep, with the number of running cells, and one for each that is shown."""

    def __init__(self) -> None:
        self._begun = _Begun()
        self._whole: Any = None
        self._bars: dict[str, tuple[RunBar, int]] = {}  # and the line where each stands

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Redraw from the status files."""
        if self._whole is None:
            layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"
            self._whole = open_bar("cells", total, position=0, bar_format=layout)
        self._whole.n = done
        shown = self._begun.first(running)
        more = f"{len(running)} running" if len(running) > len(shown) else ""
        self._whole.set_postfix_str(more, refresh=False)
        names = {run.path.name for run in shown}
        for name in [name for name in self._bars if name not in names]:
            self._bars.pop(name)[0].close()
        for run in shown:
            self._bar(run.path.name).show(run.status)
        self._whole.refresh()

    def close(self) -> None:
        """Leave the terminal as it was."""
        for bar, _ in self._bars.values():
            bar.close()
        if self._whole is not None:
            self._whole.close()

    def _bar(self, name: str) -> RunBar:
        if name not in self._bars:
            taken = {line for _, line in self._bars.values()}
            line = next(i for i in range(1, len(taken) + 2) if i not in taken)
            self._bars[name] = RunBar(name, position=line, leave=False), line
        return self._bars[name][0]
