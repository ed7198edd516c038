"""Config → objects → result: the only module that knows all rooms.

Heavy rooms are imported where they are used: planning and `--help` start without torch.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atomsweep.build import UserError, build
from atomsweep.console import progress_bar, to_file, to_terminal
from atomsweep.sweep.plan import Cell, Plan
from atomsweep.sweep.slurm_settings import slurm_settings
from atomsweep.tracking import schema
from atomsweep.tracking.environment import cpu_name
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
WELL = (schema.FINISHED, schema.QUEUED, schema.RUNNING)  # the last two are left to SLURM
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key

# From a composed config to a cell


def cell_of(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> Cell:
    """The cell that a composed config stands for. Needs no torch and touches no data.

    Raises:
        UserError: a choice that the model cannot use, a missing value, a data set not found.
    """
    chosen = {group: str(option) for group, option in choices.items() if "/" not in group}
    chosen = {group: option for group, option in chosen.items() if option != "None"}
    try:
        config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]),
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
    return Cell(config=config, choices=chosen, overrides=tuple(overrides), data=data)


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


def preflight(config: Mapping[str, Any]) -> int:
    """Build everything that a run needs, the model without memory for its weights.

    Returns:
        Number of trainable parameters; 0 where nothing could be built, on a login node without
        torch.

    Raises:
        UserError: something is unknown, of the wrong type, or does not fit together.
    """
    settings = slurm_settings(config)
    if settings is not None and settings.nodes * settings.ranks > 1:
        raise UserError(
            f"a cell trains in one process, but cluster asks for {settings.nodes} nodes × "
            f"{settings.ranks} ranks; set cluster.nodes=1 and cluster.ranks=1"
        )
    if settings is not None and find_spec("torch") is None:
        return 0
    import torch

    parts = {name: build(config[name], name) for name in PARTS if name != "model"}
    with torch.device("meta"):
        model: ForceField = build(config["model"], "model")
    trainer: Trainer = parts["engine"]
    device = torch.device(trainer.device)
    here = settings is None  # a login node has no GPU
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
        The value of `engine.metric` of the best checkpoint; None for a run left to SLURM.

    Raises:
        UserError: the run cannot start, or it failed for a reason that it names.
    """
    from hydra.core.hydra_config import HydraConfig

    from atomsweep.tracking.mirror import mirror

    hydra = HydraConfig.get()
    to_terminal()
    cell = cell_of(cfg, hydra.runtime.choices, list(hydra.overrides.task))
    root = Path(cell.config["root"]).absolute()
    log.info("run %s", cell.name)
    preflight(cell.config)
    prepare_data(cell.config)
    directory = cell.create(root, sweep=None, command=command())
    with mirror(cell.config["tracking"], root):
        if directory.state() == schema.FINISHED:
            log.info("already finished, not run again: %s", directory.path)
        else:
            log.info("run directory: %s", directory.path)
            if slurm_settings(cell.config) is None:
                _train_in_foreground(directory)
            else:
                outcome = _execute([directory], cell.config, None)[directory.path]
                if outcome.state not in WELL:
                    raise UserError(outcome.message)
    result = directory.result
    if result is None:
        log.info("%s: %s", outcome.state, outcome.message)
        return None
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


def run_sweep(cells: Sequence[Cell], axes: Mapping[str, Sequence[str]]) -> int:
    """Check every cell, then run those that are not finished, in parallel on this machine.

    Returns:
        Exit code: 0 if every cell is finished, 1 if one is not, 130 after an interrupt.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read; nothing has been run.
    """
    from concurrent.futures import ProcessPoolExecutor

    from atomsweep.sweep.pool import fork_server
    from atomsweep.tracking.mirror import mirror

    first = cells[0].config
    root = Path(first["root"]).absolute()
    plan = Plan.of(cells, axes, command(), first["sweep"])
    context = fork_server(PRELOAD)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for cell, problem in zip(
            plan.cells, executor.map(_problem, [cell.config for cell in plan.cells]), strict=True
        ):
            if problem is not None:
                raise UserError(f"{' '.join(cell.overrides)}: {problem}")
        for config in {cell.data["fingerprint"]: cell.config for cell in plan.cells}.values():
            executor.submit(prepare_data, config).result()
    runs = [cell.create(root, plan.sweep, plan.command) for cell in plan.cells]
    plan.save(root)
    done = sum(run.state() == schema.FINISHED for run in runs)
    log.info("sweep %s: %d cells, %d finished", plan.sweep, len(runs), done)
    with mirror(first["tracking"], root):
        try:
            outcomes = _execute(runs, first, context)
        except KeyboardInterrupt:
            log.info("stopped; the same command continues")
            return 130
    metric = first["engine"]["metric"]
    width = max(len(run.path.name) for run in runs)
    for run in runs:
        outcome = outcomes[run.path]
        told = outcome.message
        if result := run.result:
            told = f"{metric} {result['metrics'][metric]:.5f}"
        log.info("%-*s  %-11s  %s", width, run.path.name, outcome.state, told)
    return int(any(outcome.state not in WELL for outcome in outcomes.values()))


def _execute(
    runs: Sequence[RunDirectory], config: Mapping[str, Any], context: "ForkServerContext | None"
) -> "dict[Path, Outcome]":
    """Run the cells where `cluster` says, and tell how each ended."""
    from atomsweep.sweep.display import sweep_display
    from atomsweep.sweep.pool import run_cells, slots

    if (settings := slurm_settings(config)) is not None:
        from atomsweep.sweep.slurm import run_cells_on_slurm

        return run_cells_on_slurm(runs, slurm_job, settings, sweep_display())
    assert context is not None
    cluster, engine = config["cluster"], config["engine"]
    parallel = slots(cluster["parallel"], engine["threads"], engine["device"])
    log.info("%d at a time on this machine", parallel)
    return run_cells(runs, job, parallel, engine["device"], context, sweep_display())


def _problem(config: Mapping[str, Any]) -> str | None:
    try:
        preflight(config)
    except UserError as error:
        return str(error)
    return None


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


def slurm_job(path: str) -> None:
    """Train the run in directory `path` inside a job of SLURM."""
    from atomsweep.sweep.slurm_job import attend

    attend(job, path)


def train(directory: RunDirectory, on_update: "Callable[[Update], None]") -> None:
    """Train a run to its end, from its newest checkpoint; its state is written whatever happens.

    Raises:
        RunLocked: another process works on this run.
        Interrupted: a signal came; the checkpoint is written.
        Exception: whatever made the run fail, after it has been recorded.
    """
    from atomsweep.engine.signals import Interrupted, stop_on_signals

    with directory.lock(), to_file(directory.path / schema.LOG):
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
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
