"""Cells where `cluster` says: in processes of this machine, or as jobs of SLURM."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.build import UserError
from atomsweep.engine.ranks import num_ranks
from atomsweep.launch import snapshot
from atomsweep.launch.outcome import Feed, Outcome
from atomsweep.launch.plan import Cell
from atomsweep.launch.slurm.settings import slurm_settings
from atomsweep.processes import out_of_reach
from atomsweep.tracking.files import told
from atomsweep.tracking.identity import canonical
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.train import job

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

log = logging.getLogger(__name__)

# Imported once by the process that cells of a sweep are forked from
PRELOAD = (
    "torch",
    "torch_geometric.data",
    "atomsweep.engine.fit",
    "atomsweep.data.batches.graphs",
    "atomsweep.worker.train",
    "atomsweep.worker.evaluate.runner",
    "pydantic",  # which holds arguments against signatures
    "atomsweep.worker.before_fork",
)


@dataclass(frozen=True)
class Start:
    """Where the processes of a launch come from.

    Attributes:
        context: a fork server that imports what every cell needs.
        code: the snapshot that they load; None for a plan, which trains nothing.
    """

    context: "ForkServerContext"
    code: snapshot.Snapshot | None


def warm_up(root: Path | None) -> Start:
    """Begin to import what every cell needs, in the process that they are forked from.

    Args:
        root: where runs are, and the snapshot of the code; None copies none.

    Raises:
        UserError: the snapshot cannot be written, or no process can be started.
    """
    from multiprocessing.forkserver import ensure_running

    from atomsweep.launch.local.pool import fork_server

    code = None if root is None else snapshot.use(root)
    context = fork_server(PRELOAD)
    try:
        with out_of_reach():
            ensure_running()
    except OSError as error:
        raise UserError(
            f"no process can be started, which needs a little room for temporary files: "
            f"{told(error)}; TMPDIR=<directory> chooses where"
        ) from error
    return Start(context, code)


def execute(
    runs: Sequence[RunDirectory],
    config: Mapping[str, Any],
    start: Start | None,
    feed: "Feed | None" = None,
) -> "dict[Path, Outcome]":
    """Run the cells where `cluster` says, and what `feed` adds; tell how each ended."""
    from atomsweep.launch.display import sweep_display
    from atomsweep.launch.local.pool import run_cells, slots

    if (settings := slurm_settings(config)) is not None:
        from atomsweep.launch.slurm.job import slurm_job
        from atomsweep.launch.slurm.jobs import run_cells_on_slurm

        code = start.code if start is not None else None
        return run_cells_on_slurm(runs, slurm_job, settings, sweep_display(), feed, code)
    assert start is not None
    cluster, engine = config["cluster"], config["engine"]
    ranks = num_ranks(config)
    parallel = slots(cluster["parallel"], engine["threads"], engine["device"], ranks)
    each = f", {ranks} ranks each" if ranks > 1 else ""
    log.info("%d at a time on this machine%s", parallel, each)
    return run_cells(
        runs, job, parallel, engine["device"], start.context, sweep_display(), feed, ranks
    )


def room(config: Mapping[str, Any]) -> int:
    """Runs at once where `cluster` says: as many as this machine or the array of SLURM takes."""
    from atomsweep.launch.local.pool import slots

    if (settings := slurm_settings(config)) is not None:
        return settings.array_parallelism
    cluster, engine = config["cluster"], config["engine"]
    return slots(cluster["parallel"], engine["threads"], engine["device"], num_ranks(config))


def placed(
    cells: Sequence[Cell], runs: Sequence[RunDirectory], wanted: Sequence[RunDirectory]
) -> list[tuple[Mapping[str, Any], list[RunDirectory]]]:
    """What is wanted, for each way of running it: with so many ranks, threads, on such a device.

    Cells whose speed is measured run one at a time, unless `cluster.parallel` says otherwise.

    Args:
        cells: all of them.
        runs: theirs, in the same order.
        wanted: some of `runs`, in the order in which they are to begin.
    """
    groups: dict[str, tuple[Mapping[str, Any], list[RunDirectory]]] = {}
    ways: dict[Path, str] = {}
    for cell, run in zip(cells, runs, strict=True):
        config = cell.config
        if cell.measured and config["cluster"].get("parallel", 1) is None:
            config = {**config, "cluster": {**config["cluster"], "parallel": 1}}
        way = canonical(
            [config["cluster"], config["engine"]["threads"], config["engine"]["device"]]
        )
        groups.setdefault(way, (config, []))
        ways[run.path] = way
    for run in wanted:
        groups[ways[run.path]][1].append(run)
    return [group for group in groups.values() if group[1]]
