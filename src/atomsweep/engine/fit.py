"""A fit from beginning to end: the loop, then what it tells. The way into this room."""

from collections.abc import Callable, Mapping
from typing import Any

from atomsweep.data.batches.graphs import GraphDataset, eval_batches
from atomsweep.engine.batches import Augmentation
from atomsweep.engine.checkpoint import LAST
from atomsweep.engine.distributed import ALONE, World
from atomsweep.engine.events import Update
from atomsweep.engine.initial import initialise
from atomsweep.engine.loop import Training
from atomsweep.engine.optim import Recipe
from atomsweep.engine.result import result_of
from atomsweep.engine.signals import StopFlag
from atomsweep.engine.trainer import Trainer
from atomsweep.models.base import ForceField
from atomsweep.tasks.base import Task
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.schema import TRAIN


def fit(
    trainer: Trainer,
    model: ForceField,
    task: Task,
    recipe: Recipe,
    data: Mapping[str, GraphDataset],
    augment: Augmentation | None,
    run: RunDirectory,
    seed: int,
    stop: StopFlag | None = None,
    on_update: Callable[[Update], None] = lambda update: None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train from the newest checkpoint of `run`, or from step 0, to the end of the budget.

    With many ranks each calls this with the same arguments; rank 0 writes.

    Returns:
        The run's result: step and metrics of the best checkpoint on every split, the average
        over validation splits, parameters and seconds.

    Raises:
        NotFiniteError: the loss became NaN or infinite.
        Interrupted: `stop` was set; a checkpoint is written.
        ValueError: a micro-batch has fewer structures than there are ranks, or a checkpoint
            cannot be used.
    """
    stop = stop if stop is not None else StopFlag()
    training = Training(
        trainer, model, task, recipe, data, augment, run, seed, stop, on_update, world
    )
    _fit_statistics(training)
    training.run_to_end()
    return result_of(training)


def _fit_statistics(training: Training) -> None:
    """Of the training split, which may take long; a checkpoint has them already."""
    there = training.checkpoint_path(LAST).exists()
    if training.parameters and training.world.tell(there):
        return
    size, seed = training.trainer.eval_batch_size, training.seed
    with training.stop.at_once():
        take_from_data(training.model, training.task, training.data[TRAIN], size, seed)


def take_from_data(
    model: ForceField, task: Task, train: GraphDataset, batch_size: int, seed: int
) -> None:
    """Set what a model has of its training split before the first step: statistics, first weights.

    Args:
        model: with the weights that it was built with.
        task: whose look at the labels comes in between.
        train: the training split.
        batch_size: structures that are looked at together.
        seed: of the run.

    Raises:
        ValueError: the labels do not suit the task.
    """
    model.fit_statistics(eval_batches(train, batch_size))
    model.fit_labels(train.label_statistics)
    task.check(train.batch(range(min(batch_size, len(train)))))
    initialise(model, train, seed)
