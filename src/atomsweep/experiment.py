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
from atomsweep.console import to_file
from atomsweep.sweep.plan import Cell
from atomsweep.sweep.slurm_settings import slurm_settings
from atomsweep.tracking import schema
from atomsweep.tracking.environment import cpu_name
from atomsweep.tracking.run import RunDirectory, RunLocked

if TYPE_CHECKING:
    from atomsweep.data.base import DataSource
    from atomsweep.data.batching import GraphDataset
    from atomsweep.engine.trainer import Trainer, Update
    from atomsweep.models.base import ForceField

log = logging.getLogger(__name__)

PARTS = ("model", "task", "augmentation", "optim", "engine")  # built, in this order
LAUNCH = ("hydra", "scale", "plan", "rerun", "search")  # keys of a launch, not of a run
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
    except (ValueError, OSError, ImportError) as error:
        raise UserError(str(error)) from error


def preflight(config: Mapping[str, Any], here: bool = True) -> int:
    """Build everything that a run needs, the model without memory for its weights.

    Args:
        config: of the run.
        here: it is to run on this machine, so its device must be there.

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
    here = here and settings is None  # a login node has no GPU
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


# What a process does


def job(path: str) -> None:
    """Train the run in directory `path`, then evaluate it: what a process of a sweep calls."""
    from atomsweep.engine.signals import Interrupted
    from atomsweep.evaluations.runner import evaluate_wanted

    try:
        train(RunDirectory(Path(path)), lambda update: None)
        evaluate_wanted(RunDirectory(Path(path)))
    except (Interrupted, RunLocked) as error:
        log.info("%s", error)
        if RunDirectory(path).state() != schema.PRUNED:
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
        if directory.result is not None:  # another launch was faster
            return
        try:
            with stop_on_signals(directory.path / schema.STOP) as stop:
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


def _device_name(device: str) -> str:
    import torch

    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu ({cpu_name()})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
