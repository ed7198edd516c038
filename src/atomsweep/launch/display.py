"""A sweep on the screen: one bar for each running cell on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from atomsweep.console import RunBar, open_bar, summary
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

LINE_SECONDS = 15.0


def sweep_display() -> "Bars | Lines":
    """Bars on a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One line for each running cell every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Log the cells when it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        for run in running:
            log.info("[%d/%d done] %s: %s", done, total, run.path.name, summary(run.status))

    def close(self) -> None:
        """Nothing is open."""


class Bars:
    """A bar for the sweep and one below it for each running cell."""

    def __init__(self) -> None:
        self._whole: Any = None
        self._bars: dict[str, tuple[RunBar, int]] = {}  # and the line where each stands

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Redraw from the status files."""
        if self._whole is None:
            layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}"
            self._whole = open_bar("cells", total, position=0, bar_format=layout)
        self._whole.n = done
        names = {run.path.name for run in running}
        for name in [name for name in self._bars if name not in names]:
            self._bars.pop(name)[0].close()
        for run in running:
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
            self._bars[name] = RunBar(name[:34], position=line, leave=False), line
        return self._bars[name][0]
