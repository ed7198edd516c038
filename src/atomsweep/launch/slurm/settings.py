"""What a cell asks of SLURM: the config group `cluster`, options slurm_gpu and slurm_cpu."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atomsweep.build import PLUGINS, UserError, build
from atomsweep.launch.snapshot import import_paths

TIME_S = "ATOMSWEEP_TIME_S"  # wall time of a job, told to the job
SIGNAL_S = "ATOMSWEEP_SIGNAL_S"  # warning before its end
MAX_REQUEUES = "ATOMSWEEP_MAX_REQUEUES"
FAILED_LINE = "ATOMSWEEP_FAILED_LINE"  # of the preamble, told to the job

MIN_POLL_S = 1.0  # a scheduler is shared


@dataclass(frozen=True)
class SlurmSettings:
    """One cell is one task of a job array; these are the resources of one cell.

    Attributes:
        partition, account, qos, constraint, gres, comment: as sbatch has them; null leaves it out.
        nodes: nodes of a cell.
        ranks: processes on each node.
        gpus: GPUs on each node; 0 asks for none.
        cpus: cores of each process.
        mem_gb: memory on each node, GB; null leaves it to the cluster.
        time_min: wall time of one job, minutes; a longer cell is requeued and continues.
        signal_s: seconds before the end at which a job is warned, checkpoints and is requeued.
        array_parallelism: cells that SLURM runs at once.
        max_requeues: a cell that was requeued more often is marked failed.
        resubmit: jobs that this launch submits anew for a cell whose job ended without a word.
        preamble: shell commands before the job: module load, a virtual environment. Each is whole,
            and a cell is failed by one that fails.
        srun_args: more arguments of srun: --container-image=...
        sbatch: more options of sbatch: {reservation: name}.
        python: interpreter on the nodes; null is the one of this launch.
        wait: stay and report; false submits and ends.
        on_interrupt: what becomes of jobs at Ctrl-C.
        poll_s: seconds between two questions to the scheduler.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str | None
    comment: str | None
    nodes: int
    ranks: int
    gpus: int
    cpus: int
    mem_gb: float | None
    time_min: int
    signal_s: int
    array_parallelism: int
    max_requeues: int
    resubmit: int
    preamble: list[str]
    srun_args: list[str]
    sbatch: dict[str, Any]
    python: str | None
    wait: bool
    on_interrupt: Literal["leave", "cancel"]
    poll_s: float

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks", "cpus", "time_min", "signal_s", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"cluster.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gpus", "resubmit", "max_requeues"):
            if getattr(self, name) < 0:
                raise ValueError(f"cluster.{name} must not be negative, got {getattr(self, name)}")
        if self.poll_s < MIN_POLL_S:
            raise ValueError(f"cluster.poll_s must be at least {MIN_POLL_S:g} s, got {self.poll_s}")
        if 60 * self.time_min < 2 * self.signal_s:
            raise ValueError(
                f"cluster.time_min={self.time_min} leaves a job no time before the warning at "
                f"signal_s={self.signal_s} s before its end; raise time_min or lower signal_s"
            )

    def executor_parameters(self, name: str, code: Path) -> dict[str, Any]:
        """Arguments of `submitit.SlurmExecutor.update_parameters` for jobs called `name`."""
        path = ":".join(map(shlex.quote, import_paths(code)))
        trusted = os.environ.get(PLUGINS)
        return {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": self.gres,
            "comment": self.comment,
            "nodes": self.nodes,
            "ntasks_per_node": self.ranks,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": None if self.mem_gb is None else f"{round(1024 * self.mem_gb)}MB",
            "time": self.time_min,
            "signal_delay_s": self.signal_s,
            "array_parallelism": self.array_parallelism,
            "srun_args": list(self.srun_args),
            "wckey": None,
            "additional_parameters": {"requeue": True, **self.sbatch},
            "setup": [
                f"unset {FAILED_LINE}",
                *(part for command in self.preamble for part in _checked(command)),
                f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
                *([f"export {PLUGINS}={shlex.quote(trusted)}"] if trusted else []),
                "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}",
                "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",  # srun forgets it, 22.05+
                f"export {TIME_S}={60 * self.time_min} {SIGNAL_S}={self.signal_s}",
                f"export {MAX_REQUEUES}={self.max_requeues}",
            ],
        }


def _checked(command: str) -> tuple[str, str]:
    """A command of the preamble, and what tells the job that it has failed."""
    words = f'{shlex.quote(command)}", exit code $atomsweep_code"'
    check = f'[ $atomsweep_code -eq 0 ] || [ -n "${{{FAILED_LINE}-}}" ]'
    return command, f"atomsweep_code=$?; {check} || export {FAILED_LINE}={words}"


def slurm_settings(config: Mapping[str, Any]) -> SlurmSettings | None:
    """The settings of a run's config; None where cells run on this machine.

    Raises:
        UserError: a key is unknown, of the wrong type, or refused.
    """
    if "_target_" not in config["cluster"]:
        return None
    settings = build(config["cluster"], "cluster")
    if not isinstance(settings, SlurmSettings):
        raise UserError(f"cluster must be local or SLURM, got {config['cluster']['_target_']}")
    return settings
