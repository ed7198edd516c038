"""The state of a cell, decided here and nowhere else: plan, status, report and watch ask this.

What a directory's files and lock say is `SavedRun.state`; here a finished run that was made with
other code than the present becomes stale, and a cell without a directory is missing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from atomsweep.tracking import schema
from atomsweep.tracking.code import changed
from atomsweep.tracking.saved import SavedRun

Run = TypeVar("Run", bound=SavedRun)


def state_of(run: SavedRun | None) -> str:
    """State of a cell from its directory; None where there is none."""
    return schema.MISSING if run is None else with_code(run.state(), run.environment)


def with_code(state: str, environment: Mapping[str, Any]) -> str:
    """A state with what the code says to it: `stale` where finished with other code.

    Args:
        state: as the files of a run directory have it, or a mirror of them.
        environment: the run's `environment.json`.
    """
    return schema.STALE if state == schema.FINISHED and changed(environment) else state


def rank_of(state: str) -> int:
    """How far a state is from the best; of one identity's runs the lowest counts, then the newest.

    Args:
        state: of `state_of`.
    """
    return schema.FURTHEST.index(state) if state in schema.FURTHEST else len(schema.FURTHEST)


def furthest(runs: Iterable[Run]) -> Run | None:
    """The run that counts, of several directories of one identity; None of none."""
    found = list(runs)
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda r: (rank_of(state_of(r)), -float(r.run.get("created") or 0.0)))


def by_identity(runs: Iterable[Run]) -> dict[str, Run]:
    """Identity → the run that counts."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.identity, []).append(run)
    return {identity: one for identity, group in groups.items() if (one := furthest(group))}
