"""`until=decided`: further seeds for the cells of undecided claims, and for no others.

The `feed` of an executor, as a study's driver is: called again and again with what has ended, it
looks at the claims and returns what is to run too. All that it knows is in the plan and in the run
directories, so the same command goes on after any kill. What a look may conclude is in
`atomsweep/report/tables/boundaries.py`: claims may be looked at after every seed.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomsweep.console import duration
from atomsweep.launch.execute import Start, execute, room
from atomsweep.launch.outcome import WELL, Outcome
from atomsweep.launch.plan import Cell, Plan, has_ended, plan_path
from atomsweep.launch.survey import ALL, FAILED, NONE, STALE
from atomsweep.launch.until import Until
from atomsweep.sweep.grid import seedless_key
from atomsweep.sweep.looks import Look, Question, told
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.files import read_json
from atomsweep.tracking.restart import restart
from atomsweep.tracking.run import RunDirectory, RunLocked
from atomsweep.tracking.state import state_of

AGAIN_SECONDS = 30.0  # from a look that could not be made to the next
Key = frozenset[str]  # of a cell, the same for all its seeds

log = logging.getLogger(__name__)


@dataclass
class Further:
    """One launch: which seeds were begun, and what each open comparison waits for.

    Attributes:
        until: what was asked for.
        plan: of the sweep, with the first seeds.
        root: where runs are.
        parameters: identity → trainable parameters.
        wanted: evaluations that every run is to have.
        rerun: word of `survey`: whether what has failed is repeated, what is stale made again.
        room: runs at once; set when they are driven.
    """

    until: Until
    plan: Plan
    root: Path
    parameters: dict[str, int]
    wanted: evaluations.Wanted = field(default_factory=dict)
    rerun: str = FAILED
    room: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._base = {self._key(cell.overrides): cell for cell in self.plan.cells}
        self._cells = {
            (self._key(cell.overrides), int(cell.config["seed"])): cell for cell in self.plan.cells
        }
        self._runs: dict[tuple[Key, int], RunDirectory | None] = {}
        self._costs: dict[Key, float] = {}
        self._busy: set[Path] = set()  # handed to the executor
        self._failed: dict[Path, str] = {}
        self._view: Look | None = None  # None: nobody has looked yet
        self._why: dict[Question, str] = {}  # no seed is begun for it; "" where one may
        self._waits: dict[Question, str] = {}  # what it waits for, in a plan
        self._again = math.inf  # monotonic seconds of the next look, though nothing has ended
        planned = {(self._key(c.get("overrides") or []), c.get("seed")) for c in self._before()}
        for key in self._base:
            for seed in self.until.later:
                if (key, seed) in planned:
                    self._run(key, seed)

    def _key(self, overrides: Sequence[str]) -> Key:
        return seedless_key(overrides, self.plan.grid.groups)

    def _before(self) -> Sequence[Mapping[str, Any]]:
        """Cells of the plan that an earlier launch has left."""
        try:
            return read_json(plan_path(self.root, self.plan.sweep))["cells"]
        except (OSError, ValueError, KeyError):
            return ()

    def drive(
        self,
        groups: Sequence[tuple[Mapping[str, Any], list[RunDirectory]]],
        config: Mapping[str, Any],
        start: Start | None,
    ) -> dict[Path, Outcome]:
        """Train the first seeds, then further ones until there is no question or no way to answer.

        Further seeds are asked for while first ones of other cells still train, where all cells run
        in one way; else the first seeds of all come before.

        Args:
            groups: first seeds that are to be trained, as `execute.placed` puts them.
            config: of a cell, where further seeds run as it does.
            start: from `warm_up`.
        """
        outcomes: dict[Path, Outcome] = {}
        for own, some in groups[:-1] if groups else []:
            outcomes |= execute(some, own, start)
        last, some = groups[-1] if groups else (config, [])
        self.room = room(last)
        self._failed = {p: o.message or o.state for p, o in outcomes.items() if o.state not in WELL}
        for run in self.runs if self.rerun in (STALE, ALL) else ():
            if run.result is not None and (self.rerun == ALL or state_of(run) == schema.STALE):
                try:
                    restart(run)
                except RunLocked as error:
                    log.warning("%s", error)
        self._busy = {run.path for run in some}
        outcomes |= execute(some, last, start, self)
        self.look()
        log.info("%s", "\n".join(told(self.claims())))
        return outcomes

    # What an executor calls

    def __call__(self, ended: Mapping[Path, Outcome]) -> list[RunDirectory]:
        """Take in what has ended, look at the claims, return the runs of further seeds."""
        self._busy -= ended.keys()
        for path, outcome in ended.items():
            if outcome.state != schema.FINISHED:
                self._failed[path] = outcome.message or outcome.state
        if not ended and self._view is not None and time.monotonic() < self._again:
            return []
        begun: list[RunDirectory] = []
        self._again = math.inf
        try:
            self.look(begun)
        except Exception as error:  # of a report or a disk: cells that train are worth more
            log.warning("claims cannot be judged, so seeds wait that they ask for: %s", error)
            self._view = self._view or Look()
            self._again = time.monotonic() + AGAIN_SECONDS
        return begun

    def look(self, begun: list[RunDirectory] | None = None) -> None:
        """Look at the claims, and begin what there is room for, if there is a list to add it to."""
        self._save()
        self._ask()
        for question, seed, sides, why in self._standing():
            self._why[question] = why
            if begun is None or why or len(self._busy) >= self.room:
                continue
            for key in sides:
                if (run := self._begin(key, seed)) is not None:
                    begun.append(run)
        self._save()

    def _ask(self) -> None:
        """See how the claims stand now."""
        for key, seed in itertools.product(self._base, self.until.first):
            if self._runs.get((key, seed)) is None:
                self._runs.pop((key, seed), None)
                self._run(key, seed)
        self._why, self._waits, self._costs = {}, {}, {}
        self._view = self.until.look(self.root, self.plan.sweep)

    def _begin(self, key: Key, seed: int) -> RunDirectory | None:
        """The run of a cell with a seed, made if need be; None where it is on its way."""
        cell = self._cell(key, seed)
        run = self._run(key, seed) or cell.create(self.root, self.plan.sweep, self.plan.command)
        if run.path in self._busy:
            return None
        evaluations.want(run, self.wanted)
        self._runs[key, seed] = run
        if (size := self.parameters.get(self._base[key].identity)) is not None:
            self.parameters[cell.identity] = size
        self._busy.add(run.path)
        log.info("seed %d of %s: a claim is undecided", seed, self._base[key].name)
        return run

    # What to begin

    def _ranked(self) -> list[Question]:
        """Open comparisons, the nearest to a decision per device-second first.

        Those that need more seeds than there may be come last: they may come nearer by chance.
        """

        def seconds(question: Question) -> tuple[bool, float]:
            left = self.until.looks.most - question.pairs
            is_far = question.needed is None or question.needed > left
            pairs = max(1, left if is_far or question.needed is None else question.needed)
            return is_far, pairs * sum(map(self._cost, self._sides(question)))

        return sorted(self._view.open if self._view else (), key=seconds)

    def _standing(self) -> Iterator[tuple[Question, int, list[Key], str]]:
        """Every open comparison with what `_next` says of it as it is reached.

        A claim of which one comparison stays open for good can still fail, and no longer hold. So
        of its others those alone get seeds that are on the side of failing.
        """
        found = [(question, self._next(question)) for question in self._ranked()]
        stuck = {question.claim for question, (_, sides, why) in found if why and not sides}
        for question, (seed, sides, why) in found:
            if not why and question.claim in stuck and not question.fails_alone:
                yield question, 0, [], "another comparison of its claim stays open"
            elif not why:  # what the ones before have begun may have spent the budget
                yield question, *self._next(question)
            else:
                yield question, seed, sides, why

    def _next(self, question: Question) -> tuple[int, list[Key], str]:
        """Seed that a comparison waits for, the cells to be trained with it, or why there is none.

        Both sides get a seed together: a look sees their pairs. What the largest effect that the
        pairs allow would not decide gets none: no error comes of that, as who stops early concludes
        nothing.
        """
        sides, most = self._sides(question), self.until.looks.most
        if question.hindrance or len(sides) < 2:
            return 0, [], question.hindrance or "one of its sides is no cell of this sweep"
        for seed in self.until.seeds:
            runs = {key: self._run(key, seed) for key in sides}
            for key, run in runs.items():
                if run is not None and (told := self._failure(run)):
                    return seed, [], f"seed {seed} of {self._base[key].name}: {told}"
            lacking = [key for key, run in runs.items() if not self._is_finished(run)]
            if lacking:
                known = question.pairs >= self.until.looks.first
                if known and (question.fewest is None or question.fewest > most):
                    return 0, [], f"unlikely to be decided by {most} seeds"
                limit = self.until.device_hours
                if (
                    limit is not None
                    and self._spent() + sum(map(self._cost, lacking)) > 3600 * limit
                ):
                    return seed, lacking, f"until.device_hours={limit:g} would be exceeded"
                return seed, lacking, ""
        return 0, [], f"all {most} seeds are trained"

    def _sides(self, question: Question) -> list[Key]:
        """Keys of the two cells."""
        return [
            next(k for k, base in self._base.items() if side & set(base.known_as))
            for side in (question.left, question.right)
            if any(side & set(base.known_as) for base in self._base.values())
        ]

    def _cell(self, key: Key, seed: int) -> Cell:
        if (key, seed) not in self._cells:
            self._cells[key, seed] = self.until.another(self._base[key], seed)
        return self._cells[key, seed]

    def _run(self, key: Key, seed: int) -> RunDirectory | None:
        """Where a cell runs with a seed, whichever launch or sweep has begun it."""
        if (key, seed) not in self._runs:
            self._runs[key, seed] = self._cell(key, seed).find(self.root)
        return self._runs[key, seed]

    def _failure(self, run: RunDirectory) -> str:
        """Why a run is not begun again by this launch; empty if it may be."""
        if run.path in self._failed:
            return self._failed[run.path]
        failed = self.rerun == NONE and evaluations.standing(run, self.wanted) == schema.FAILED
        return f"it has failed, and rerun={NONE}" if failed else ""

    def _is_finished(self, run: RunDirectory | None) -> bool:
        return run is not None and evaluations.standing(run, self.wanted) == schema.FINISHED

    @property
    def runs(self) -> list[RunDirectory]:
        """Of further seeds, begun by this launch or before."""
        return [run for (_, seed), run in self._runs.items() if run and seed in self.until.later]

    # What it costs

    def _cost(self, key: Key) -> float:
        """Device-seconds of a cell with one seed, a mean of those that are finished; 0: unknown."""
        if key not in self._costs:
            mine = [run for (other, _), run in self._runs.items() if other == key and run]
            spent = [_seconds(run) for run in mine if run.result is not None]
            self._costs[key] = sum(spent) / len(spent) if spent else 0.0
        return self._costs[key]

    def _spent(self) -> float:
        """Device-seconds of all runs of the sweep, those that are on their way to their end."""
        total = 0.0
        for (key, _), run in self._runs.items():
            if run is None:
                continue
            going = self._cost(key) if run.path in self._busy else 0.0
            total += max(run.allocated_seconds(), _seconds(run), going)
        return total

    # What it leaves

    def _save(self) -> None:
        """The plan with every seed that has ended or is on its way, and why claims are open.

        One that failed stays: a mean over the others would be of those that went well.
        """
        cells = list(self.plan.cells)
        for (key, seed), run in sorted(self._runs.items(), key=lambda item: item[0][1]):
            if run and seed in self.until.later and (has_ended(run) or run.path in self._busy):
                cells.append(self._cell(key, seed))
        plan = Plan(cells, self.plan.grid, self.plan.sweep, self.plan.argv)
        runs = [cell.find(self.root) for cell in cells]
        plan.save(self.root, runs, self.parameters, self.claims())

    def claims(self) -> dict[str, Any]:
        """Claims as they stand, for plan, status and page."""
        if self._view is None:
            return {}
        return {
            "settled": [{"claim": c, "verdict": v} for c, v in self._view.settled],
            "open": [
                {
                    "claim": q.claim,
                    "comparison": q.words,
                    "pairs": q.pairs,
                    "why": self._why.get(q, ""),
                    "waits": "" if self._why.get(q) else self._waits.get(q, _waiting(q)),
                }
                for q in self._view.open
            ],
        }

    def preview(self) -> list[str]:
        """Lines for a plan: what is settled or open, and which seeds a launch would begin with."""
        self._ask()
        if self._view == Look():
            first = self.until.looks.first
            return [f"claims: all open; the first {first} seeds of every cell are trained first"]
        waited: dict[tuple[Key, int], None] = {}
        for question, seed, sides, why in self._standing():
            names = " and ".join(self._base[key].name for key in sides)
            self._why[question] = why
            self._waits[question] = f"{_waiting(question)}; waits for seed {seed} of {names}"
            waited |= dict.fromkeys((key, seed) for key in sides if not why)
        return [*told(self.claims()), *self._of_further(list(waited))]

    def _of_further(self, waited: Sequence[tuple[Key, int]]) -> list[str]:
        """What there is of further seeds, and what a launch begins with, for a plan."""
        lines = []
        if runs := self.runs:
            done = sum(self._is_finished(run) for run in runs)
            lines.append(f"further seeds: {len(runs)} runs, {done} of them finished")
        later = [(key, seed) for key, seed in waited if seed in self.until.later]
        if later:
            spent = sum(self._cost(key) for key, _ in later)
            told_cost = f", about {duration(spent)} of device time" if spent else ""
            many = "s" if len(later) > 1 else ""
            lines.append(
                f"a launch begins with {len(later)} further seed{many} of cells{told_cost}, and "
                f"goes on while claims are open, up to {self.until.looks.most} seeds of a cell"
            )
        return lines


def _seconds(run: RunDirectory) -> float:
    """Device-seconds of training and evaluation that a result tells; 0 before it is there."""
    result = run.result or {}
    return float(result.get("device_seconds", 0.0)) + float(result.get("eval_seconds", 0.0))


def _waiting(question: Question) -> str:
    more = "nobody can tell how many more it takes"
    if question.needed is not None:
        more = f"about {question.needed} more"
    return f"{question.pairs} seeds that both have, {more}"
