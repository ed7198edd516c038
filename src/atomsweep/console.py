"""What a person sees: log lines, log files, how far a thing is, durations and tables.

The formatters of durations and of aligned columns are here, one of each for the whole project.
"""

import difflib
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NOTHING = "–"  # stands where there is no value
MANY = 100  # cells whose planning takes long enough to be shown
LINE_SECONDS = 60.0  # between two lines about one thing where there is no terminal


def to_terminal() -> None:
    """Log lines on the terminal: the message alone, as a person reads it.

    Lines with `extra={"detail": True}` are for terminals and log files, not for pipes.
    """
    handler = logging.StreamHandler()
    if not sys.stderr.isatty():
        handler.addFilter(lambda record: not getattr(record, "detail", False))
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Plain lines of everything that is logged, appended to `path` while the context lasts.

    A line that finds no room on the disk is lost, which stops nobody.
    """
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        with suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """No traceback on the terminal: whoever writes what counts tells of a full disk."""


def suggestion(name: str, names: Iterable[str], before: str = "") -> str:
    """Clause after a name that nothing has: the one that was meant, or all there are.

    Args:
        name: that was typed.
        names: all there are.
        before: stands before the name that was meant, `optim.`.
    """
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {before}{near[0]}?" if near else f"known are {', '.join(names)}"


def near_names(word: str, names: Iterable[str]) -> str:
    """`did you mean one or two?`: names that a word begins, ends or is spelt like; "" without."""
    names = list(names)
    near = [name for name in names if word and name.startswith(word)]
    near = near or [name for name in names if word and word in name]
    near = near or difflib.get_close_matches(word, names, 3)
    more = f" (and {len(near) - 3} more)" if len(near) > 3 else ""
    return f"did you mean {' or '.join(near[:3])}{more}?" if near else ""


def columns() -> int:
    """Width of the terminal; 100 where it does not say."""
    return shutil.get_terminal_size((100, 24)).columns


def open_bar(what: str, total: int, **settings: Any) -> Any:
    """A bar of tqdm on the terminal, as wide as that."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, ncols=columns(), **settings)


class Progress:
    """How far a long piece of work is: a bar on a terminal, else lines.

    One at its start, one at about every tenth, and one in a minute where that takes longer.

    Args:
        what: is being done, e.g. "building mini_oc".
        unit: of what is counted.
        total: number of units.
        done: units that an earlier attempt left.
        show: False keeps silent.
        every_s: seconds between lines, at least.
    """

    def __init__(
        self, what: str, unit: str, total: int, done: int, show: bool, every_s: float = 0.0
    ) -> None:
        self.what, self.unit = what, unit
        self.total, self.done, self.show = total, done, show
        self.next_line, self.every_s, self.told = 0.1, every_s, -math.inf
        self.bar: Any = None

    @classmethod
    def of_cells(cls, what: str, total: int) -> "Progress":
        """Of the cells of a sweep, and silent where they are few."""
        return cls(what, "cell", total, 0, total >= MANY, every_s=2.0)

    def __enter__(self) -> "Progress":
        if self.show and sys.stderr.isatty():
            self.bar = open_bar(self.what, self.total, initial=self.done, unit=self.unit)
        elif self.show and (left := self.total - self.done) > 0:
            log.info("%s: %d %s%s to do", self.what, left, self.unit, "s" * (left > 1))
            self.told = time.monotonic()
        return self

    def update(self, count: int) -> None:
        """Say that `count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.show and self._is_due():
            log.info("%s: %d of %d %ss", self.what, self.done, self.total, self.unit)
            self.next_line = self.done / self.total + 0.1
            self.told = time.monotonic()

    def _is_due(self) -> bool:
        a_tenth = self.done >= self.next_line * self.total
        return time.monotonic() >= self.told + (self.every_s if a_tenth else LINE_SECONDS)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class RunBar:
    """A bar of one run: its share done, time left and latest values; its name, if that fits.

    Args:
        name: of the run.
        settings: more for tqdm, e.g. the bar's line.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        named = name.replace("{", "{{").replace("}", "}}")
        layout = f"{{percentage:3.0f}}% {{desc}} |{{bar:10}}| {named}"  # cut off at the right
        self._bar = open_bar("starting", 100, bar_format=layout, **settings)

    def show(self, status: Mapping[str, Any]) -> None:
        """Redraw from the run's status."""
        self._bar.n = round(100 * float(status.get("fraction") or 0.0))
        self._bar.set_description_str(summary(status), refresh=True)

    def close(self) -> None:
        """The bar stays or goes, as its settings say."""
        self._bar.close()


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Progress of one run: a bar on a terminal, with log lines above it; else a line a minute.

    Yields:
        A function of the run's status that redraws.
    """
    if not sys.stderr.isatty():
        next_time = -math.inf

        def tell(status: Mapping[str, Any]) -> None:
            nonlocal next_time
            if status.get("step") and time.monotonic() >= next_time:
                next_time = time.monotonic() + LINE_SECONDS
                log.info("%3.0f%% %s", 100 * float(status.get("fraction") or 0), summary(status))

        yield tell
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), closing(RunBar(name)) as bar:
        yield bar.show


def summary(status: Mapping[str, Any]) -> str:
    """Time left, latest values and step, in words; what counts first, as a line may be cut off."""
    if "step" not in status:
        return "starting"
    step = f"step {status['step']}"
    if status.get("total_steps"):
        step += f"/{status['total_steps']}"
    values = [f"{name} {value:.4f}" for name, value in (status.get("values") or {}).items()]
    left = []
    if status.get("seconds_left") is not None:
        left = [f"{duration(float(status['seconds_left']))} left"]
    return ", ".join([*left, *values, step])


def duration(seconds: float | None) -> str:
    """`48 s`, `3.2 min`, `5.1 h`, `2.4 d`; – for None and NaN."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    for size, unit, limit in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < size * limit:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def padded(rows: Sequence[Sequence[str]], sides: str = "", least: int = 0) -> list[list[str]]:
    """Cells of a table, those of one column as wide as its widest.

    Args:
        rows: cells as text, the header among them; all rows have the same number of cells.
        sides: `l` or `r` for each column, the side that its cells are moved to; all `l` if empty.
        least: width of a column.
    """
    widths = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]

    def cell(text: str, width: int, side: str) -> str:
        return text.rjust(width) if side == "r" else text.ljust(width)

    return [list(map(cell, row, widths, sides or "l" * len(widths))) for row in rows]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: columns of equal width, two spaces apart."""
    return ["  ".join(row).rstrip() for row in padded(rows)]
