"""How cells end, and what an executor of cells is told and tells: here and on SLURM alike."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory

Job = Callable[[str], None]
"""What a process does with the run directory of a cell; a function of a module."""
Feed = Callable[[Mapping[Path, "Outcome"]], Sequence[RunDirectory]]
"""What has ended since the last call → what is to run too, again if need be: a study's driver."""


def ends_of(feed: Feed | None) -> tuple[str, ...]:
    """States after which a run wants nothing more: finished, or what a feed says in `ends`.

    A study's driver says pruned too; any other launch goes on with what a study stopped.
    """
    return getattr(feed, "ends", (schema.FINISHED,))


WELL = (schema.FINISHED, schema.QUEUED, schema.RUNNING)  # the last two are left to SLURM


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: a state of `tracking.schema` and, unless finished, why."""

    state: str
    message: str = ""


def outcome_of(
    run: RunDirectory, exitcode: int | None = None, asked: evaluations.Wanted | None = None
) -> Outcome:
    """How a run ended, from what it left and how its process ended, if it had one.

    Args:
        run: that is asked about.
        exitcode: of its process.
        asked: evaluations that it must have had; None takes what all sweeps want of it.
    """
    state = evaluations.standing(run, asked)
    if state in (schema.FINISHED, schema.PRUNED):
        return Outcome(state)
    if state == schema.FAILED:
        return Outcome(state, evaluations.failure(run) or str(run.status.get("message", "")))
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return Outcome(schema.INTERRUPTED, f"killed by {name}; the same command continues it")
    message = str(
        run.status.get("message") or f"ended with exit code {exitcode}; see {run.path / schema.LOG}"
    )
    return Outcome(schema.INTERRUPTED, message)


class Display(Protocol):
    """What shows the state of a sweep while it runs."""

    def update(self, running: Sequence[RunDirectory], done: int, total: int) -> None:
        """Called every `POLL_SECONDS`."""

    def close(self) -> None:
        """Called once at the end."""
