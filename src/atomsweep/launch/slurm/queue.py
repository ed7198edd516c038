"""What the scheduler says: one command for all jobs, never one for each job."""

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from atomsweep.build import UserError
from atomsweep.launch.slurm.words import AWAY, sentence

log = logging.getLogger(__name__)

COMMAND_SECONDS = 60.0
IDS_AT_ONCE = 500  # on one command line
DEFAULT_ARRAY_SIZE = 1001  # SLURM's own

# States of sacct after which a job comes back, or may
NOT_FINAL = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "COMPLETING")
# States for which the cell is not to blame
NOT_ITS_FAULT = ("NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "DEADLINE")
# A node had not heard yet that it was free: SLURM holds the job, and to release it is all it needs
LAUNCH_FAILED = "launch failed requeued held"
# Reasons for which a job waits until somebody does something
STUCK = ("held", "JobHeld", "Never", "BadConstraints", "PartitionTimeLimit", "InvalidQOS")


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array, that SLURM knows: pending, running or ending."""

    state: str
    reason: str
    name: str

    @property
    def stuck(self) -> bool:
        """Whether it waits for a person."""
        return self.state == "PENDING" and any(word in self.reason for word in STUCK)


class SlurmError(UserError):
    """SLURM did not answer, or refused."""


class SlurmDown(SlurmError):
    """A command of SLURM failed or did not answer; whether it refused or is away is not known."""


def queue() -> dict[str, Job]:
    """Every job of this user that has not ended, by id (`123`, or `123_4` in an array).

    Raises:
        SlurmDown: the controller does not answer; nothing is known then.
    """
    output = _run("squeue", "--me", "--noheader", "--array", "--format", "%i|%T|%r|%j")
    jobs = {}
    for line in output.splitlines():
        if line.count("|") < 3:  # a remark of a wrapper
            continue
        job, state, reason, name = line.split("|", 3)
        jobs[job.strip()] = Job(state, reason, name.strip())
    return jobs


def final_states(jobs: Sequence[str]) -> dict[str, str]:
    """Last state of jobs that have left the queue, `{}` where there is no accounting."""
    states = {}
    for ids in _chunks(jobs):
        try:
            output = _run("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(ids))
        except SlurmError as error:
            log.debug("%s", error)
            return {}
        for line in output.splitlines():
            job, _, state = line.partition("|")
            states[job] = state.split()[0] if state.strip() else "UNKNOWN"  # CANCELLED by 1000
    return states


def scancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are no error.

    Raises:
        SlurmError: the controller does not answer.
    """
    for ids in _chunks(jobs):
        try:
            _run("scancel", "--quiet", *ids)
        except SlurmDown as error:
            if "Invalid job id" not in str(error):
                raise


def max_array_size() -> int:
    """Tasks that an array may have; SLURM's default where it cannot be read."""
    try:
        output = _run("scontrol", "show", "config")
    except SlurmError:
        return DEFAULT_ARRAY_SIZE
    for line in output.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdecimal():
            return max(1, int(value))
    return DEFAULT_ARRAY_SIZE


def is_running(job: str) -> bool:
    """Whether SLURM still lets a job run: false once it is cancelled or requeued."""
    try:
        output = _run("scontrol", "show", "job", "--oneliner", job)
    except SlurmError:
        return False
    return "JobState=RUNNING" in output.split()


def release(job: str) -> None:
    """Let a held job be scheduled again.

    Raises:
        SlurmError: SLURM refused.
    """
    _run("scontrol", "release", job)


def requeue(job: str) -> None:
    """Put a running job back into the queue.

    Raises:
        SlurmError: SLURM refused.
    """
    _run("scontrol", "requeue", job)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not found; launch on a login node of the cluster, or choose "
            "cluster=local"
        ) from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise SlurmDown(
            f"{command[0]} did not answer in {COMMAND_SECONDS:.0f} s: {AWAY}; jobs that are there "
            "go on, so wait a minute and type the same command again"
        ) from None
    if done.returncode != 0:
        raise SlurmDown(sentence(command[0], done.stderr.strip() or done.stdout))
    return done.stdout


def _chunks(jobs: Sequence[str]) -> list[Sequence[str]]:
    return [jobs[i : i + IDS_AT_ONCE] for i in range(0, len(jobs), IDS_AT_ONCE)]
