"""Many runs: every cell checked, those that are wanted run, each told how it ended."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from atomsweep.build import UserError
from atomsweep.launch.baseline import baselines_of
from atomsweep.launch.execute import Start, execute, placed
from atomsweep.launch.outcome import WELL, Outcome, outcome_of
from atomsweep.launch.plan import Cell, Plan
from atomsweep.launch.preflight import check_all, check_splits
from atomsweep.launch.presence import launching
from atomsweep.launch.survey import restart, summary, survey, table
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import evaluations
from atomsweep.tracking.mlflow.mirror import mirror

log = logging.getLogger(__name__)


def run_sweep(cells: Sequence[Cell], grid: Grid, plan_only: bool, rerun: str, start: Start) -> int:
    """Check every cell, then run those that are wanted, or only say which they are.

    Args:
        cells: composed.
        grid: what they were composed from.
        plan_only: launch nothing.
        rerun: what has ended and is run again, a word that `check_rerun` passed.
        start: from `warm_up`.

    Returns:
        Exit code: 0 if every cell is finished, 1 if one is not, 130 after an interrupt.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read; nothing has been run.
    """
    first = cells[0].config
    root = Path(first["root"]).absolute()
    plan = Plan.of(cells, grid, sys.argv, root)
    log.info("sweep %s: %d cells", plan.sweep, len(plan.cells))
    check_splits(plan.cells, grid)
    try:
        parameters = check_all(plan.cells, start.context, here=not plan_only)
    except UserError as error:
        smaller = "" if grid.statement is None else grid.statement.smaller
        raise UserError(f"{error}{smaller}") from error
    wanted_evaluations = grid.evaluations()
    entries = survey(plan.cells, root, parameters, wanted_evaluations)
    if plan_only:
        log.info("%s", "\n".join(table(entries, rerun)))
        return 0
    log.info("%s", summary(entries, rerun))
    with launching(root, plan.sweep):
        restart(entries, rerun)
        runs = [cell.create(root, plan.sweep, plan.command) for cell in plan.cells]
        for run in runs:
            evaluations.want(run, wanted_evaluations)
        plan.save(root, parameters)
        wanted = [run for run, entry in zip(runs, entries, strict=True) if entry.wanted(rerun)]
        baselines = baselines_of(plan.cells)
        medians = [cell.create(root, None, plan.command) for cell in baselines]
        wanted += [run for run in medians if run.result is None]
        with mirror(first["tracking"], root):
            try:
                outcomes: dict[Path, Outcome] = {}
                placed_runs = placed([*plan.cells, *baselines], [*runs, *medians], wanted)
                for config, some in placed_runs:
                    outcomes |= execute(some, config, start)
            except KeyboardInterrupt:
                log.info("stopped; the same command continues")
                return 130
    metric = first["engine"]["metric"]
    width = max(len(run.path.name) for run in [*runs, *medians])
    finished = True
    for run in [*medians, *runs]:
        outcome = outcomes.get(run.path) or outcome_of(run, asked=wanted_evaluations)
        told = outcome.message
        if result := run.result:
            told += f"{'; ' if told else ''}{metric} {result['metrics'][metric]:.5f}"
        log.info("%-*s  %-11s  %s", width, run.path.name, outcome.state, told)
        finished &= outcome.state in WELL
    log.info("its table: atomsweep report %s", grid.whole or plan.sweep)
    if start.code is not None:
        start.code.warn_of_changes()
    return int(not finished)
