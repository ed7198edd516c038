"""A sweep: check every cell, run those that are wanted, say how each ended."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from atomsweep.build import UserError
from atomsweep.console import MANY
from atomsweep.launch.baseline import baselines_of
from atomsweep.launch.execute import Start, execute, placed
from atomsweep.launch.further import Further
from atomsweep.launch.outcome import WELL, Outcome, outcome_of
from atomsweep.launch.plan import Cell, Plan, create_all, option_of
from atomsweep.launch.preflight import check_all, check_splits
from atomsweep.launch.presence import launching
from atomsweep.launch.survey import longest_first, restart, summary, survey, table
from atomsweep.launch.until import Until
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import evaluations
from atomsweep.tracking.mlflow.mirror import Scope, mirror
from atomsweep.tracking.run import RunDirectory

log = logging.getLogger(__name__)

SHOWN = 20  # runs listed for each state that is not a good end


def run_sweep(
    cells: Sequence[Cell],
    grid: Grid,
    plan_only: bool,
    rerun: str,
    start: Start,
    until: Until | None = None,
) -> int:
    """Check every cell, then run those that are wanted, or only say which they are.

    Args:
        cells: composed.
        grid: what they were composed from.
        plan_only: launch nothing.
        rerun: what has ended and is run again, a word that `check_rerun` passed.
        start: what `warm_up` gave: the process that cells are forked from.
        until: further seeds are trained until the claims of the sweep are decided.

    Returns:
        Exit code: 0 if every cell and the Medians of their data are finished, 1 if one is not, 130
        after an interrupt.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read; nothing has been run.
    """
    first = cells[0].config
    root = Path(first["root"]).absolute()
    plan = Plan.of(cells, grid, sys.argv, root)
    log.info("sweep %s: %d cells", plan.sweep, len(plan.cells))
    _warn(plan, len(cells), root)
    parameters = _checked(plan, grid, start, here=not plan_only)
    wanted_evaluations = grid.evaluations()
    entries = survey(plan.cells, root, parameters, wanted_evaluations)
    further = None
    if until is not None:
        further = Further(until, plan, root, parameters, wanted_evaluations, rerun)
    judged = bool(grid.statement and grid.statement.claims)
    if plan_only:
        log.info("%s", "\n".join(table(entries, rerun)))
        for cell in baselines_of(plan.cells, judged):
            if cell.find(root) is None:
                log.info("and first, to tell what has learnt: %s", " ".join(cell.overrides))
        if further is not None:
            for line in further.preview():
                log.info("%s", line)
        return 0
    log.info("%s", summary(entries, rerun))
    with launching(root, plan.sweep):
        restart(entries, rerun)
        runs = create_all(plan.cells, root, plan.sweep, plan.command)
        for run in runs:
            evaluations.want(run, wanted_evaluations)
        plan.save(root, runs, parameters)
        run_of = {cell.identity: run for cell, run in zip(plan.cells, runs, strict=True)}
        ordered = longest_first(entries, rerun)
        wanted = [run_of[e.cell.identity] for e in ordered if e.wanted(rerun)]
        baselines = baselines_of(plan.cells, judged)
        medians = [cell.create(root, None, plan.command) for cell in baselines]
        lacking = [run for run in medians if run.result is None]
        scope = Scope([run.name for run in medians], plan.sweep)
        with mirror(first["tracking"], root, scope):
            outcomes: dict[Path, Outcome] = {}
            placed_runs = placed(plan.cells, runs, wanted)
            try:
                # before and apart: claims are judged by them, and further seeds run as cells do
                for config, some in placed(baselines, medians, lacking):
                    outcomes |= execute(some, config, start)
                if further is not None:
                    outcomes |= further.drive(placed_runs, first, start)
                    runs += [run for run in further.runs if run not in runs]
                else:
                    for config, some in placed_runs:
                        outcomes |= execute(some, config, start)
            except KeyboardInterrupt:
                log.info("stopped; the same command continues")
                return 130
    finished = _tell_all([*medians, *runs], outcomes, wanted_evaluations, first["engine"]["metric"])
    log.info("its table: atomsweep report %s%s", grid.whole or plan.sweep, option_of(root))
    if start.code is not None:
        start.code.warn_of_changes()
    return int(not finished)


def _warn(plan: Plan, asked: int, root: Path) -> None:
    """Say what is asked for twice, and which cells of an earlier plan a table loses."""
    if doubled := asked - len(plan.cells):
        log.warning("%d of what was asked for is the same as another cell, and run once", doubled)
    if lost := plan.replaced(root):
        log.warning(
            "sweep %s had %d other cells, which its table no longer has: another sweep=<name> "
            "keeps them apart",
            plan.sweep,
            lost,
        )


def _checked(plan: Plan, grid: Grid, start: Start, here: bool) -> dict[str, int]:
    """Check every cell of a plan; returns identity → parameters of the model.

    Raises:
        UserError: a cell cannot be built, or no run will evaluate what the table asks for.
    """
    check_splits(plan.cells, grid)
    try:
        return check_all(plan.cells, start.context, here)
    except UserError as error:
        smaller = "" if grid.statement is None else grid.statement.smaller
        raise UserError(f"{error}{smaller}") from error


def _tell_all(
    runs: Sequence[RunDirectory],
    outcomes: Mapping[Path, Outcome],
    asked: evaluations.Wanted,
    metric: str,
) -> bool:
    """Say how each run ended, of many only those that did not end well; whether all did."""
    width = max(len(run.path.name) for run in runs)
    ends: Counter[str] = Counter()
    well = True
    for run in runs:
        outcome = outcomes.get(run.path) or outcome_of(run, asked=asked)
        ends[outcome.state] += 1
        well &= outcome.state in WELL
        if len(runs) >= MANY and (outcome.state in WELL or ends[outcome.state] > SHOWN):
            continue
        told = outcome.message
        if result := run.result:
            told += f"{'; ' if told else ''}{metric} {result['metrics'][metric]:.5f}"
        log.info("%-*s  %-11s  %s", width, run.path.name, outcome.state, told)
    if len(runs) >= MANY:
        log.info("%s", ", ".join(f"{count} {state}" for state, count in ends.items()))
    return well
