"""A root as `status` and `watch` see it: every run as a line of facts, every sweep as it stands.

A look reads each file of a run once. The next look reads only what has changed since, so that a
root of many runs can be looked at again and again. Nothing is written.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomsweep.launch.control import NoSuchSweep, job_of, sweeps
from atomsweep.launch.costs import Asked, Costs, Spent, asked_of, remaining, spent_of
from atomsweep.launch.plan import plan_path
from atomsweep.tracking import schema
from atomsweep.tracking.files import DamagedFile, read_json, read_lines, told
from atomsweep.tracking.find import run_paths
from atomsweep.tracking.lock import is_locked
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.segments import allocated_seconds
from atomsweep.tracking.state import order_of, rank_of, state_of

READ = (
    schema.RUN, schema.STATUS, schema.RESULT, schema.ENVIRONMENT, schema.SEGMENTS, "jobs.jsonl",
    schema.STOP, schema.JOURNAL,
)  # fmt: skip
ENDED = (schema.FINISHED, schema.STALE)


@dataclass(frozen=True, slots=True)
class Line:
    """A run, or a cell that has none yet; None, or "", where nothing tells.

    Attributes:
        name: of its directory, or the one that it is to have.
        identity: of the run.
        state: of `tracking.state`.
        step: the last that was heard of.
        total_steps: of the budget.
        fraction: of the budget, 0 to 1.
        seconds_left: guess of the process that works on it.
        metric: the one that decides.
        value: its result, or the last that was heard of.
        device_seconds: of training, over all requeues.
        allocated_seconds: seconds × devices of all processes, lost work included.
        process: SLURM job, or `pid@host`.
        heartbeat: s since 1970.
        message: why it failed or was stopped.
        path: of its directory.
        sweep: that made it.
        overrides: what was typed for it.
        created: s since 1970.
        asked: what its cost is guessed by.
        spent: what the cost of others is guessed by, of a finished run.
    """

    name: str
    identity: str
    state: str
    step: float | None = None
    total_steps: float | None = None
    fraction: float | None = None
    seconds_left: float | None = None
    metric: str | None = None
    value: float | None = None
    device_seconds: float | None = None
    allocated_seconds: float = 0.0
    process: str = ""
    heartbeat: float | None = None
    message: str | None = None
    path: Path | None = None
    sweep: str | None = None
    overrides: tuple[str, ...] = ()
    created: float = 0.0
    asked: Asked | None = None
    spent: Spent | None = None


@dataclass(frozen=True)
class Standing:
    """How a sweep stands.

    Attributes:
        name: of the sweep.
        lines: of its cells in the plan's order.
        spent: device-seconds of all cells so far, over requeues, lost work included.
        left: guess of the device-seconds that are still to come.
        unknown: unfinished cells whose cost nothing tells.
        plan: without its cells.
    """

    name: str
    lines: Sequence[Line]
    spent: float
    left: float
    unknown: int
    plan: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """State → cells in it, those that are furthest first."""
        return counts(self.lines)


@dataclass(frozen=True)
class Seen:
    """What a look at a root saw.

    Attributes:
        lines: of every run, by name.
        sweeps: name → how it stands, newest plan last; those that can be read.
        problems: a sentence for each file that was read and is damaged.
    """

    lines: Sequence[Line]
    sweeps: Mapping[str, Standing]
    problems: Sequence[str]


class Overview:
    """Looks at one root.

    Args:
        root: where runs are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[list[Any], Line | None, list[str]]] = {}
        self._plans: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._devices: dict[Any, str] = {}  # of cells that were launched alike

    def look(self, only: str | None = None) -> Seen:
        """How everything stands now.

        Args:
            only: the one sweep to tell of; None of all that have a plan.

        Raises:
            NoSuchSweep: `only` has no plan.
            DamagedFile: the plan of `only` cannot be read.
        """
        paths = run_paths(self.root)
        names = {path.name for path in paths}
        self._known = {name: known for name, known in self._known.items() if name in names}
        problems: list[str] = []
        lines = [line for path in paths if (line := self._line(path, problems)) is not None]
        of_identity: dict[str, Line] = {}
        for line in lines:
            other = of_identity.get(line.identity)
            order = order_of(line.state, line.created)
            if other is None or order < order_of(other.state, other.created):
                of_identity[line.identity] = line
        costs = Costs.of_spent(line.spent for line in lines)
        found = {}
        for name in sweeps(self.root) if only is None else [only]:
            try:
                found[name] = standing(name, self._plan(name), of_identity, costs)
            except (DamagedFile, OSError) as error:
                if only is not None:
                    raise
                problems.append(told(error))
        return Seen(lines, found, problems)

    def _plan(self, sweep: str) -> dict[str, Any]:
        path = plan_path(self.root, sweep)
        mark = _mark(str(path))
        if mark is None:
            known = ", ".join(sweeps(self.root)) or "none"
            raise NoSuchSweep(f"there is no sweep {sweep} in {self.root}; known: {known}")
        if sweep not in self._plans or self._plans[sweep][0] != mark:
            self._plans[sweep] = mark, read_json(path)
        return self._plans[sweep][1]

    def _line(self, path: Path, problems: list[str]) -> Line | None:
        """The line of a run, read anew where its files have changed; None of what is no run."""
        marks = [_mark(f"{path}/{name}") for name in READ]
        if marks[0] is None:
            return None
        if marks[-1] is not None:
            marks[-1] = True  # it grows all the time, and nothing is read of it
        before = self._known.get(path.name)
        if before is None or before[0] != marks or _may_change(path, before[1]):
            faults: list[str] = []
            line = self._read(path, faults)
            before = self._known[path.name] = marks, line, faults
        problems += before[2]
        return before[1]

    def _read(self, path: Path, faults: list[str]) -> Line | None:
        run = _Glance(path, faults)
        try:
            about = run.run
        except (DamagedFile, OSError) as error:
            faults.append(told(error))
            return None
        state, status, result = state_of(run), run.status, run.result or {}
        faults += run.contradiction()
        science = about.get("science") or {}
        metric = _metric(science)
        value = (result.get("metrics") or status.get("values") or {}).get(metric)
        asked = None if state in ENDED else asked_of(science, self._device(run))
        return Line(
            name=run.name,
            identity=run.identity,
            state=state,
            step=result.get("step", status.get("step")),
            total_steps=status.get("total_steps"),
            fraction=1.0 if state in ENDED else status.get("fraction"),
            seconds_left=status.get("seconds_left") if state == schema.RUNNING else None,
            metric=metric,
            value=_finite(value),
            device_seconds=result.get("device_seconds", status.get("device_seconds")),
            allocated_seconds=allocated_seconds(run.segments()),
            process=job_of(run, state),
            heartbeat=status.get("heartbeat"),
            message=status.get("message") or None,
            path=path,
            sweep=about.get("sweep") or None,
            overrides=tuple(map(str, about.get("overrides") or ())),
            created=float(about.get("created") or 0.0),
            asked=asked,
            spent=spent_of(run),
        )

    def _device(self, run: RunDirectory) -> str:
        """Device that a run asks for; "" where no config of its kind can be read.

        A config takes longer to read than all else. Cells of one command with the same choice of
        engine ask for the same device, so one of them is read.
        """
        about = run.run
        typed = [o for o in about.get("overrides") or () if str(o).startswith("engine")]
        engine = (about.get("choices") or {}).get("engine")
        key = (str(about.get("command")), str(engine), *map(str, typed))
        if key not in self._devices:
            try:
                self._devices[key] = str((run.config().get("engine") or {}).get("device"))
            except (DamagedFile, OSError):
                return ""
        return self._devices[key]


