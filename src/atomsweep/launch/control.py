"""Sweeps from any shell, from the files that they leave: which there are, stop them, go on."""

import os
import re
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from atomsweep.launch.plan import is_name, plan_path
from atomsweep.launch.presence import launchers
from atomsweep.launch.slurm.jobs import cancel as cancel_jobs
from atomsweep.launch.slurm.ledger import submissions
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json
from atomsweep.tracking.lock import holder_of
from atomsweep.tracking.run import RunDirectory

MULTIRUN = ("-m", "--multirun")
SHELL = tuple(f"cluster.{key}" for key in ("preamble", "python", "sbatch", "srun_args"))
STOP_SECONDS = 90.0  # for checkpoints, before the launcher is given up on


class NoSuchSweep(LookupError):
    """There is no plan of that name; the message lists what there is."""


def sweeps(root: Path) -> list[str]:
    """Names of all sweeps that have a plan, newest plan last; other files are passed over."""
    folder = root / schema.PLANS
    saved: list[tuple[float, str]] = []
    for path in folder.rglob("*.json"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        with suppress(FileNotFoundError):  # deleted meanwhile
            if is_name(name):
                saved.append((path.stat().st_mtime, name))
    return [name for _, name in sorted(saved)]


def plan_of(root: Path, sweep: str) -> dict[str, Any]:
    """The plan of a sweep as it was saved.

    Raises:
        NoSuchSweep: there is none.
        DamagedFile: says what is wrong.
    """
    try:
        return read_json(plan_path(root, sweep))
    except FileNotFoundError:
        known = ", ".join(sweeps(root)) or "none"
        raise NoSuchSweep(f"there is no sweep {sweep} in {root}; known: {known}") from None


def job_of(run: RunDirectory, state: str | None = None) -> str:
    """SLURM job that works on a run, or is to, or else `pid@host`; "" without one.

    Args:
        run: its directory.
        state: of it, where that is known.
    """
    try:
        segments, submitted = run.segments(), submissions(run)
    except OSError:  # its `problems` tell
        return ""
    if not segments or (run.state() if state is None else state) == schema.QUEUED:
        return str(submitted[-1].job_id or "") if submitted else ""
    last = segments[-1]
    return str(last.get("slurm_job_id") or f"{last.get('pid')}@{last.get('host')}")


def cancel(root: Path, sweep: str | None, runs: Sequence[RunDirectory]) -> list[str]:
    """Stop a sweep, or single runs: their processes write a checkpoint and end.

    Args:
        root: where runs are.
        sweep: its launchers on this machine are stopped first, so that they start nothing more.
        runs: those that work on this machine are stopped.

    Returns:
        What was done, and what was out of reach, in sentences.

    Raises:
        UserError: SLURM does not answer.
    """
    told = []
    here = socket.gethostname()
    asked: list[int] = []
    for launcher in launchers(root, sweep) if sweep is not None else []:
        pid = launcher.get("pid")
        if launcher.get("host") != here or not isinstance(pid, int):
            told.append(f"launched from {launcher.get('host')}: cancel it there")
        elif _terminate(pid):
            asked.append(pid)
            told.append(f"launcher {pid} is asked to stop")
    deadline = time.monotonic() + STOP_SECONDS
    while sweep is not None and asked and time.monotonic() < deadline:
        alive = {launcher.get("pid") for launcher in launchers(root, sweep)}
        if not alive & set(asked):
            break
        time.sleep(0.1)
    jobs = cancel_jobs(runs)
    told += [f"SLURM job {number} is cancelled" for number in jobs]
    for run in runs:
        if run.state() != schema.RUNNING or job_of(run) in jobs:
            continue
        holder = holder_of(run.path / schema.LOCK)
        pid = holder.get("pid")
        if holder.get("host") == here and isinstance(pid, int) and _terminate(pid):
            told.append(f"{run.name}: process {pid} is asked to stop")
        else:
            told.append(f"{run.name}: works on {holder.get('host', 'an unknown host')}, left alone")
    return told


def retry_command(plan: Mapping[str, Any], root: Path) -> list[str]:
    """Words after `atomsweep run` that launch a sweep again into its root, failed cells included.

    A plan may come from elsewhere. What it says is taken as overrides of a config and as nothing
    else: no program, no options or keys of Hydra, no line for a shell, no other root. Nor is its
    folder entered: what lies in there, such as `conf/`, counts only for who has gone there.

    Raises:
        ValueError: the plan does not say how it was launched, says more than overrides, or was
            launched in another folder, which is there.
    """
    argv, directory = plan.get("argv"), plan.get("directory")
    if not isinstance(argv, list) or not isinstance(directory, str):
        raise ValueError("the plan does not say how it was launched; type its command again")
    there = Path(directory)
    if there.is_dir() and there.resolve() != Path.cwd():
        raise ValueError(
            f"the sweep was launched in {directory}, where its paths begin; go there and type "
            "retry again, if you trust what lies there"
        )
    words = [str(word) for word in argv[1:]]
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        foreign = key.split(".")[0].startswith("hydra") or key in SHELL or key == "cluster._target_"
        if word not in MULTIRUN and (word.startswith("-") or foreign):
            raise ValueError(
                f"the sweep was launched with {word!r}, which retry does not repeat; type its "
                "command again if you trust it"
            )
    kept = [w for w in words if w.lstrip("+").partition("=")[0] not in ("rerun", "plan", "root")]
    return [*kept, f"root={_quoted(str(root.resolve()))}", "rerun=failed"]


def _quoted(path: str) -> str:
    """A path as a value of Hydra's grammar."""
    if re.fullmatch(r"[\w./-]+", path):
        return path
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _terminate(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return False
    return True
