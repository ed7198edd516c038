"""What a step of training calls: a model as it is, or compiled."""

from collections.abc import Callable

from torch_geometric.data import Batch

from atomsweep.engine.trainer import Trainer
from atomsweep.models.base import ForceField, Prediction


def forward_of(
    model: ForceField, trainer: Trainer, eager_shapes: set[str]
) -> Callable[[Batch], Prediction]:
    """The forward that `engine.compile` asks for. It takes the batches of `StepBatches`.

    Args:
        model: in training.
        trainer: says whether and how it is compiled.
        eager_shapes: of batches that are not compiled; those that cannot be are added.
    """
    if trainer.compile != "none":
        from atomsweep.engine.compiled import CompiledForward  # a second of compilers' imports

        return CompiledForward(model, trainer.compile, trainer.autocast, eager_shapes)

    def eager(batch: Batch) -> Prediction:
        with trainer.autocast():
            prediction: Prediction = model(batch)
        return prediction

    return eager
