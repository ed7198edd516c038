"""Launches that are disturbed at random, again and again, until every cell has its result.

A disturbance comes from a seed: a signal to any process of a launch, or to all of them as Ctrl-C in
a terminal sends it; a full disk; rights taken away. After each the same command is given again. At
the end every cell must be what it is in a sweep that nobody disturbed, trained once.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory
from tests.contracts.commands import Place, Started
from tests.test_commands import SMALL, science_of

QUIET = [word for word in SMALL if not word.startswith("tracking")]
CELLS = ["-m", "seed=0,1,2", *QUIET, "engine.steps=40", "engine.eval_every=20"]
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONGEST_S = 240.0  # of one launch, on a busy machine
TRACEBACK = "Traceback (most recent call last)"


@dataclass
class Figures:
    """What was done, and what came of it."""

    done: Counter[str] = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """One text for each thing that must not be."""
        return [*self.tracebacks, *self.lost, *self.doubled, *self.silent]

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        return (
            f"{told}; {len(self.lost)} lost, {len(self.doubled)} doubled, "
            f"{len(self.tracebacks)} tracebacks, {len(self.silent)} not named"
        )


class Attack:
    """Sweeps of one command under attack.

    Args:
        place: where they run; `whole/` in it becomes the sweep that is left alone.
        seed: of all that is drawn.
        more: words added to the command.
    """

    def __init__(self, place: Place, seed: int, *more: str) -> None:
        self.place, self.chance = place, random.Random(seed)
        self.command = [*CELLS, *more]
        self.fresh = False  # launches in new interpreters
        self.figures = Figures()
        self.finished: dict[Path, tuple[str, int]] = {}
        code, output = place.run(*self.command, root="whole")
        assert code == 0, output
        self.wanted = {run.identity: science_of(run) for run in place.runs("whole")}
        assert len(self.wanted) == 3

    def signals(self, number: int, root: str = "runs", fresh_data: bool = False) -> None:
        """Send `number` signals, over as many sweeps as that takes, and finish the last one."""
        left, sweep = number, 0
        while left > 0:
            sweep += 1
            place, name = self.place, f"{root}-{sweep}"
            if fresh_data:
                place = Place(place.path, place.env | {"ATOMSWEEP_DATA": str(place.path / "data")})
                shutil.rmtree(place.path / "data", ignore_errors=True)
            while left > 0 and not self.complete(name):
                process = place.start(*self.command, root=name, fresh=self.fresh)
                left -= self.disturb(process, left)
                self.ended(process, name)
            self.finish(name, place)
            shutil.rmtree(place.path / name)

    def disturb(self, process: Started, most: int) -> int:
        """Send signals to a launch until it ends; returns how many were sent."""
        sent = 0
        while sent < most:
            deadline = time.monotonic() + self.chance.uniform(0.0, 3.0)
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return sent
                time.sleep(0.01)
            number = self.chance.choice(SIGNALS)
            family = [process.pid, *descendants(process.pid)]
            if number == signal.SIGINT and self.chance.random() < 0.5:
                victims = [pid for pid in family if session_of(pid) == process.pid]
                kind = "Ctrl-C"
            else:
                victims = [self.chance.choice(family)]
                kind = number.name
            if process.poll() is None:
                for pid in victims:
                    send(pid, number)
                self.figures.done[kind] += 1
                sent += 1
        return sent

    def fault(self, root: str, kind: str, reason: str, place: Place | None = None) -> None:
        """Give the command while something is wrong that it must name, unless it ends well.

        Args:
            root: where its runs go.
            kind: of the fault, for the figures.
            reason: the words that must be heard.
            place: with another environment.
        """
        process = (place or self.place).start(*self.command, root=root)
        self.ended(process, root, logs=False)
        self.figures.done[kind] += 1
        output = process.output()
        if process.returncode == 0:
            self.figures.done[f"{kind}, unnoticed"] += 1
        elif reason not in output:
            self.figures.silent.append(f"{kind} is not called {reason!r}:\n{output}")

    def finish(self, root: str, place: Place | None = None) -> None:
        """The same command until all is finished, which is at once, and then the comparison."""
        place = place or self.place
        for _ in range(3):  # once for what still trains without its launcher
            code, output = place.run(*self.command, root=root, fresh=self.fresh)
            self.look_for_tracebacks(output)
            if code == 0:
                break
        else:
            self.figures.lost.append(f"{root} does not finish:\n{output}")
        self.look_at_results(root)
        self.figures.done["cells"] += len(self.wanted)
        found = {run.identity: run for run in place.runs(root)}
        for identity, science in self.wanted.items():
            run = found.get(identity)
            if run is None or run.result is None or science_of(run) != science:
                self.figures.lost.append(f"{root}: cell {identity} is not what it should be")
                continue
            ends = [segment["ended"] for segment in run.segments()]
            if ends.count(schema.FINISHED) != 1 or ends[-1] != schema.FINISHED:
                self.figures.doubled.append(f"{run.path} has processes that ended as {ends}")

    def ended(self, process: Started, root: str, logs: bool = True) -> None:
        """Wait for the end of a launch and look at what it left."""
        process.wait(LONGEST_S)
        self.figures.done["launches"] += 1
        self.look_for_tracebacks(process.output())
        if logs:
            for run in find_runs(self.place.path / root):
                if (run.path / schema.LOG).exists():
                    self.look_for_tracebacks((run.path / schema.LOG).read_text(), str(run.path))
        self.look_at_results(root)

    def look_for_tracebacks(self, output: str, where: str = "terminal") -> None:
        """Enter an output with a traceback."""
        if TRACEBACK in output and not any(output in told for told in self.figures.tracebacks):
            self.figures.tracebacks.append(f"{where}:\n{output}")

    def look_at_results(self, root: str) -> None:
        """A result that is there must stay: the file, and the processes that made it."""
        for run in find_runs(self.place.path / root):
            if run.result is None:
                continue
            content = (run.path / schema.RESULT).read_bytes()
            now = hashlib.sha256(content).hexdigest(), (run.path / schema.RESULT).stat().st_ino
            if self.finished.setdefault(run.path, now) != now:
                self.figures.doubled.append(f"{run.path} has got another result")

    def complete(self, root: str) -> bool:
        """Whether every cell has a result."""
        runs: list[RunDirectory] = find_runs(self.place.path / root)
        return len(runs) == len(self.wanted) and all(run.result is not None for run in runs)


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """A file system in memory at `path`; skips where this user may not mount one."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system of a chosen size can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for so many bytes; the file to be removed later."""
    ballast = disk / "ballast"
    state = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - leave))
    return ballast


def descendants(pid: int) -> Iterator[int]:
    """Children of a process, and theirs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                yield int(entry.name)
                yield from descendants(int(entry.name))


def session_of(pid: int) -> int | None:
    """Session of a process, which a terminal sends Ctrl-C to."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def send(pid: int, number: int) -> None:
    """A signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
