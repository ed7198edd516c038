"""Segments of a run: one line for each process that worked on it, so that time survives requeues.

A segment that was killed has no end; the next process closes it at its last heartbeat.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from atomsweep.tracking.files import dumps, read_lines, write_atomic

KILLED = "killed"


def start(path: Path, device: str, world_size: int, **fields: Any) -> dict[str, Any]:
    """Close what was killed and add a segment for this process.

    SLURM's job id and requeue count are taken from its environment variables.
    """
    now = time.time()
    closed = [
        s if s["end"] is not None else {**s, "end": s["heartbeat"], "ended": KILLED}
        for s in read_lines(path)
    ]
    segment: dict[str, Any] = {
        "segment": len(closed),
        "start": now,
        "end": None,
        "heartbeat": now,
        "ended": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": device,
        "world_size": world_size,
        "device_seconds": None,
        "slurm_job_id": slurm_job_id(),
        "requeues": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        **fields,
    }
    _write(path, [*closed, segment])
    return segment


def update(path: Path, **fields: Any) -> bool:
    """Merge `fields` into the open segment and set its heartbeat; False when none is open."""
    segments = read_lines(path)
    if not segments or segments[-1]["end"] is not None:
        return False
    segments[-1] |= {"heartbeat": time.time(), **fields}
    _write(path, segments)
    return True


def close(path: Path, ended: str, **fields: Any) -> bool:
    """Close the open segment; `ended` says how. False when none is open."""
    return update(path, end=time.time(), ended=ended, **fields)


def allocated_seconds(segments: list[dict[str, Any]]) -> float:
    """Seconds × devices that the segments held, work that was lost to kills included."""
    return sum(
        ((s["end"] if s["end"] is not None else s["heartbeat"]) - s["start"]) * s["world_size"]
        for s in segments
    )


def slurm_job_id() -> str | None:
    """`123`, or `123_4` for a task of an array, as squeue and sacct call it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _write(path: Path, segments: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(dumps(s) + "\n" for s in segments), durable=False)
