"""Cells in parallel processes on this machine. No two share one: a crash takes no other along.

Processes are forked from one server that has imported the heavy modules, so their start-up is
paid once for a sweep. A job is a module-level function of one argument, the run directory.
"""

import contextlib
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from atomsweep.engine.ranks import Ranks
from atomsweep.launch.gpus import visible_gpus
from atomsweep.launch.outcome import Display, Feed, Job, Outcome, ends_of, outcome_of
from atomsweep.processes import ignore_interrupts, started, stopped_in_order
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.files import check_regular
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0  # for a checkpoint after an interrupt
PARTING_SECONDS = 10.0  # for the other ranks, after the first has ended


def fork_server(preload: Sequence[str]) -> multiprocessing.context.ForkServerContext:
    """A context whose processes start with `preload` imported. OpenMP is kept to one thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def slots(parallel: int | None, threads: int, device: str, ranks: int = 1) -> int:
    """Cells at once: as asked, else one for each `ranks` GPUs, or cores / threads / ranks."""
    if parallel is not None:
        if parallel < 1:
            raise ValueError(f"cluster.parallel must be at least 1 or null, got {parallel}")
        return parallel
    if device.startswith("cuda"):
        return max(1, len(visible_gpus()) // ranks)
    return max(1, len(os.sched_getaffinity(0)) // (threads * ranks))


def run_cells(
    runs: Sequence[RunDirectory],
    job: Job,
    parallel: int,
    device: str,
    context: multiprocessing.context.ForkServerContext,
    display: Display,
    feed: Feed | None = None,
    ranks: int = 1,
) -> dict[Path, Outcome]:
    """Run `job` on every run directory that is not finished, at most `parallel` at a time.

    They are begun in their order. A run that another process holds is waited for, and taken over if
    that process dies or if a study stops it; `feed` gives further runs, and says whether a run that
    was stopped has ended. With several `ranks`, so many processes call `job` for each cell.

    Raises:
        KeyboardInterrupt: after the running cells have written their checkpoints and ended.
    """
    gpus = visible_gpus() if device.startswith("cuda") else []
    free = [_share(gpus, i, ranks) for i in range(parallel)]
    pool = _Pool(job, context, ranks, ends_of(feed), deque(runs), free)
    known = {run.path for run in runs}
    try:
        with stopped_in_order() as check:
            while True:
                check()
                if feed is not None:
                    more, pool.ended = feed(pool.ended), {}
                    pool.waiting.extend(more)
                    known |= {run.path for run in more}
                if not pool.waiting and not pool.active:
                    break
                pool.begin(check)
                running = [run for run, _ in pool.active.values()]
                again = sum(run.path in pool.outcomes for run in running)
                display.update(running, len(pool.outcomes) - again, len(known))
                pool.wait()
                pool.collect()
    except BaseException:  # Ctrl-C, or the driver of a study that cannot go on
        pool.interrupt()
        raise
    finally:
        display.close()
    return pool.outcomes


@dataclass
class _Pool:
    """Runs that wait, those that processes train, and how others ended."""

    job: Job
    context: multiprocessing.context.ForkServerContext
    ranks: int
    ends: Collection[str]  # states in which a run is not begun
    waiting: deque[RunDirectory]
    free: list[str | None]  # GPUs of the slots that nothing uses
    active: dict[ForkServerProcess, tuple[RunDirectory, str | None]] = field(default_factory=dict)
    followers: dict[Path, list[ForkServerProcess]] = field(default_factory=dict)
    outcomes: dict[Path, Outcome] = field(default_factory=dict)
    ended: dict[Path, Outcome] = field(default_factory=dict)  # since the last call of `feed`

    def begin(self, check: Callable[[], None]) -> None:
        """Start what waits while a slot is free; a run that another process holds waits on."""
        held = []  # looked at again when all others have been
        while self.waiting and self.free:  # only then does it matter how a cell stands
            run = self.waiting.popleft()
            state = evaluations.standing(run)
            if state in self.ends:
                self.outcomes[run.path] = self.ended[run.path] = Outcome(state)
            elif state == schema.RUNNING:
                held.append(run)
            else:
                gpu = self.free.pop(0)
                run.queue()
                evaluations.forget_failures(run)
                first, *others = _start(self.context, self.job, run, gpu, self.ranks)
                self.active[first] = (run, gpu)
                self.followers[run.path] = others
            check()
        self.waiting.extend(held)

    def wait(self) -> None:
        """Until a process ends, or it is time to look again."""
        if self.active:
            wait([process.sentinel for process in self.active], timeout=POLL_SECONDS)
        else:
            time.sleep(POLL_SECONDS)

    def collect(self) -> None:
        """Take back the slots of processes that have ended, and see how their runs did."""
        for process in [p for p in self.active if not p.is_alive()]:
            process.join()
            run, gpu = self.active.pop(process)
            _part(self.followers.pop(run.path))
            self.free.append(gpu)
            if evaluations.standing(run) in {schema.RUNNING, schema.PRUNED} - {*self.ends}:
                self.waiting.append(run)  # another launch was faster, or a study stopped it
            else:
                self.outcomes[run.path] = self.ended[run.path] = outcome_of(run, process.exitcode)

    def interrupt(self) -> None:
        """End all processes, after their checkpoints."""
        _interrupt(list(self.active))
        for others in self.followers.values():
            _part(others)


@contextmanager
def followed(
    run: RunDirectory, job: Job, ranks: int, context: multiprocessing.context.ForkServerContext
) -> Iterator[None]:
    """Make this process rank 0 of a run while the context lasts, and start the others."""
    meeting = secrets.token_hex(8)
    others = [_process(context, job, run, None, r, ranks, meeting) for r in range(1, ranks)]
    _export(0, ranks, meeting)
    try:
        yield
    finally:
        Ranks.forget()
        _part(others)


def _start(
    context: multiprocessing.context.ForkServerContext,
    job: Job,
    run: RunDirectory,
    gpus: str | None,
    ranks: int,
) -> list[ForkServerProcess]:
    meeting = secrets.token_hex(8)
    return [_process(context, job, run, gpus, rank, ranks, meeting) for rank in range(ranks)]


def _process(
    context: multiprocessing.context.ForkServerContext,
    job: Job,
    run: RunDirectory,
    gpus: str | None,
    rank: int,
    ranks: int,
    meeting: str,
) -> ForkServerProcess:
    arguments = (job, str(run.path), gpus, rank, ranks, meeting)
    process: ForkServerProcess = started(lambda: context.Process(target=_child, args=arguments))
    return process


def _child(job: Job, path: str, gpus: str | None, rank: int, ranks: int, meeting: str) -> None:
    """Entry of a cell's process: its output goes to the run's log, its GPU is set, then the job."""
    ignore_interrupts()  # until the cell sets handlers of its own
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    _export(rank, ranks, meeting)
    try:
        log_file = Path(path) / schema.LOG
        check_regular(log_file)
        with log_file.open("ab", buffering=0) as output:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    except OSError as error:
        if rank == 0:
            RunDirectory(path).fail_if_idle(error)
        sys.exit(1)
    job(path)


def _export(rank: int, ranks: int, meeting: str) -> None:
    if ranks > 1:
        Ranks(rank, ranks, rank, meeting).export()
        if sys.platform == "linux":  # no other machine takes part, so none need be reached
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _share(gpus: Sequence[str], slot: int, ranks: int) -> str | None:
    """The GPUs of a slot, as CUDA_VISIBLE_DEVICES has them; None without any."""
    if not gpus:
        return None
    mine = [gpus[(slot * ranks + rank) % len(gpus)] for rank in range(ranks)]
    return ",".join(dict.fromkeys(mine))


def _part(others: Sequence[ForkServerProcess]) -> None:
    """End the other ranks of a run whose first has ended; they have seen it and are leaving."""
    deadline = time.monotonic() + PARTING_SECONDS
    for process in others:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            _signal(process, signal.SIGKILL)
            process.join()


def _interrupt(processes: Sequence[ForkServerProcess]) -> None:
    """Ask for checkpoints, wait, then end what does not listen."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            log.warning("process %s did not stop in %.0f s; killed", process.pid, GRACE_SECONDS)
            _signal(process, signal.SIGKILL)
            process.join()


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