class _Glance(RunDirectory):
    """A run each of whose files is read once."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(path)
        self._faults = faults
        self._once: dict[str, dict[str, Any]] = {}
        self._segments: list[dict[str, Any]] | None = None

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._once:
            self._once[name] = {}
            try:
                self._once[name] = read_json(self.path / name)
            except FileNotFoundError:
                pass
            except (DamagedFile, OSError) as error:
                self._faults.append(told(error))
        return self._once[name]

    def segments(self) -> list[dict[str, Any]]:
        if self._segments is None:
            self._segments = []
            try:
                self._segments = read_lines(self.path / schema.SEGMENTS)
            except OSError as error:
                self._faults.append(told(error))
        return self._segments


def standing(
    sweep: str, plan: Mapping[str, Any], lines: Mapping[str, Line], costs: Costs
) -> Standing:
    """How a sweep stands.

    Args:
        sweep: its name.
        plan: of it.
        lines: identity → line.
        costs: of what is finished.
    """
    own = [lines.get(str(cell["identity"])) or _missing(sweep, cell) for cell in plan["cells"]]
    left, unknown = 0.0, 0
    for cell, line in zip(plan["cells"], own, strict=True):
        if line.state in ENDED:
            continue
        estimate = costs.seconds_of(line.asked, cell.get("parameters"))
        estimate = remaining(estimate, line.fraction, line.state)
        left += estimate or 0.0
        unknown += estimate is None
    spent = sum(line.allocated_seconds for line in own)
    rest = {key: value for key, value in plan.items() if key != "cells"}
    return Standing(sweep, own, spent, left, unknown, rest)


def counts(lines: Sequence[Line]) -> dict[str, int]:
    """State → runs in it, those that are furthest first."""
    states = [line.state for line in lines]
    return {state: states.count(state) for state in sorted(set(states), key=rank_of)}


def slowest(lines: Sequence[Line]) -> list[Line]:
    """Those that run, the one that will end last first."""
    running = [line for line in lines if line.state == schema.RUNNING]

    def order(line: Line) -> tuple[float, float]:
        left = math.inf if line.seconds_left is None else line.seconds_left
        return -left, line.fraction or 0.0

    return sorted(running, key=order)


def _missing(sweep: str, cell: Mapping[str, Any]) -> Line:
    return Line(
        name=str(cell.get("run") or cell.get("name") or cell["identity"]),
        identity=str(cell["identity"]),
        state=schema.MISSING,
        sweep=sweep,
        overrides=tuple(map(str, cell.get("overrides") or ())),
    )


def _finite(value: Any) -> float | None:
    """A number, None for what is none or is not finite."""
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _metric(science: Mapping[str, Any]) -> str | None:
    engine = science.get("engine")
    name = engine.get("metric") if isinstance(engine, Mapping) else None
    return None if name is None else str(name)


def _may_change(path: Path, line: Line | None) -> bool:
    """Whether a state may be another one though no file is: by the lock or by the time."""
    if line is None or line.state in ENDED:
        return False
    return line.state == schema.RUNNING or is_locked(path / schema.LOCK)


def _mark(path: str) -> Any:
    """What changes when a file does; None without the file."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path for each of 10 000 runs takes longer)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_size, found.st_mtime_ns
