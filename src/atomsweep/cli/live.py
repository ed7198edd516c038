"""What `atomsweep watch` shows: an address becomes a page, made anew only where runs have changed.

Pages are made in memory from names that are looked up among what there is. No file is served and
none is written.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from atomsweep.build import UserError
from atomsweep.console import NOTHING
from atomsweep.launch.overview import Line, Overview, Seen, Standing, counts, slowest
from atomsweep.launch.presence import launchers
from atomsweep.shipped import SWEEPS, places
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds between two looks at the root, while somebody looks at a page
IDLE = 15.0  # seconds between two questions of a page whose runs all rest
REST = 20.0  # what is costly is made again after this times the CPU seconds that it took
MOST = 100  # cells of a sweep that are told one by one
MOST_SINGLE = 40
INDEX, SWEEP, RUN, REPORT = "/", "/sweep/", "/run/", "/report/"
TRAIN_LOSS = f"{schema.TRAIN}/{schema.LOSS}"


class NoSuchPage(LookupError):
    """Nothing has this address; the message says what was looked for."""


class Site:
    """The pages of one root.

    Args:
        root: where runs are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._overview = Overview(root)
        self._looking = threading.Lock()
        self._drawing = threading.Lock()  # matplotlib and reports: one at a time
        self._seen: tuple[float, float, Seen] | None = None  # when, CPU seconds, what it saw
        self._journals: dict[Path, Any] = {}
        self._kept: dict[str, tuple[Any, float, Any]] = {}  # mark, not again before, what was made
        self._files: list[tuple[str, str]] | None = None

    def page(self, address: str) -> str:
        """The HTML of an address.

        Raises:
            NoSuchPage: there is none.
        """
        path = unquote(address.partition("?")[0].partition("#")[0])
        if path == INDEX:
            return self._index()
        for start, make in ((SWEEP, self._sweep), (RUN, self._run), (REPORT, self._report)):
            if path.startswith(start):
                return make(path.removeprefix(start))
        raise NoSuchPage(f"there is no page {path}")

    def look(self) -> Seen:
        """How the root stands, from a look that is not older than a page may be."""
        with self._looking:
            now, before = time.monotonic(), self._seen
            if before is None or now - before[0] >= max(EVERY, REST * before[1]):
                start = time.thread_time()
                seen = self._overview.look()
                took = 0.0 if before is None else time.thread_time() - start  # the first reads all
                self._seen = before = time.monotonic(), took, seen
                there = {line.path for line in seen.lines}
                self._journals = {p: j for p, j in self._journals.items() if p in there}
            return before[2]

    def _every(self, lines: Iterable[Line], launching: bool) -> float:
        """Seconds until a page should ask again."""
        works = launching or any(line.state == schema.RUNNING for line in lines)
        took = self._seen[1] if self._seen else 0.0
        return round(max(EVERY if works else IDLE, REST * took), 1)

    def _index(self) -> str:
        from atomsweep.report.pages.live import index_page

        seen = self.look()
        standings = list(seen.sweeps.values())[::-1]
        sweeps = [self._standing(one) for one in standings]
        planned = {line.identity for one in standings for line in one.lines}
        singles = [line for line in seen.lines if line.identity not in planned]
        singles.sort(key=lambda line: (line.state != schema.RUNNING, -line.created))
        told = singles[:MOST_SINGLE]
        launched = set(seen.sweeps)
        return index_page(
            sweeps,
            self._cells(told, whole=True),
            len(singles) - len(told),
            [file for file in self._sweep_files() if file[0] not in launched],
            seen.problems,
            str(self.root.absolute()),
            self._every(seen.lines, any(one.launching for one in sweeps)),
        )

    def _sweep(self, name: str) -> str:
        import matplotlib.figure  # noqa: F401 (not on the clock of the first drawing)

        from atomsweep.report.pages.live import drawings, sweep_page

        seen = self.look()
        standing = seen.sweeps.get(name)
        if standing is None:
            raise NoSuchPage(f"there is no sweep {name} in {self.root}")
        told = _chosen(standing.lines)
        cells = self._cells(told)
        sweep = self._standing(standing, cells, told)
        mark = [(cell.identity, cell.state, cell.drawn, cell.points[-1:]) for cell in cells]
        figures = self._costly(f"drawings {name}", mark, lambda: drawings(cells))
        every = self._every(standing.lines, bool(sweep.launching))
        return sweep_page(sweep, figures or [], seen.problems, every)

    def _run(self, name: str) -> str:
        from atomsweep.report.pages.run import runs_page
        from atomsweep.report.read.one import read_one
        from atomsweep.report.read.row import fill_command

        line = next((line for line in self.look().lines if line.name == name), None)
        if line is None or line.path is None:
            raise NoSuchPage(f"there is no run {name} in {self.root}")
        run = RunDirectory(line.path)
        return self._waited_for(
            f"run {name}",
            (line, self._points(line, line.metric or "")[-1:]),
            lambda: runs_page([read_one(run, fill_command(line.overrides))]),
        )

    def _report(self, name: str) -> str:
        seen = self.look()
        standing = seen.sweeps.get(name)
        if standing is None:
            raise NoSuchPage(f"there is no sweep {name} in {self.root}")
        return self._waited_for(f"report {name}", standing.lines, lambda: self._made(name))

    def _made(self, name: str) -> str:
        """The page of `atomsweep report`, in memory."""
        from atomsweep.cli.report import runs_of
        from atomsweep.report.pages.html import page
        from atomsweep.report.pages.report import build
        from atomsweep.report.pages.study import study_page
        from atomsweep.report.study.drawings import drawings
        from atomsweep.report.study.report import build_study, study_of

        runs = runs_of(self.root)
        try:
            if (study := study_of(runs, [name])) is not None:
                made = build_study(runs, study)
                return study_page(made, drawings(made))
            return page(build(runs, runs.sweep(name)))
        except (LookupError, ValueError) as error:
            raise UserError(str(error)) from error

    def _costly(self, key: str, mark: Any, make: Callable[[], Any]) -> Any:
        """What is made from `mark`, or what was before: while it rests, or another is made."""
        known = self._kept.get(key)
        fresh = known is not None and (known[0] == mark or time.monotonic() < known[1])
        if not fresh and self._drawing.acquire(blocking=False):
            try:
                start = time.thread_time()
                made = make()
                again = time.monotonic() + REST * (time.thread_time() - start)
                known = self._kept[key] = mark, again, made
            finally:
                self._drawing.release()
        return None if known is None else known[2]

    def _waited_for(self, key: str, mark: Any, make: Callable[[], str]) -> str:
        """The same, of what somebody has asked for by itself: it is waited for."""
        while (made := self._costly(key, mark, make)) is None:
            with self._drawing:
                pass
        return str(made)

    def _standing(
        self, standing: Standing, cells: Sequence[Any] = (), told: Sequence[Line] = ()
    ) -> Any:
        from atomsweep.report.pages.live import LiveSweep

        who = [
            f"process {one.get('pid')} on {one.get('host')}"
            for one in launchers(self.root, standing.name)
        ]
        shown = {line.identity for line in told}
        hidden = [line for line in standing.lines if told and line.identity not in shown]
        command = standing.plan.get("command")
        return LiveSweep(
            name=standing.name,
            page=SWEEP + quote(standing.name),
            report=REPORT + quote(standing.name),
            counts=standing.counts(),
            spent=standing.spent,
            left=standing.left,
            unknown=standing.unknown,
            launching=", ".join(who),
            command=None if who or not isinstance(command, str) else command,
            cells=cells,
            hidden=counts(hidden),
        )

    def _cells(self, lines: Sequence[Line], whole: bool = False) -> list[Any]:
        """What a page shows of some lines; `whole` names each by itself."""
        from atomsweep.report.pages.live import LiveCell

        shared = set.intersection(*(set(line.overrides) for line in lines)) if lines else set()
        found = []
        for line in lines:
            typed = [o for o in line.overrides if whole or o not in shared or len(lines) == 1]
            seed = next((o for o in typed if o.startswith("seed=")), "")
            drawn, points = line.metric or "", self._points(line, line.metric or "")
            if len(points) < 2:
                drawn, points = TRAIN_LOSS, self._points(line, TRAIN_LOSS)
            value = line.value
            if value is None and points and drawn == line.metric:
                value = points[-1][1]
            found.append(
                LiveCell(
                    identity=line.identity,
                    setting=" ".join(o for o in typed if o != seed) or (line.name if whole else ""),
                    seed=seed,
                    state=line.state,
                    share=line.fraction,
                    step=_step(line),
                    metric=line.metric,
                    value=math.nan if value is None else value,
                    time=line.device_seconds,
                    heard=_heard(line),
                    message=line.message,
                    page=RUN + quote(line.name) if line.path is not None else "",
                    drawn=drawn,
                    points=points,
                )
            )
        return found

    def _points(self, line: Line, metric: str) -> list[tuple[float, float]]:
        from atomsweep.report.read.journals import GrowingJournal

        if line.path is None or line.state == schema.MISSING:
            return []
        with self._looking:
            journal = self._journals.get(line.path)
            if journal is None:
                wanted = {TRAIN_LOSS, line.metric or TRAIN_LOSS}
                journal = self._journals[line.path] = GrowingJournal(line.path, wanted)
            return list(journal.points(metric))

    def _sweep_files(self) -> list[tuple[str, str]]:
        """Name and title of every sweep file, read once."""
        from atomsweep.report.read.asked import known_files
        from atomsweep.sweep.file import read_sweep

        if self._files is None:
            self._files = []
            folders = places(SWEEPS)
            for name in known_files(folders):
                path = next(p for f in folders if (p := f / f"{name}.yaml").is_file())
                with suppress(UserError, OSError):
                    self._files.append((name, read_sweep(path).title))
        return self._files


def _chosen(lines: Sequence[Line]) -> list[Line]:
    """All lines of a sweep; of many what runs, what failed, what stopped and what ended last."""
    if len(lines) <= MOST:
        return list(lines)
    order = {schema.FAILED: 1, schema.INTERRUPTED: 2}
    rest = [line for line in lines if line.state != schema.RUNNING]
    rest.sort(key=lambda line: (order.get(line.state, 3), -(line.heartbeat or 0.0)))
    return (slowest(lines) + rest)[:MOST]


def _step(line: Line) -> str:
    if line.step is None:
        return NOTHING
    done = f"{line.step:.15g}"
    return f"{done} / {line.total_steps:.15g}" if line.total_steps else done


def _heard(line: Line) -> str:
    """A moment that stays the same until the run is heard of again."""
    try:
        then, now = time.localtime(line.heartbeat or 0.0), time.localtime()
    except (OverflowError, ValueError, OSError):  # no time that a clock has shown
        return NOTHING
    if line.heartbeat is None:
        return NOTHING
    same = then[:3] == now[:3]
    return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M", then)


def problem_page(message: str) -> str:
    """A page of one sentence."""
    from atomsweep.report.pages.jinja import render

    return render("live_problem.html", message=message)
