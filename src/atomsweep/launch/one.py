"""One run: composed, checked, trained or continued here or on SLURM, and told how it ended."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from atomsweep.build import UserError
from atomsweep.console import progress_bar, to_terminal
from atomsweep.engine.ranks import RankLost, Ranks, num_ranks
from atomsweep.launch.baseline import baselines_of
from atomsweep.launch.compose import cell_of
from atomsweep.launch.execute import execute, warm_up
from atomsweep.launch.outcome import WELL, Outcome
from atomsweep.launch.plan import Cell, typed_command
from atomsweep.launch.preflight import preflight, prepare_data
from atomsweep.launch.slurm.settings import slurm_settings
from atomsweep.launch.survey import check_plan, check_rerun, restart, survey, table, told_of_code
from atomsweep.sweep.grid import is_of_launch
from atomsweep.tracking import schema
from atomsweep.tracking.mlflow.mirror import Scope, mirror
from atomsweep.tracking.run import RunDirectory, RunLocked
from atomsweep.worker.train import job, train

SHOWN = {schema.FORCES_MAE: "eV/Å", schema.ENERGY_PER_ATOM_MAE: "meV/atom"}  # beside what decides

log = logging.getLogger(__name__)


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
    if hydra.runtime.choices.get("until") == "decided":
        raise UserError("until=decided needs a sweep file with claims; name it: sweeps=…")
    typed = [o for o in hydra.overrides.task if not is_of_launch(o)]
    cell = cell_of(cfg, hydra.runtime.choices, typed)
    root = Path(cell.config["root"]).absolute()
    if cell.choices.get("engine") == "ddp" and num_ranks(cell.config) == 1:
        log.warning(
            "engine=ddp in one process: cluster.ranks=N trains with N, on each of cluster.nodes"
        )
    log.info("run %s", cell.name)
    parameters = preflight(cell.config, here=not cfg.plan)
    entries = survey([cell], root, {cell.identity: parameters}, guess=cfg.plan)
    if cfg.plan:
        log.info("%s", "\n".join(table(entries, rerun)))
        return None
    for line in told_of_code(entries, rerun):
        log.warning("%s", line)
    prepare_data(cell.config)
    restart(entries, rerun)
    directory = cell.create(root, sweep=None, command=typed_command(sys.argv))
    if Ranks.here().rank > 0:  # rank 0 speaks for all
        train(directory, lambda update: None)
        return None
    medians, left = _finish(cell, directory, root)
    if directory.result is None:
        log.info("%s: %s", left.state, left.message)
        return None
    decisive = str(cell.config["engine"]["metric"])
    _tell(directory.result, decisive, medians)
    return float(directory.result["metrics"][decisive])


def _finish(cell: Cell, directory: RunDirectory, root: Path) -> tuple[dict[str, float], Outcome]:
    """Train the run here or on SLURM, unless it is finished, and mirror it.

    Returns:
        Metrics of the Median on one's own data, and how the run stands.
    """
    outcome = Outcome(schema.FINISHED)
    alone = num_ranks(cell.config) == Ranks.here().size == 1
    baselines = baselines_of([cell]) if alone else []
    others = [(one.find(root) or root / one.name).name for one in baselines]
    with mirror(cell.config["tracking"], root, Scope([directory.name, *others])):
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
        medians = _medians(baselines, root) if directory.result is not None else {}
    return medians, outcome


def _tell(result: Mapping[str, Any], decisive: str, medians: Mapping[str, float]) -> None:
    """Log what was measured, beside the Median's numbers where there are any."""
    for name, value in result["metrics"].items():
        split, _, metric = name.partition("/")
        if schema.whole_of(split) != split and name != decisive:
            continue  # kinds of frames are in the report
        if metric in (decisive.partition("/")[2], *SHOWN):
            beside = f"   (Median {medians[name]:.5f})" if name in medians else ""
            log.info("%-30s %.5f %s%s", name, value, SHOWN.get(metric, ""), beside)
    for name, value in (result.get("throughput") or {}).items():
        log.info("%-30s %.1f", name, value)


def _medians(baselines: Sequence[Cell], root: Path) -> dict[str, float]:
    """Metrics of the Median on one's own data, which is made where there is none."""
    found: dict[str, float] = {}
    for baseline in baselines:
        directory = baseline.create(root, None, typed_command(sys.argv))
        if directory.result is None:
            log.info("Median on the same data, to compare with: %s", directory.path.name)
            train(directory, lambda update: None)
        found |= (directory.result or {}).get("metrics", {})
    return found


def _train_in_foreground(directory: RunDirectory, ranks: int) -> None:
    from atomsweep.launch.local.pool import followed

    started = Ranks.here().size  # by torchrun, perhaps
    others: AbstractContextManager[None] = nullcontext()
    if ranks > started:
        others = followed(directory, job, ranks, warm_up(None).context)
    try:
        with progress_bar(directory.path.name) as show, others:
            train(directory, lambda update: show(directory.status))
    except Exception as error:
        if not _says_enough(error):
            raise
        raise UserError(str(error)) from error


def _says_enough(error: BaseException) -> bool:
    """Whether the message alone says what to do, so that no traceback is needed."""
    from atomsweep.engine.events import NotFiniteError
    from atomsweep.engine.signals import Interrupted

    told = (ValueError, OSError, UserError, RunLocked, NotFiniteError, Interrupted, RankLost)
    return isinstance(error, told)
