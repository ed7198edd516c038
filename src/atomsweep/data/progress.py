"""How far a long preparation of data is: a bar on a terminal, a few log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any

log = logging.getLogger(__name__)


class Progress:
    """A bar on a terminal, a line of the log about every tenth otherwise, or nothing.

    Args:
        what: is being done, e.g. "building mini_oc".
        unit: of what is counted.
        total: number of units.
        done: units that an earlier attempt left.
        show: False keeps silent.
    """

    def __init__(self, what: str, unit: str, total: int, done: int, show: bool) -> None:
        self.what, self.unit = what, unit
        self.total, self.done, self.show = total, done, show
        self.next_line = 0.1
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if self.show and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, initial=self.done, desc=self.what, unit=self.unit)
        return self

    def update(self, count: int) -> None:
        """Say that `count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.show and self.done >= self.next_line * self.total:
            log.info("%s: %d of %d %ss", self.what, self.done, self.total, self.unit)
            self.next_line = self.done / self.total + 0.1

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
