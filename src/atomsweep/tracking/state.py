"""The state of a cell for plan, status, report and watch: `SavedRun.state` and what it cannot see.

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
    """How far a state, of `state_of`, is from the best."""
    return schema.FURTHEST.index(state) if state in schema.FURTHEST else len(schema.FURTHEST)


def order_of(state: str, created: Any) -> tuple[int, float]:
    """Of the runs of one identity that with the least order counts: the furthest, then newest.

    Args:
        state: of `state_of`.
        created: seconds since 1970, or None.
    """
    return rank_of(state), -float(created or 0.0)


def furthest(runs: Iterable[Run]) -> Run | None:
    """The run that counts, of several directories of one identity; None of none."""
    found = list(runs)
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda run: order_of(state_of(run), run.run.get("created")))
