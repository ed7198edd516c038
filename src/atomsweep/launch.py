"""A choice, or many, launched: planned, checked, run here or on SLURM, and told how it ended."""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from atomsweep.build import UserError
from atomsweep.console import progress_bar, to_terminal
from atomsweep.engine.ranks import RankLost, Ranks
from atomsweep.experiment import (
    LAUNCH,
    cell_of,
    data_source,
    job,
    num_ranks,
    preflight,
    prepare_data,
    slurm_job,
    train,
)
from atomsweep.launch.plan import Cell, Plan
from atomsweep.launch.slurm.settings import slurm_settings
from atomsweep.launch.survey import Entry, check_plan, check_rerun, restart, summary, survey, table
from atomsweep.processes import end_with_parent
from atomsweep.sweep.file import key_of
from atomsweep.sweep.grid import Grid
from atomsweep.sweep.names import split_lacking
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.identity import canonical
from atomsweep.tracking.mlflow.mirror import mirror
from atomsweep.tracking.run import RunDirectory, RunLocked

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from atomsweep.launch.local.pool import Feed, Outcome

log = logging.getLogger(__name__)

# Imported once by the process that cells of a sweep are forked from
PRELOAD = (
    "torch",
    "torch_geometric.data",
    "atomsweep.engine.trainer",
    "atomsweep.data.batches.graphs",
    "atomsweep.experiment",
)
WELL = (schema.FINISHED, schema.QUEUED, schema.RUNNING)  # the last two are left to SLURM

# One run


