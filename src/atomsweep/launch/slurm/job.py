"""What a queued job does around its cell: watch the time, checkpoint, go back into the queue.

The cell's own signal handlers (`engine.signals`) stop it at a checkpoint; what happens after that
is decided here and not by submitit, whose rules take a short job for one that has timed out.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from atomsweep.engine.ranks import LOST, Ranks
from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm.settings import FAILED_LINE, MAX_REQUEUES, SIGNAL_S, TIME_S
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.segments import slurm_job_id
from atomsweep.worker.train import job

log = logging.getLogger(__name__)

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)  # time limit; preemption, or scancel


def slurm_job(path: str) -> None:
    """Train the run in directory `path` inside a job of SLURM."""
    attend(job, path)


def attend(job: Callable[[str], None], path: str) -> None:
    """Run `job` on the run directory `path` inside SLURM, and requeue it where it was stopped.

    A finished run returns at once: a cell that was submitted twice is not trained twice.
    """
    run = RunDirectory(path)
    if evaluations.standing(run) in (schema.FINISHED, schema.PRUNED):
        return
    if line := os.environ.get(FAILED_LINE):
        if _first():
            run.fail(f"a command of cluster.preamble failed on {socket.gethostname()}: {line}")
        sys.exit(1)
    for number in WARNINGS:  # until the cell sets its own: there is nothing to save yet
        signal.signal(number, lambda number, frame: _leave(run, number, frame))
    _set_deadline()
    Ranks.of_slurm(f"{slurm_job_id()}.{os.environ.get('SLURM_RESTART_COUNT', 0)}").export()
    try:
        job(path)
    except SystemExit as end:
        if end.code == LOST:  # a rank that dies again and again must not come back for ever
            raise
        if run.state() == schema.INTERRUPTED:
            _go_back(run, str(run.status.get("message", "")))
        raise
    except Exception as error:
        if _first():
            run.fail_if_idle(error, traceback.format_exc())
        raise


def _leave(run: RunDirectory, number: int, frame: FrameType | None) -> None:
    _go_back(run, f"stopped by {signal.Signals(number).name} before its first step")
    sys.stdout.flush()
    os._exit(1)


def _go_back(run: RunDirectory, message: str) -> None:
    """Back into the queue, unless SLURM is ending the job for good or has requeued it itself."""
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)
    job = slurm_job_id()
    if job is None or not _first():
        return
    requeues, most = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ.get(MAX_REQUEUES)
    if most is not None and requeues >= int(most):
        run.fail(f"requeued {requeues} times and not finished; raise cluster.time_min")
        return
    if not slurm_queue.is_running(job):
        return
    told = f"{message}; requeued as job {job}"
    run.update_status(state=schema.QUEUED, message=told, requeues=requeues + 1)
    try:
        slurm_queue.requeue(job)
    except slurm_queue.SlurmError as error:
        run.update_status(state=schema.INTERRUPTED, message=f"{message}; not requeued: {error}")


def _first() -> bool:
    """Whether this is the process of the job that writes."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _set_deadline() -> None:
    """Warn this process by itself, halfway between SLURM's warning and the end.

    SLURM's signal may be lost in a container or in a shell that wraps the job.
    """
    if TIME_S not in os.environ:
        return
    left = float(os.environ[TIME_S])
    if end := os.environ.get("SLURM_JOB_END_TIME"):
        left = min(left, float(end) - time.time())
    left -= float(os.environ[SIGNAL_S]) / 2
    timer = threading.Timer(max(1.0, left), os.kill, (os.getpid(), signal.SIGUSR2))
    timer.daemon = True
    timer.start()
