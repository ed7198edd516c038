"""Jobs for queues: what a cell does in SLURM without training. Found by name on the nodes."""

import os
import signal
import time

import atomsweep
from atomsweep.engine.signals import Interrupted, stop_on_signals
from atomsweep.launch.slurm.job import attend
from atomsweep.tracking.run import RunDirectory


def toy(path):
    """As `experiment.job`, but its config says what to do."""
    run = RunDirectory(path)
    todo = run.config()
    with run.lock(), stop_on_signals() as stop:
        segment = run.start_segment(device="cpu")
        if todo["do"] == "raise":
            run.fail("ValueError: as asked")
            raise SystemExit(1)
        if todo["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if todo["do"] == "return":  # SLURM will call this COMPLETED
            return
        end = time.monotonic() + todo.get("sleep", 0)
        if segment["segment"] == 0 or todo.get("always"):
            while time.monotonic() < end:
                time.sleep(0.05)
                if stop:
                    run.interrupt(str(Interrupted(f"stopped by {stop.signal}")))
                    raise SystemExit(1)
        run.finish({"metrics": {}, "code": atomsweep.__file__, "node": _node()})


def queued(path):
    attend(toy, path)


def _node():
    return os.environ["SLURMD_NODENAME"]
