"""Where every cell of a plan stands, what would be run, and what that costs: in words."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from atomsweep.build import UserError
from atomsweep.console import aligned, duration
from atomsweep.launch.costs import Costs, remaining, work
from atomsweep.launch.plan import Cell
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.code import changed
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.restart import restart as make_again
from atomsweep.tracking.run import RunDirectory, RunLocked, directories
from atomsweep.tracking.state import state_of

log = logging.getLogger(__name__)

Rerun = Literal["none", "failed", "stale", "all"]
NONE, FAILED, STALE, ALL = get_args(Rerun)
ENDED: Mapping[str, Sequence[str]] = {
    NONE: (),
    FAILED: (schema.FAILED,),
    STALE: (schema.FAILED, schema.STALE),
    ALL: (schema.FAILED, schema.STALE, schema.FINISHED),
}
"""What has ended and is run again; what has not ended always goes on."""

HEADER = ("cell", "state", "identity", "parameters", "device time")


@dataclass(frozen=True)
class Entry:
    """A cell as it stands.

    Attributes:
        cell: what is wanted.
        run: its directory, None where there is none yet.
        state: of `tracking.schema`, `missing` and `stale` among them.
        parameters: trainable ones of its model.
        seconds: guess of the device-seconds of the whole run; None where nothing tells.
        missing: evaluations of a finished run that are wanted and not there.
    """

    cell: Cell
    run: RunDirectory | None
    state: str
    parameters: int | None
    seconds: float | None
    missing: Sequence[str] = ()

    def wanted(self, rerun: str) -> bool:
        """Whether a launch runs it."""
        return self.trained(rerun) or bool(self.missing)

    def trained(self, rerun: str) -> bool:
        """Whether a launch trains it, and does not merely evaluate it."""
        ended = (schema.FAILED, schema.STALE, schema.FINISHED)
        return self.state not in ended or self.state in ENDED[rerun]

    def left(self, rerun: str) -> float | None:
        """Guess of the device-seconds that a launch would spend."""
        if not self.trained(rerun):
            return 0.0
        if self.run is None or self.state in (schema.STALE, schema.FINISHED):
            return self.seconds
        return remaining(self.seconds, self.run.status.get("fraction"), self.state)


def check_rerun(rerun: object) -> str:
    """The value of `rerun`.

    Raises:
        UserError: it is none of the four words.
    """
    if rerun not in ENDED:
        raise UserError(f"rerun must be one of {', '.join(ENDED)}, got {rerun}")
    return str(rerun)


def check_plan(plan: object) -> None:
    """Refuse what is neither true nor false: a launch that was not wanted costs more than a word.

    Raises:
        UserError: says what can be typed.
    """
    if not isinstance(plan, bool):
        raise UserError(f"plan must be true or false, got {plan}")


def survey(
    cells: Sequence[Cell],
    root: Path,
    parameters: Mapping[str, int],
    wanted: evaluations.Wanted | None = None,
    guess: bool = True,
) -> list[Entry]:
    """Every cell with its state and cost.

    Args:
        cells: of a plan.
        root: where runs are.
        parameters: identity → trainable parameters.
        wanted: evaluation → settings, that every cell is to have.
        guess: say what cells cost, for which every run of the root is read.
    """
    problems: list[str] = []
    costs = Costs.of(find_runs(root, problems) if guess else [])
    for problem in problems:
        log.warning("%s", problem)
    entries = []
    there = directories(root)
    for cell in cells:
        run = cell.find(root, there)
        size = parameters.get(cell.identity)
        entries.append(
            Entry(
                cell=cell,
                run=run,
                state=state_of(run),
                parameters=size,
                seconds=costs.seconds(cell.science, cell.config["engine"]["device"], size),
                missing=_missing(run, wanted or {}),
            )
        )
    return entries


def longest_first(entries: Sequence[Entry], rerun: str) -> list[Entry]:
    """Entries in the order to begin them, so that no long one is left alone at the end.

    A cell lasts as long as finished runs like it tell (`Costs`). One that no run is like lasts as
    its `work` says, at the median speed of the cells of this launch that are known and have the
    same unit of budget; where none is, nothing tells how long it is, and it begins first, those
    with the most work before the others. Equal ones stay in the order of the plan.
    """
    works = [work(entry.cell.science, entry.parameters) for entry in entries]
    speeds: dict[str, list[float]] = {}
    for entry, (unit, amount) in zip(entries, works, strict=True):
        if entry.seconds is not None and amount > 0:
            speeds.setdefault(unit, []).append(entry.seconds / amount)
    typical = {unit: statistics.median(found) for unit, found in speeds.items()}

    def length(number: int) -> tuple[bool, float]:
        entry, (unit, amount) = entries[number], works[number]
        if not entry.trained(rerun):
            return False, 0.0
        known = entry if entry.seconds is not None else None
        if known is None and unit in typical:
            known = replace(entry, seconds=amount * typical[unit])
        left = None if known is None else known.left(rerun)
        return (True, amount) if left is None else (False, left)

    order = sorted(range(len(entries)), key=length, reverse=True)  # stable in reverse too
    return [entries[number] for number in order]


def restart(entries: Sequence[Entry], rerun: str) -> None:
    """Put the results aside that are to be made again; a failed run goes on where it was.

    Raises:
        UserError: another process trains one of them.
    """
    for entry in entries:
        if entry.run is not None and entry.trained(rerun) and entry.run.result is not None:
            try:
                make_again(entry.run)
            except RunLocked as error:
                raise UserError(str(error)) from error


def table(entries: Sequence[Entry], rerun: str) -> list[str]:
    """Lines of a table, one for each cell, and a sentence of what a launch would do."""
    labels = _labels([entry.cell for entry in entries])
    rows = [
        (
            label,
            _told(entry),
            entry.cell.identity if entry.run is None else entry.run.identity,
            "–" if entry.parameters is None else f"{entry.parameters:,}".replace(",", " "),
            "–" if entry.seconds is None else f"about {duration(entry.seconds)}",
        )
        for label, entry in zip(labels, entries, strict=True)
    ]
    return [*aligned([HEADER, *rows]), summary(entries, rerun)]


def summary(entries: Sequence[Entry], rerun: str) -> str:
    """Cells by state, and what a launch would run."""
    states = [entry.state for entry in entries]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    wanted = [entry for entry in entries if entry.trained(rerun)]
    text = f"{len(entries)} cells: {told}; a launch runs {len(wanted)}"
    known = [s for s in (entry.left(rerun) for entry in wanted) if s is not None]
    if known:
        text += f", about {duration(sum(known))} of device time"
    if unknown := len(wanted) - len(known):
        text += f" ({'' if known else 'cost of '}{unknown} unknown: nothing alike has finished)"
    if unevaluated := sum(entry.wanted(rerun) for entry in entries) - len(wanted):
        text += f"; evaluates {unevaluated} that are trained"
    return "; ".join([text, *told_of_code(entries, rerun)])


def told_of_code(entries: Sequence[Entry], rerun: str) -> list[str]:
    """What becomes of runs that other code than the present has finished, or begun."""
    told = []
    if rerun not in (STALE, ALL) and any(entry.state == schema.STALE for entry in entries):
        told.append(
            "stale: finished with other code than the present, rerun=stale makes them again"
        )
    begun = [e.run for e in entries if e.run is not None and e.state == schema.INTERRUPTED]
    if begun := [run for run in begun if changed(run.environment)]:
        told.append(
            f"{len(begun)} begun with other code than the present: what goes on will be stale; "
            f"remove a folder to begin anew, such as {begun[0].path}"
        )
    return told


def _told(entry: Entry) -> str:
    return entry.state + (f", lacks {', '.join(entry.missing)}" if entry.missing else "")


def _missing(run: RunDirectory | None, wanted: evaluations.Wanted) -> list[str]:
    finished = run is not None and run.result is not None
    return evaluations.missing(run, wanted) if finished and run is not None else []


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Of each cell, what tells it from the others: its label, and overrides it does not stand for.

    A label stands for the overrides that all cells have that bear it, none for those of all cells.
    """
    shared: dict[str | None, set[str]] = {}
    for cell in cells if len(cells) > 1 else ():
        shared[cell.label] = shared.get(cell.label, set(cell.overrides)) & set(cell.overrides)
    told = ([o for o in cell.overrides if o not in shared.get(cell.label, ())] for cell in cells)
    return [
        " ".join([*([cell.label] if cell.label is not None else []), *own]) or cell.name
        for cell, own in zip(cells, told, strict=True)
    ]
