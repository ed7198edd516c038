"""A sweep on the screen: one bar for each running cell on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from atomsweep.console import LAYOUT, columns, summary
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
        from tqdm import tqdm

        self._tqdm = tqdm
        self._whole: Any = None
        self._bars: dict[str, Any] = {}

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Redraw from the status files."""
        if self._whole is None:
            layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}"
            self._whole = self._tqdm(
                total=total, desc="cells", position=0, bar_format=layout, ncols=columns()
            )
        self._whole.n = done
        names = {run.path.name for run in running}
        for name in [name for name in self._bars if name not in names]:
            self._bars.pop(name).close()
        for run in running:
            bar = self._bars.get(run.path.name) or self._open(run.path.name)
            status = run.status
            bar.n = round(100 * float(status.get("fraction") or 0.0))
            bar.set_postfix_str(summary(status), refresh=True)
        self._whole.refresh()

    def close(self) -> None:
        """Leave the terminal as it was."""
        for bar in self._bars.values():
            bar.close()
        if self._whole is not None:
            self._whole.close()

    def _open(self, name: str) -> Any:
        taken = {-bar.pos for bar in self._bars.values()}
        position = next(i for i in range(1, len(taken) + 2) if i not in taken)
        bar = self._tqdm(
            total=100,
            desc=name[:34],
            position=position,
            leave=False,
            bar_format=LAYOUT,
            ncols=columns(),
        )
        self._bars[name] = bar
        return bar
