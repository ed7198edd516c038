"""Which of the processes that train one run together this one is, and how they find each other.

No torch here: queues and pools set the variables, `engine.distributed` opens the connections.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomsweep.tracking.files import dumps, read_file, write_atomic

RANK = "ATOMSWEEP_RANK"
RANKS = "ATOMSWEEP_RANKS"
LOCAL_RANK = "ATOMSWEEP_LOCAL_RANK"
MEETING = "ATOMSWEEP_MEETING"
MEETING_FILE = "ranks.json"  # in the run directory: where rank 0 waits, and for whom
LOST = 75  # exit code where a process of the run has gone: a queue does not take that job back
JOIN_S = 600.0  # for all ranks to come: the slowest import of torch on the slowest file system
POLL_S = 0.1


class RankLost(RuntimeError):
    """A process of this run has gone or never came; the run continues from its checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run.

    Attributes:
        rank: of this process; 0 writes the run directory.
        size: number of processes.
        local_rank: of this process on its machine; chooses the GPU.
        meeting: name that the processes of one start share, and those of an earlier one do not.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    meeting: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"{RANK} must be in [0, {RANKS}={self.size}), got {self.rank}")

    @classmethod
    def here(cls, environ: Mapping[str, str] = os.environ) -> "Ranks":
        """From the variables that a pool, a queue or torchrun has set; else one process alone."""
        if RANKS in environ:
            return cls(
                int(environ[RANK]),
                int(environ[RANKS]),
                int(environ[LOCAL_RANK]),
                environ[MEETING],
            )
        if "TORCHELASTIC_RUN_ID" in environ and int(environ["WORLD_SIZE"]) > 1:
            restart = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            return cls(
                int(environ["RANK"]),
                int(environ["WORLD_SIZE"]),
                int(environ["LOCAL_RANK"]),
                f"torchrun-{environ['MASTER_ADDR']}-{environ['MASTER_PORT']}-{restart}",
            )
        return cls()

    @classmethod
    def of_slurm(cls, meeting: str, environ: Mapping[str, str] = os.environ) -> "Ranks":
        """This task of a step of SLURM."""
        size = int(environ.get("SLURM_NTASKS", 1))
        if size == 1:
            return cls()
        rank, local = int(environ["SLURM_PROCID"]), int(environ["SLURM_LOCALID"])
        return cls(rank, size, local, meeting)

    def export(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Tell this process who it is, unless it is alone."""
        if self.size == 1:
            return
        environ[RANK], environ[RANKS] = str(self.rank), str(self.size)
        environ[LOCAL_RANK], environ[MEETING] = str(self.local_rank), self.meeting

    @staticmethod
    def forget(environ: MutableMapping[str, str] = os.environ) -> None:
        """Be alone again."""
        for name in (RANK, RANKS, LOCAL_RANK, MEETING):
            environ.pop(name, None)


def invite(directory: Path, meeting: str, host: str, port: int) -> None:
    """Rank 0 says where it listens."""
    content = {"meeting": meeting, "host": host, "port": port}
    write_atomic(directory / MEETING_FILE, dumps(content), durable=False)


def invitation(
    directory: Path, meeting: str, check: Callable[[], None], wait_s: float = JOIN_S
) -> tuple[str, int]:
    """Host and port where rank 0 of this start listens; an invitation of an earlier one is not it.

    Args:
        directory: of the run.
        meeting: name of this start.
        check: called between looks; raises to stop the wait.
        wait_s: how long to wait.

    Raises:
        RankLost: rank 0 did not come.
    """
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        check()
        try:
            found = json.loads(read_file(directory / MEETING_FILE))
            if found["meeting"] == meeting:
                return str(found["host"]), int(found["port"])
        except (OSError, ValueError, KeyError):
            pass  # not written yet, or an earlier one is being replaced
        time.sleep(POLL_S)
    raise RankLost(f"rank 0 of {directory.name} did not come within {wait_s:.0f} s")


def num_ranks(config: Mapping[str, Any]) -> int:
    """Processes that train one run together: as the cluster says, or as torchrun has started."""
    started = Ranks.here().size
    if started > 1:
        return started
    cluster = config["cluster"]
    return int(cluster.get("nodes", 1)) * int(cluster.get("ranks", 1))