def run(cfg: DictConfig) -> float | None:
    """Train the run that `cfg` stands for, or continue it, or say that it is done.

    Returns:
        The value of `engine.metric` of the best checkpoint; None for a plan, and for a run that is
        left to SLURM.

    Raises:
        UserError: the run cannot start, or it failed for a reason that it names.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    if Ranks.here().rank == 0:  # torchrun may have started others
        to_terminal()
    rerun = check_rerun(cfg.rerun)
    check_plan(cfg.plan)
    typed = [o for o in hydra.overrides.task if key_of(o) not in LAUNCH]
    cell = cell_of(cfg, hydra.runtime.choices, typed)
    root = Path(cell.config["root"]).absolute()
    if cell.choices.get("engine") == "ddp" and num_ranks(cell.config) == 1:
        log.warning(
            "engine=ddp in one process: cluster.ranks=N trains with N, on each of cluster.nodes"
        )
    log.info("run %s", cell.name)
    parameters = preflight(cell.config, here=not cfg.plan)
    entries = survey([cell], root, {cell.identity: parameters})
    if cfg.plan:
        _say(table(entries, rerun))
        return None
    prepare_data(cell.config)
    _restart(entries, rerun)
    directory = cell.create(root, sweep=None, command=command())
    if Ranks.here().rank > 0:  # rank 0 speaks for all
        train(directory, lambda update: None)
        return None
    with mirror(cell.config["tracking"], root):
        if directory.state() == schema.FINISHED:
            log.info("already finished, not run again: %s", directory.path)
        else:
            log.info("run directory: %s", directory.path)
            if slurm_settings(cell.config) is None:
                if directory.state() == schema.PRUNED:  # by a study; here it is wanted whole
                    directory.queue()
                _train_in_foreground(directory, num_ranks(cell.config))
            else:
                outcome = execute([directory], cell.config, None)[directory.path]
                if outcome.state not in WELL:
                    raise UserError(outcome.message)
    result = directory.result
    if result is None:
        log.info("%s: %s", outcome.state, outcome.message)
        return None
    decisive = str(cell.config["engine"]["metric"])
    for name, value in result["metrics"].items():
        if name.partition("/")[2] == decisive.partition("/")[2]:
            log.info("%-28s %.5f", name, value)
    for name, value in (result.get("throughput") or {}).items():
        log.info("%-28s %.1f", name, value)
    return float(result["metrics"][decisive])


def _train_in_foreground(directory: RunDirectory, ranks: int) -> None:
    from atomsweep.launch.local.pool import followed

    started = Ranks.here().size  # by torchrun, perhaps
    others = followed(directory, job, ranks, warm_up()) if ranks > started else nullcontext()
    try:
        with progress_bar(directory.path.name) as show, others:
            train(directory, lambda update: show(directory.status))
    except Exception as error:
        if not _says_enough(error):
            raise
        raise UserError(str(error)) from error


# Many runs


def warm_up() -> "ForkServerContext":
    """Begin to import what every cell needs, in the process that they are forked from."""
    from multiprocessing.forkserver import ensure_running

    from atomsweep.launch.local.pool import fork_server

    context = fork_server(PRELOAD)
    ensure_running()
    return context


def run_sweep(
    cells: Sequence[Cell], grid: Grid, plan_only: bool, rerun: str, context: "ForkServerContext"
) -> int:
    """Check every cell, then run those that are wanted, or only say which they are.

    Args:
        cells: composed.
        grid: what they were composed from.
        plan_only: launch nothing.
        rerun: what has ended and is run again, a word that `check_rerun` passed.
        context: from `warm_up`.

    Returns:
        Exit code: 0 if every cell is finished, 1 if one is not, 130 after an interrupt.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read; nothing has been run.
    """
    from atomsweep.launch.local.pool import outcome_of
    from atomsweep.launch.presence import launching

    first = cells[0].config
    root = Path(first["root"]).absolute()
    plan = Plan.of(cells, grid, sys.argv, root, first["sweep"])
    log.info("sweep %s: %d cells", plan.sweep, len(plan.cells))
    _check_splits(plan.cells, grid)
    try:
        parameters = check_all(plan.cells, context, here=not plan_only)
    except UserError as error:
        smaller = "" if grid.statement is None else grid.statement.smaller
        raise UserError(f"{error}{smaller}") from error
    wanted_evaluations = grid.evaluations()
    entries = survey(plan.cells, root, parameters, wanted_evaluations)
    if plan_only:
        _say(table(entries, rerun))
        return 0
    log.info("%s", summary(entries, rerun))
    with launching(root, plan.sweep):
        _restart(entries, rerun)
        runs = [cell.create(root, plan.sweep, plan.command) for cell in plan.cells]
        for run in runs:
            evaluations.want(run, wanted_evaluations)
        plan.save(root, parameters)
        wanted = [run for run, entry in zip(runs, entries, strict=True) if entry.wanted(rerun)]
        with mirror(first["tracking"], root):
            try:
                outcomes: dict[Path, Outcome] = {}
                for config, some in placed(plan.cells, runs, wanted):
                    outcomes |= execute(some, config, context)
            except KeyboardInterrupt:
                log.info("stopped; the same command continues")
                return 130
    metric = first["engine"]["metric"]
    width = max(len(run.path.name) for run in runs)
    finished = True
    for run in runs:
        outcome = outcomes.get(run.path) or outcome_of(run, asked=wanted_evaluations)
        told = outcome.message
        if result := run.result:
            told += f"{'; ' if told else ''}{metric} {result['metrics'][metric]:.5f}"
        log.info("%-*s  %-11s  %s", width, run.path.name, outcome.state, told)
        finished &= outcome.state in WELL
    return int(not finished)


def placed(
    cells: Sequence[Cell], runs: Sequence[RunDirectory], wanted: Sequence[RunDirectory]
) -> list[tuple[Mapping[str, Any], list[RunDirectory]]]:
    """What is wanted, for each way of running it: with so many ranks, threads, on such a device.

    Cells whose speed is measured run one at a time, unless `cluster.parallel` says otherwise.
    """
    groups: dict[str, tuple[Mapping[str, Any], list[RunDirectory]]] = {}
    for cell, run in zip(cells, runs, strict=True):
        config = cell.config
        if cell.measured and config["cluster"].get("parallel", 1) is None:
            config = {**config, "cluster": {**config["cluster"], "parallel": 1}}
        way = canonical(
            [config["cluster"], config["engine"]["threads"], config["engine"]["device"]]
        )
        group = groups.setdefault(way, (config, []))
        if run in wanted:
            group[1].append(run)
    return [group for group in groups.values() if group[1]]


def execute(
    runs: Sequence[RunDirectory],
    config: Mapping[str, Any],
    context: "ForkServerContext | None",
    feed: "Feed | None" = None,
) -> "dict[Path, Outcome]":
    """Run the cells where `cluster` says, and what `feed` adds; tell how each ended."""
    from atomsweep.launch.display import sweep_display
    from atomsweep.launch.local.pool import run_cells, slots

    if (settings := slurm_settings(config)) is not None:
        from atomsweep.launch.slurm.jobs import run_cells_on_slurm

        return run_cells_on_slurm(runs, slurm_job, settings, sweep_display(), feed)
    assert context is not None
    cluster, engine = config["cluster"], config["engine"]
    ranks = num_ranks(config)
    parallel = slots(cluster["parallel"], engine["threads"], engine["device"], ranks)
    each = f", {ranks} ranks each" if ranks > 1 else ""
    log.info("%d at a time on this machine%s", parallel, each)
    return run_cells(runs, job, parallel, engine["device"], context, sweep_display(), feed, ranks)


def _check_splits(cells: Sequence[Cell], grid: Grid) -> None:
    """Refuse a table of splits that no run will evaluate.

    Raises:
        UserError: names the metric and the splits that there are.
    """
    if grid.statement is None:
        return
    for cell in {cell.data["fingerprint"]: cell for cell in cells}.values():
        splits = data_source(cell.config).splits()
        if name := split_lacking(grid.statement.metrics, splits):
            raise UserError(
                f"the table asks for {name}, but data={cell.data['name']} has the splits "
                f"{', '.join(splits)}"
            )


def check_all(cells: Sequence[Cell], context: "ForkServerContext", here: bool) -> dict[str, int]:
    """Build every cell, in a process that has torch, cells that differ by seed alone once.

    Args:
        cells: of a plan.
        context: from `warm_up`.
        here: they are to run, so the data are made and the devices must be there.

    Returns:
        Identity → trainable parameters of the model.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read.
    """
    from concurrent.futures import ProcessPoolExecutor

    kinds = {cell.identity: canonical({**cell.science, "seed": None}) for cell in cells}
    examples = {kinds[cell.identity]: cell for cell in reversed(cells)}
    sizes: dict[str, int] = {}
    with ProcessPoolExecutor(1, context, end_with_parent) as executor:
        checked = executor.map(_check, [(cell.config, here) for cell in examples.values()])
        for (kind, cell), (size, problem) in zip(examples.items(), checked, strict=True):
            if problem is not None:
                raise UserError(f"{' '.join(cell.overrides)}: {problem}")
            sizes[kind] = size
        if here:
            for config in {cell.data["fingerprint"]: cell.config for cell in cells}.values():
                executor.submit(prepare_data, config).result()
    return {identity: sizes[kind] for identity, kind in kinds.items()}


def check_one(cell: Cell, context: "ForkServerContext") -> int:
    """Build a cell in a process of its own; returns the trainable parameters of its model.

    Raises:
        UserError: it cannot be built.
    """
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, context, end_with_parent) as executor:
        size, problem = executor.submit(_check, (cell.config, True)).result()
    if problem is not None:
        raise UserError(problem)
    return size


def _check(asked: tuple[Mapping[str, Any], bool]) -> tuple[int, str | None]:
    try:
        return preflight(*asked), None
    except UserError as error:
        return 0, str(error)


def _restart(entries: Sequence[Entry], rerun: str) -> None:
    try:
        restart(entries, rerun)
    except RunLocked as error:
        raise UserError(str(error)) from error


# Small things


def command() -> str:
    """What the user typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info("%s", line)


def _says_enough(error: BaseException) -> bool:
    """Whether the message alone says what to do, so that no traceback is needed."""
    from atomsweep.engine.signals import Interrupted
    from atomsweep.engine.trainer import NotFiniteError

    told = (ValueError, OSError, UserError, RunLocked, NotFiniteError, Interrupted, RankLost)
    return isinstance(error, told)
