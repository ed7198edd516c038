"""Config → objects → result: the only module that knows all rooms.

Heavy rooms are imported where they are used: planning and `--help` start without torch.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atomsweep.build import UserError, build, build_learner, check_device
from atomsweep.console import to_file
from atomsweep.engine.ranks import LOST, RankLost, Ranks
from atomsweep.sweep.file import key_of
from atomsweep.sweep.plan import Cell
from atomsweep.sweep.pool import visible_gpus
from atomsweep.sweep.slurm_settings import slurm_settings
from atomsweep.tracking import schema
from atomsweep.tracking.identity import measured
from atomsweep.tracking.run import RunDirectory, RunLocked

if TYPE_CHECKING:
    from atomsweep.data.base import DataSource
    from atomsweep.data.batching import GraphDataset
    from atomsweep.engine.distributed import World
    from atomsweep.engine.optim import Recipe
    from atomsweep.engine.signals import StopFlag
    from atomsweep.engine.trainer import Trainer, Update
    from atomsweep.models.base import ForceField
    from atomsweep.tasks.base import Task

log = logging.getLogger(__name__)

PARTS = ("augmentation", "optim", "engine")  # built beside model and task
LAUNCH = ("hydra", "scale", "plan", "rerun", "search")  # keys of a launch, not of a run
AXES = ("basis", "act")  # parts of a model: refused where its file has no such key

# From a composed config to a cell


def cell_of(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    label: str | None = None,
    axes: Iterable[str] = (),
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
    config["size"] = {}  # what it chose stands in the model
    _check_numbers(config)
    _check_axes(config, chosen, {key_of(override).partition(".")[0] for override in overrides})
    _choose_device(config)
    _ask_for_denoising(config)
    source = data_source(config)
    try:
        data = {
            "name": chosen.get("data", source.name),
            "fingerprint": source.fingerprint(),
            "provenance": source.provenance.as_dict(),
        }
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return Cell(config, chosen, tuple(overrides), data, label, measured(config, axes))


def _check_axes(config: dict[str, Any], chosen: dict[str, str], typed: Collection[str]) -> None:
    """A basis or activation that the model does not take is refused, or `none` if nobody asked."""
    for axis in AXES:
        if axis in config["model"] or chosen.get(axis, "none") == "none":
            continue
        if axis in typed:
            raise UserError(
                f"model={chosen['model']} has no {axis}, so {axis}={chosen[axis]} would change "
                f"nothing; leave {axis} out or choose {axis}=none"
            )
        config[axis], chosen[axis] = None, "none"


def _check_numbers(config: Mapping[str, Any]) -> None:
    """What no signature checks, in time: cells that differ by seed alone are built once."""
    cluster = config["cluster"]
    wrong = {"seed": config["seed"]} if type(config["seed"]) is not int else {}
    for key in ("ranks", "nodes", "parallel"):
        value = cluster.get(key)
        if value is None and (key == "parallel" or key not in cluster):
            continue
        if type(value) is not int or value < 1:
            wrong[f"cluster.{key}"] = value
    for key, value in wrong.items():
        least = "" if key == "seed" else " of at least 1"
        or_null = " or null" if key == "cluster.parallel" else ""
        raise UserError(f"{key} must be a whole number{least}{or_null}, got {value!r}")


def _choose_device(config: dict[str, Any]) -> None:
    """`auto` is a CUDA device where cells of this launch get one, else the CPU; needs no torch."""
    if config["engine"].get("device") == "auto":
        gpus = config["cluster"].get("gpus", len(visible_gpus()))
        config["engine"]["device"] = "cuda" if gpus else "cpu"


def _ask_for_denoising(config: dict[str, Any]) -> None:
    """`dens=` sets the switches of a model that is built with or without parts for it."""
    dens, model = config.get("dens"), config["model"]
    if dens is None:
        return
    for switch, wanted in (("dens", True), ("sigma_encoding", dens.get("sigma_encoding"))):
        if wanted and switch in model:
            model[switch] = True


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
    ranks = num_ranks(config)
    if settings is not None and find_spec("torch") is None:
        return 0
    import torch

    from atomsweep.engine.devices import missing_backend, refusal

    parts = {name: build(config[name], name) for name in PARTS}
    with torch.device("meta"):
        model: ForceField
        task: Task
        model, task = build_learner(config)
    trainer: Trainer = parts["engine"]
    if here and settings is None:  # a login node has no GPU
        check_device(trainer.device, "engine.device", "engine=cpu")
        if ranks > 1 and (problem := missing_backend(torch.device(trainer.device))) is not None:
            raise UserError(problem)
    recipe: Recipe = parts["optim"]
    if recipe.batch_size // recipe.accumulate < ranks:
        raise UserError(
            f"optim.batch_size={recipe.batch_size} is that of all ranks, and in "
            f"optim.accumulate={recipe.accumulate} micro-batches it does not give each of {ranks} "
            "ranks a structure; use fewer ranks or a larger batch"
        )
    dens = config.get("dens") is not None
    if (problem := refusal(trainer, model, dens, ranks)) is not None:
        raise UserError(problem)
    if settings is not None and trainer.device == "cuda" and 0 < settings.gpus < settings.ranks:
        raise UserError(
            f"each rank trains on a GPU of its own, but a node of cluster.ranks={settings.ranks} "
            f"has cluster.gpus={settings.gpus}; make them equal"
        )
    source = data_source(config)
    wanted = {schema.TRAIN, *trainer.eval_splits}
    if missing := sorted(wanted - set(source.splits())):
        raise UserError(
            f"the data set has no split {missing[0]}; it has "
            f"{', '.join(source.splits())}: set engine.eval_splits and engine.metric"
        )
    _check_labels(task, source)
    metric = trainer.metric.partition("/")[2]
    if task.metric_names and metric not in task.metric_names:
        raise UserError(
            f"engine.metric is {trainer.metric}, and {type(task).__name__} measures "
            f"{', '.join(task.metric_names)}; set metric to one of these"
        )
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _check_labels(task: "Task", source: "DataSource") -> None:
    """Refuse data that do not carry what the task learns, as far as that is known unread.

    Raises:
        UserError: names the label, or says whose energy the data have.
    """
    name, there = type(task).__name__, source.label_names()
    lacking = sorted(set(task.labels) - there) if there is not None else []
    if lacking:
        raise UserError(
            f"{name} learns {' and '.join(task.labels)}, and structures of {source.name} carry no "
            f"{lacking[0]}; choose another task or other data"
        )
    if source.relaxed_energy is task.relaxed_energy or "energy" not in task.labels:
        return
    if source.relaxed_energy is None:
        if not task.relaxed_energy:
            return
        raise UserError(
            f"{name} learns the energy of the relaxed structure from the initial one, and nothing "
            f"tells whose energies {source.name} has; set data.relaxed_energy=true if they are "
            "those of the relaxed structures"
        )
    if task.relaxed_energy:
        raise UserError(
            f"{name} learns the energy of the relaxed structure from the initial one, and "
            f"{source.name} has frames with their own energies; choose data=mini_oc_is2re or other "
            "IS2RE data"
        )
    raise UserError(
        f"{name} learns the energy of the structure itself, and {source.name} has that of the "
        "relaxed one; choose task=is2re"
    )


# What a process does


def job(path: str) -> None:
    """Train the run in directory `path`, then evaluate it: what a process of a sweep calls."""
    from atomsweep.engine.signals import Interrupted
    from atomsweep.evaluations.runner import evaluate_wanted

    try:
        train(RunDirectory(Path(path)), lambda update: None)
        if Ranks.here().rank == 0:  # the others have nothing to write
            evaluate_wanted(RunDirectory(Path(path)))
    except (Interrupted, RunLocked) as error:
        log.info("%s", error)
        if RunDirectory(path).state() != schema.PRUNED:
            sys.exit(1)
    except RankLost as error:
        log.warning("%s", error)
        sys.exit(LOST)
    except Exception:
        traceback.print_exc()  # into the run's log; the run directory knows the message already
        sys.exit(1)


def slurm_job(path: str) -> None:
    """Train the run in directory `path` inside a job of SLURM."""
    from atomsweep.sweep.slurm_job import attend

    attend(job, path)


def train(directory: RunDirectory, on_update: "Callable[[Update], None]") -> None:
    """Train a run to its end, from its newest checkpoint; its state is written whatever happens.

    Many processes that were started for one run (`Ranks.here`) each call this. Rank 0 has the lock
    and writes; the others follow it.

    Raises:
        RunLocked: another process works on this run.
        Interrupted: a signal came; the checkpoint is written.
        RankLost: one of the processes is gone without a word.
        Exception: whatever made the run fail, after it has been recorded.
    """
    from atomsweep.engine.signals import Interrupted

    ranks = Ranks.here()
    if ranks.rank > 0:
        _follow(directory, ranks)
        return
    with directory.lock(), to_file(directory.path / schema.LOG):
        if directory.result is not None:  # another launch was faster
            return
        try:
            _train_locked(directory, ranks, on_update)
        except (Interrupted, RankLost) as error:
            directory.interrupt(str(error))
            raise
        except BaseException as error:
            directory.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
            raise


def _follow(directory: RunDirectory, ranks: Ranks) -> None:
    """What a rank other than the first does: the same, but it writes nothing."""
    from atomsweep.engine.signals import Interrupted

    class Done(Exception):
        """The run was finished before this start."""

    def check() -> None:
        if directory.result is not None:
            raise Done

    try:
        with _joined(directory, ranks, check) as (stop, world):
            _fit(directory, world, stop, lambda update: None)
    except Done:
        return
    except Interrupted as error:  # rank 0 says so
        log.info("rank %d: %s", ranks.rank, error)


def _train_locked(
    directory: RunDirectory, ranks: Ranks, on_update: "Callable[[Update], None]"
) -> None:
    with _joined(directory, ranks, lambda: None) as (stop, world):
        result = _fit(directory, world, stop, on_update)
    directory.finish(result)


@contextmanager
def _joined(
    directory: RunDirectory, ranks: Ranks, check: Callable[[], None]
) -> "Iterator[tuple[StopFlag, World]]":
    """Signal handlers and the other ranks, which are left behind where a signal has come."""
    import torch

    from atomsweep.engine.devices import local_device
    from atomsweep.engine.distributed import join
    from atomsweep.engine.signals import Interrupted, stop_on_signals

    config = directory.config()
    torch.set_num_threads(config["engine"]["threads"])
    with stop_on_signals(directory.path / schema.STOP) as stop:

        def look() -> None:
            check()
            if stop:
                raise Interrupted(f"stopped by {stop.signal} before its first step")

        device = local_device(config["engine"]["device"], ranks.local_rank)
        try:
            with join(ranks, directory.path, device, look) as world:
                yield stop, world
        except RankLost as error:
            if stop:  # the signal came to all of them, to some before they were at work
                raise Interrupted(f"stopped by {stop.signal}: {error}") from error
            raise


def _fit(
    directory: RunDirectory,
    world: "World",
    stop: "StopFlag",
    on_update: "Callable[[Update], None]",
) -> dict[str, Any]:
    import torch

    from atomsweep.engine.seeds import Purpose, mix
    from atomsweep.trained import device_name

    config = directory.config()
    torch.manual_seed(mix(config["seed"], Purpose.INITIALISE))
    model: ForceField
    model, task = build_learner(config)
    trainer: Trainer = build(config["engine"], "engine")
    device = device_name(torch.device(trainer.device))
    if world.first:
        directory.update_status(state=schema.RUNNING, message=None, total_steps=trainer.steps)
        directory.write_environment(device=device)
    data = open_data(config, model)
    if world.first:
        directory.start_segment(device=device, world_size=world.size)

    def tell(update: "Update") -> None:
        if not world.first:
            return
        names = (f"{schema.TRAIN}/{schema.LOSS}", trainer.metric)
        directory.update_status(
            state=schema.RUNNING,
            step=update.step,
            fraction=update.fraction,
            seconds_left=update.seconds_left,
            values={name: update.values[name] for name in names if name in update.values},
        )
        on_update(update)

    return trainer.fit(
        model,
        task,
        build(config["optim"], "optim"),
        data,
        build(config["augmentation"], "augmentation"),
        directory,
        config["seed"],
        stop,
        tell,
        world,
    )


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


def num_ranks(config: Mapping[str, Any]) -> int:
    """Processes that train one run together: as the cluster says, or as torchrun has started."""
    started = Ranks.here().size
    if started > 1:
        return started
    cluster = config["cluster"]
    return int(cluster.get("nodes", 1)) * int(cluster.get("ranks", 1))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
