"""What a person sees of a run: log lines, its log file, a bar with the loss and the time left."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def to_terminal() -> None:
    """Log lines on the terminal: the message alone, as a person reads it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Plain lines of everything that is logged, appended to `path` while the context lasts."""
    handler = logging.FileHandler(path)
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
        handler.close()


LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {postfix}"


def columns() -> int:
    """Width of the terminal; 100 where it does not say."""
    return shutil.get_terminal_size((100, 24)).columns


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Progress of one run: a bar on a terminal, with log lines above it; nothing elsewhere.

    Yields:
        A function of the run's status that redraws.
    """
    if not sys.stderr.isatty():
        yield lambda status: None
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with (
        logging_redirect_tqdm(),
        tqdm(total=100, desc=name[:38], bar_format=LAYOUT, ncols=columns()) as bar,
    ):

        def update(status: Mapping[str, Any]) -> None:
            bar.n = round(100 * float(status.get("fraction") or 0.0))
            bar.set_postfix_str(summary(status), refresh=True)

        yield update


def summary(status: Mapping[str, Any]) -> str:
    """Step, latest values and time left, in words."""
    if "step" not in status:
        return "starting"
    step = f"step {status['step']}"
    if status.get("total_steps"):
        step += f"/{status['total_steps']}"
    values = [f"{name} {value:.4f}" for name, value in (status.get("values") or {}).items()]
    left = []
    if status.get("seconds_left") is not None:
        seconds = int(status["seconds_left"])
        left = [f"{seconds // 60}:{seconds % 60:02d} left"]
    return ", ".join([step, *values, *left])
