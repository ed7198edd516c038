"""Run directories mirrored to MLflow: by hand with `sync`, or beside a training run with `Mirror`.

Training never waits for MLflow and never talks to it: a second process reads the run directories.
"""

import contextlib
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from atomsweep.processes import out_of_reach
from atomsweep.shipped import PACKAGE
from atomsweep.tracking.lock import Locked, exclusive
from atomsweep.tracking.mlflow.connect import TrackingUnavailable, absolute
from atomsweep.tracking.mlflow.writer import WAIT_S, Scope, SyncReport, Writer
from atomsweep.tracking.run import RunDirectory

__all__ = [
    "Mirror",
    "Scope",
    "SyncReport",
    "TrackingUnavailable",
    "attach_report",
    "follow",
    "mirror",
    "sync",
]

log = logging.getLogger(__name__)

EXPERIMENT = "atomsweep"
EVERY_S = 30.0
LAST_PASS_S = 600.0  # a follower that is still not done then is stuck
FOLLOWER = ".mirror.follower.lock"
IDLE = 10  # a follower of very many runs rests this many times as long as it works
START_S = 1.0  # before the first pass
RETRY_S = 60.0  # between attempts while MLflow does not answer


def sync(
    root: Path | str,
    uri: str,
    experiment: str = EXPERIMENT,
    runs: Sequence[RunDirectory] | None = None,
    wait_s: float = WAIT_S,
) -> SyncReport:
    """Bring MLflow to the state of the run directories. Again: nothing changes.

    Args:
        root: directory of run directories.
        uri: `sqlite:///path` or a server.
        experiment: name of the MLflow experiment.
        runs: these only; None for all under `root`.
        wait_s: how long to wait for another writer before saying `busy`.

    Raises:
        TrackingUnavailable: the store cannot be reached or must not be used; nothing is lost.
    """
    return Writer(Path(root), uri, experiment).sync(runs, wait_s)


def attach_report(
    root: Path | str,
    uri: str,
    sweep: str,
    paths: Iterable[Path],
    experiment: str = EXPERIMENT,
    wait_s: float = WAIT_S,
) -> bool:
    """Put the files of a report on the parent run of a sweep, under `report/`.

    Returns:
        False when another process was mirroring all the time.

    Raises:
        TrackingUnavailable: the store cannot be reached.
    """
    return Writer(Path(root), uri, experiment).attach(sweep, list(paths), wait_s)


@contextmanager
def mirror(
    tracking: Mapping[str, Any] | None, root: Path | str, scope: Scope | None = None
) -> Iterator[None]:
    """Mirror runs of `root` while the block runs, as the config group `tracking` says.

    Args:
        tracking: of a config; None: not at all.
        root: directory of run directories.
        scope: the runs that this launch is about; None for all.

    Raises:
        TrackingUnavailable: `tracking.uri` cannot be the URI of a store.
    """
    if tracking is None:
        yield
        return
    every_s = tracking["every_s"]
    with Mirror(root, tracking["uri"], tracking["experiment"], every_s, scope=scope):
        yield


class Mirror:
    """A process that mirrors while this one works, and once more when it ends in any way.

    It notices the end by the end of its standard input, which the kernel closes for a killed
    parent too.

    Args:
        root: directory of run directories; made when missing.
        uri: `sqlite:///path` or a server.
        experiment: name of the MLflow experiment.
        every_s: seconds between passes.
        wait_s: how long leaving waits for the last pass, which goes on by itself after that.
        scope: runs of this launch; None for all of the root.
    """

    def __init__(
        self,
        root: Path | str,
        uri: str,
        experiment: str = EXPERIMENT,
        every_s: float = EVERY_S,
        wait_s: float = 120.0,
        scope: Scope | None = None,
    ) -> None:
        self.root = Path(root).absolute()
        self.uri = absolute(uri)
        self.experiment = experiment
        self.every_s = every_s
        self.wait_s = wait_s
        self.scope = scope
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mirror":
        self.root.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(p for p in (str(PACKAGE.parent), os.environ.get("PYTHONPATH")) if p)
        options = ["--root", str(self.root), "--uri", self.uri, "--experiment", self.experiment]
        if self.scope is not None:
            options += [f"--run={name}" for name in self.scope.runs]
            options += [] if self.scope.sweep is None else [f"--sweep={self.scope.sweep}"]
        command = [sys.executable, "-W", "ignore", "-m", "atomsweep", "sync", "--follow"]
        try:
            with out_of_reach():  # Ctrl-C is for the training; the mirror ends after it
                self._process = subprocess.Popen(
                    [*command, *options, "--every", str(self.every_s)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    env=os.environ
                    | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                )
        except OSError as error:
            log.warning("the mirror to MLflow cannot start: %s; %s", error, self._later())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # it may have ended already
            self._process.stdin.close()
        try:
            code = self._process.wait(self.wait_s)
        except subprocess.TimeoutExpired:
            log.info("process %d goes on to mirror %s to MLflow", self._process.pid, self.root)
        else:
            if code not in (0, 1):  # 1: it has said why itself
                log.warning("the mirror to MLflow ended with code %d; %s", code, self._later())

    def _later(self) -> str:
        return f"nothing is lost: {_by_hand(self.root)} completes it"


def follow(
    root: Path | str,
    uri: str,
    experiment: str = EXPERIMENT,
    every_s: float = EVERY_S,
    say: Callable[[str], None] = log.warning,
    scope: Scope | None = None,
) -> bool:
    """Mirror again and again, until standard input (if it is a pipe) or this process is ended.

    With a `scope`, those runs. Of several followers of a whole root, one works and the others stand
    by without importing MLflow; each does a last pass of its own. What goes wrong is said once.

    Returns:
        Whether the last pass was complete.

    Raises:
        TrackingUnavailable: `uri` cannot be the URI of a store.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    ended = _ended()
    writer = Writer(root, uri, experiment, only_tracked=True, scope=scope)
    said = False
    pause = min(every_s, START_S)
    with ExitStack() as stack:
        leads = scope is not None
        while not ended.wait(pause):
            if not leads:
                with contextlib.suppress(Locked):
                    stack.enter_context(exclusive(root / FOLLOWER, wait_s=0.0))
                    leads = True
                if not leads:
                    pause = every_s
                    continue
            began = time.monotonic()
            try:
                writer.sync(None, wait_s=0.0)
                pause = max(every_s, IDLE * (time.monotonic() - began))
            except (TrackingUnavailable, OSError) as error:
                if not said:
                    say(
                        f"{error}; training goes on, nothing is lost: "
                        f"{_by_hand(root)} completes it later"
                    )
                said, pause = True, max(every_s, RETRY_S)
        stuck = threading.Timer(LAST_PASS_S, os._exit, (1,))
        stuck.daemon = True
        stuck.start()
        try:
            report = writer.sync(None, wait_s=LAST_PASS_S)
        except (TrackingUnavailable, OSError) as error:
            if not said:
                say(f"{error}; nothing is lost: {_by_hand(root)} completes it later")
            return False
        finally:
            stuck.cancel()
    for problem in report.problems:
        say(problem)
    return not report.problems and not report.busy


def _by_hand(root: Path) -> str:
    return f"`atomsweep sync --root {root}`"


def _ended() -> threading.Event:
    """Set when standard input ends, if it is a pipe, or on SIGINT or SIGTERM."""
    ended = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        ended.set()

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=watch, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
