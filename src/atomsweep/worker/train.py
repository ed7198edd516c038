"""A run trained from its directory alone: what a process does, here or in a job of SLURM.

Rank 0 has the lock of the directory and writes its state, whatever happens; the others follow it.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomsweep.build import build, build_learner, data_source
from atomsweep.console import to_file
from atomsweep.engine.ranks import LOST, RankLost, Ranks
from atomsweep.tracking import schema
from atomsweep.tracking.files import told
from atomsweep.tracking.run import RunDirectory, RunLocked

if TYPE_CHECKING:
    from atomsweep.data.batches.graphs import GraphDataset
    from atomsweep.engine.distributed import World
    from atomsweep.engine.events import Update
    from atomsweep.engine.signals import StopFlag
    from atomsweep.engine.trainer import Trainer
    from atomsweep.models.base import ForceField

log = logging.getLogger(__name__)


def job(path: str) -> None:
    """Train the run in directory `path`, then evaluate it: what a process of a sweep calls."""
    from atomsweep.engine.signals import Interrupted
    from atomsweep.worker.evaluate.runner import evaluate_wanted

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
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()  # into the run's log
        if Ranks.here().rank == 0:  # the run directory knows the message, if it was at work
            RunDirectory(path).fail_if_idle(error, traceback.format_exc())
        sys.exit(1)


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
            directory.fail(f"{type(error).__name__}: {_words(error)}", traceback.format_exc())
            raise


def _words(error: BaseException) -> str:
    return told(error) if isinstance(error, Exception) else str(error)


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

    from atomsweep.engine.fit import fit
    from atomsweep.engine.seeds import Purpose, mix
    from atomsweep.worker.trained import device_name

    config = directory.config()
    torch.manual_seed(mix(config["seed"], Purpose.INITIALISE))
    model: ForceField
    model, task = build_learner(config)
    trainer: Trainer = build(config["engine"], "engine")
    if trainer.compile != "none":
        from atomsweep.engine.compiled import compile_into

        compile_into(directory.path.parent / schema.COMPILED, trainer)
    device = device_name(torch.device(trainer.device))
    if world.first:
        directory.update_status(state=schema.RUNNING, message=None, total_steps=trainer.steps)
        directory.write_environment(device=device)
    with stop.at_once():
        data = open_data(config, model, trainer.cache_gib)
    if world.first:
        directory.start_segment(device=device, world_size=world.size)

    def tell(update: "Update") -> None:
        if not world.first:
            return
        names = (trainer.metric, f"{schema.TRAIN}/{schema.LOSS}")  # what decides first
        directory.update_status(
            state=schema.RUNNING,
            step=update.step,
            fraction=update.fraction,
            seconds_left=update.seconds_left,
            values={name: update.values[name] for name in names if name in update.values},
        )
        on_update(update)

    return fit(
        trainer,
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


def open_data(
    config: Mapping[str, Any], model: "ForceField", cache_gib: float
) -> "dict[str, GraphDataset]":
    """Every split of the data set with the graph that `model` asks for, its elements checked.

    Args:
        config: of the run.
        model: that reads the batches.
        cache_gib: GiB of arrays that may be made of a split.

    Raises:
        ValueError: a structure cannot be read, has no edges, or holds an element that the model
            has no data for; named by split, index and ids.
    """
    from atomsweep.data.batches.graphs import GraphDataset
    from atomsweep.graph.neighbors import RadiusGraph

    source = data_source(config)
    source.prepare()
    graph = None if model.cutoff is None else RadiusGraph(model.cutoff, model.max_neighbors)
    unsupported = model.unsupported_elements()
    data = {
        split: GraphDataset(
            source.split(split),
            graph,
            on_error=source.on_error,
            budget=cache_gib * (1 << 30),
            unsupported=unsupported,
            kinds=source.kinds,
        )
        for split in source.splits()
    }
    large = [split for split, graphs in data.items() if not graphs.in_memory]
    if source.on_error == "skip" and large:  # what is left out must not depend on memory
        raise ValueError(
            f"data.on_error=skip looks at every structure once, and the arrays of {large[0]} that "
            f"are made then take more than engine.cache_gib={cache_gib:g}; raise it, or convert "
            "the data with `atomsweep data convert --skip-bad` and train with "
            "data.on_error=raise"
        )
    _tell_of_untrained(data)
    return data


def _tell_of_untrained(data: "Mapping[str, GraphDataset]") -> None:
    """Name elements that a split has and training has not; those out of domain have them by design.

    What the model makes of such an atom is as it was at initialisation.
    """
    found = {split: graphs.elements() for split, graphs in data.items()}
    trained = found.get(schema.TRAIN)
    for split, elements in found.items():
        if trained is None or elements is None or schema.whole_of(split).startswith("val_ood"):
            continue
        if new := sorted(elements - trained):
            log.warning(
                "%s has atoms that no structure of train has, so nothing is learned of them: "
                "atomic number %s",
                split,
                ", ".join(map(str, new)),
            )
