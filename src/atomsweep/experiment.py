"""Config → objects → result: the only module that knows all rooms.

Heavy rooms are imported where they are used: planning and `--help` start without torch.
"""

import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atomsweep.build import UserError, build
from atomsweep.console import progress_bar, to_file, to_terminal
from atomsweep.sweep.file import key_of
from atomsweep.sweep.grid import Grid
from atomsweep.sweep.plan import Cell, Plan
from atomsweep.sweep.survey import Entry, check_rerun, restart, summary, survey, table
from atomsweep.tracking import schema
from atomsweep.tracking.environment import cpu_name
from atomsweep.tracking.identity import canonical
from atomsweep.tracking.mirror import mirror
from atomsweep.tracking.run import RunDirectory, RunLocked

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from atomsweep.data.base import DataSource
    from atomsweep.data.batching import GraphDataset
    from atomsweep.engine.trainer import Trainer, Update
    from atomsweep.models.base import ForceField
    from atomsweep.sweep.pool import Outcome

log = logging.getLogger(__name__)

# Imported once by the process that cells of a sweep are forked from
PRELOAD = (
    "torch",
    "torch_geometric.data",
    "atomsweep.engine.trainer",
    "atomsweep.data.batching",
    "atomsweep.experiment",
)
PARTS = ("model", "task", "augmentation", "optim", "engine")  # built, in this order
LAUNCH = ("hydra", "scale", "plan", "rerun")  # keys of a launch, not of a run
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key

# From a composed config to a cell


def cell_of(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    label: str | None = None,
) -> Cell:
    """The cell that a composed config stands for. Needs no torch and touches no data.

    Raises:
        UserError: a choice that the model cannot use, a missing value, a data set not found.
    """
    chosen = {group: str(option) for group, option in choices.items() if "/" not in group}
    chosen = {group: option for group, option in chosen.items() if option != "None"}
    try:
        config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in LAUNCH]),
            resolve=True,
            throw_on_missing=True,
        )
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {_first_line(error)}") from error
    for axis in AXES:
        if chosen.get(axis, "none") != "none" and axis not in config["model"]:
            raise UserError(
                f"model={chosen['model']} has no {axis}, so {axis}={chosen[axis]} would change "
                f"nothing; leave {axis} out or choose {axis}=none"
            )
    source = data_source(config)
    try:
        data = {
            "name": chosen.get("data", source.name),
            "fingerprint": source.fingerprint(),
            "provenance": source.provenance.as_dict(),
        }
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return Cell(config, chosen, tuple(overrides), data, label)


def data_source(config: Mapping[str, Any]) -> "DataSource":
    """The data set of a config.

    Raises:
        UserError: an argument is unknown, of the wrong type, or refused by the data set.
    """
    return build(config["data"], "data")


def prepare_data(config: Mapping[str, Any]) -> None:
    """Make or check the data set, once for all cells that share it.

    Raises:
        UserError: the data cannot be read or made.
    """
    try:
        source = data_source(config)
        source.prepare()
        for split in source.splits():
            source.split(split)  # what cannot be held out is found here, not in a run
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def preflight(config: Mapping[str, Any], here: bool = True) -> int:
    """Build everything that a run needs, the model without memory for its weights.

    Args:
        config: of the run.
        here: it is to run on this machine, so its device must be there.

    Returns:
        Number of trainable parameters.

    Raises:
        UserError: something is unknown, of the wrong type, or does not fit together.
    """
    import torch

    parts = {name: build(config[name], name) for name in PARTS if name != "model"}
    with torch.device("meta"):
        model: ForceField = build(config["model"], "model")
    trainer: Trainer = parts["engine"]
    device = torch.device(trainer.device)
    if here and device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device is cuda, but torch sees no CUDA device; choose engine=cpu")
    if config.get("dens") is not None and not model.supports_dens:
        raise UserError(f"{type(model).__name__} cannot encode forces; choose dens=none")
    wanted = {schema.TRAIN, *trainer.eval_splits}
    if missing := sorted(wanted - set(data_source(config).splits())):
        raise UserError(
            f"the data set has no split {missing[0]}; it has "
            f"{', '.join(data_source(config).splits())}: set engine.eval_splits and engine.metric"
        )
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# One run


def run(cfg: DictConfig) -> float | None:
    """Train the run that `cfg` stands for, or continue it, or say that it is done.

    Returns:
        The value of `engine.metric` of the best checkpoint; None where only a plan was asked for.

    Raises:
        UserError: the run cannot start, or it failed for a reason that it names.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    to_terminal()
    rerun = check_rerun(cfg.rerun)
    typed = [o for o in hydra.overrides.task if key_of(o) not in LAUNCH]
    cell = cell_of(cfg, hydra.runtime.choices, typed)
    root = Path(cell.config["root"]).absolute()
    parameters = preflight(cell.config, here=not cfg.plan)
    entries = survey([cell], root, {cell.identity: parameters})
    if cfg.plan:
        _say(table(entries, rerun))
        return None
    prepare_data(cell.config)
    _restart(entries, rerun)
    directory = cell.create(root, sweep=None, command=command())
    with mirror(cell.config["tracking"], root):
        if directory.state() == schema.FINISHED:
            log.info("already finished, not run again: %s", directory.path)
        else:
            log.info("run directory: %s", directory.path)
            _train_in_foreground(directory)
    result = directory.result
    assert result is not None
    for name, value in result["metrics"].items():
        if name.endswith(schema.FORCES_MAE):
            log.info("%-28s %.5f", name, value)
    return float(result["metrics"][cell.config["engine"]["metric"]])


def _train_in_foreground(directory: RunDirectory) -> None:
    try:
        with progress_bar(directory.path.name) as show:
            train(directory, lambda update: show(directory.status))
    except Exception as error:
        if not _says_enough(error):
            raise
        raise UserError(str(error)) from error


# Many runs


def warm_up() -> "ForkServerContext":
    """Begin to import what every cell needs, in the process that they are forked from."""
    from multiprocessing.forkserver import ensure_running

    from atomsweep.sweep.pool import fork_server

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
    from atomsweep.sweep.launcher import launching
    from atomsweep.sweep.pool import outcome_of

    first = cells[0].config
    root = Path(first["root"]).absolute()
    plan = Plan.of(cells, grid, sys.argv, first["sweep"])
    log.info("sweep %s: %d cells", plan.sweep, len(plan.cells))
    parameters = _check_all(plan.cells, context, here=not plan_only)
    entries = survey(plan.cells, root, parameters)
    if plan_only:
        _say(table(entries, rerun))
        return 0
    log.info("%s", summary(entries, rerun))
    with launching(root, plan.sweep):
        _restart(entries, rerun)
        runs = [cell.create(root, plan.sweep, plan.command) for cell in plan.cells]
        plan.save(root, parameters)
        wanted = [run for run, entry in zip(runs, entries, strict=True) if entry.wanted(rerun)]
        with mirror(first["tracking"], root):
            try:
                outcomes = _execute(wanted, first, context)
            except KeyboardInterrupt:
                log.info("stopped; the same command continues")
                return 130
    metric = first["engine"]["metric"]
    width = max(len(run.path.name) for run in runs)
    finished = True
    for run in runs:
        outcome = outcomes.get(run.path) or outcome_of(run)
        told = outcome.message
        if result := run.result:
            told = f"{metric} {result['metrics'][metric]:.5f}"
        log.info("%-*s  %-11s  %s", width, run.path.name, outcome.state, told)
        finished &= outcome.state == schema.FINISHED
    return int(not finished)


def _execute(
    runs: Sequence[RunDirectory], config: Mapping[str, Any], context: "ForkServerContext"
) -> "dict[Path, Outcome]":
    """Run the cells where `cluster` says, and tell how each ended."""
    from atomsweep.sweep.display import sweep_display
    from atomsweep.sweep.pool import run_cells, slots

    cluster, engine = config["cluster"], config["engine"]
    parallel = slots(cluster["parallel"], engine["threads"], engine["device"])
    log.info("%d at a time on this machine", parallel)
    return run_cells(runs, job, parallel, engine["device"], context, sweep_display())


def _check_all(cells: Sequence[Cell], context: "ForkServerContext", here: bool) -> dict[str, int]:
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
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        checked = executor.map(_check, [(cell.config, here) for cell in examples.values()])
        for (kind, cell), (size, problem) in zip(examples.items(), checked, strict=True):
            if problem is not None:
                raise UserError(f"{' '.join(cell.overrides)}: {problem}")
            sizes[kind] = size
        if here:
            for config in {cell.data["fingerprint"]: cell.config for cell in cells}.values():
                executor.submit(prepare_data, config).result()
    return {identity: sizes[kind] for identity, kind in kinds.items()}


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


# What a process does


def job(path: str) -> None:
    """Train the run in directory `path`: what a process of a sweep or a queued job calls."""
    from atomsweep.engine.signals import Interrupted

    try:
        train(RunDirectory(Path(path)), lambda update: None)
    except (Interrupted, RunLocked) as error:
        log.info("%s", error)
        sys.exit(1)
    except Exception:
        traceback.print_exc()  # into the run's log; the run directory knows the message already
        sys.exit(1)


def train(directory: RunDirectory, on_update: "Callable[[Update], None]") -> None:
    """Train a run to its end, from its newest checkpoint; its state is written whatever happens.

    Raises:
        RunLocked: another process works on this run.
        Interrupted: a signal came; the checkpoint is written.
        Exception: whatever made the run fail, after it has been recorded.
    """
    from atomsweep.engine.signals import Interrupted, stop_on_signals

    with directory.lock(), to_file(directory.path / schema.LOG):
        if directory.result is not None:  # another launch was faster
            return
        try:
            with stop_on_signals() as stop:
                _train_locked(directory, stop, on_update)
        except Interrupted as error:
            directory.interrupt(str(error))
            raise
        except BaseException as error:
            directory.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
            raise


def _train_locked(
    directory: RunDirectory, stop: Any, on_update: "Callable[[Update], None]"
) -> None:
    import torch

    from atomsweep.engine.seeds import Purpose, mix

    config = directory.config()
    torch.manual_seed(mix(config["seed"], Purpose.INITIALISE))
    model: ForceField = build(config["model"], "model")
    trainer: Trainer = build(config["engine"], "engine")
    directory.update_status(state=schema.RUNNING, message=None, total_steps=trainer.steps)
    directory.write_environment(device=_device_name(trainer.device))
    data = open_data(config, model)
    directory.start_segment(device=_device_name(trainer.device), world_size=1)

    def tell(update: "Update") -> None:
        names = (f"{schema.TRAIN}/{schema.LOSS}", trainer.metric)
        directory.update_status(
            state=schema.RUNNING,
            step=update.step,
            fraction=update.fraction,
            seconds_left=update.seconds_left,
            values={name: update.values[name] for name in names if name in update.values},
        )
        on_update(update)

    result = trainer.fit(
        model,
        build(config["task"], "task"),
        build(config["optim"], "optim"),
        data,
        build(config["augmentation"], "augmentation"),
        directory,
        config["seed"],
        stop,
        tell,
    )
    directory.finish(result)


def open_data(config: Mapping[str, Any], model: "ForceField") -> "dict[str, GraphDataset]":
    """Every split of the data set with the graph that `model` asks for, its elements checked.

    Raises:
        ValueError: a structure cannot be read, has no edges, or holds an element that the model
            has no data for; named by split, index and ids.
    """
    from atomsweep.data.batching import GraphDataset
    from atomsweep.graph.neighbors import RadiusGraph

    source = data_source(config)
    source.prepare()
    graph = None if model.cutoff is None else RadiusGraph(model.cutoff, model.max_neighbors)
    unsupported = model.unsupported_elements()
    return {
        split: GraphDataset(
            source.split(split), graph, on_error=source.on_error, unsupported=unsupported
        )
        for split in source.splits()
    }


# Small things


def command() -> str:
    """What the user typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info("%s", line)


def _device_name(device: str) -> str:
    import torch

    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu ({cpu_name()})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _says_enough(error: BaseException) -> bool:
    """Whether the message alone says what to do, so that no traceback is needed."""
    from atomsweep.engine.signals import Interrupted
    from atomsweep.engine.trainer import NotFiniteError

    return isinstance(
        error, (ValueError, OSError, UserError, RunLocked, NotFiniteError, Interrupted)
    )
