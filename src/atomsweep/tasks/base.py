"""What a task promises: batch and prediction → loss terms and metrics as mergeable sums."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.models.base import ForceField, Prediction

ENERGY_THRESHOLD = 0.02  # eV: of EwT and EFwT (OC20, arXiv:2010.09990)
NOTHING = 1e-12  # added to a float32 count that may be 0: an empty mean is 0, others are the same


@dataclass(frozen=True)
class Mean:
    """A mean that has not been divided yet: merged over batches and ranks by addition.

    A metric that adds means of unlike things, an energy's and a force's, has a row for each.

    Attributes:
        total: () or (T,) sum of what is averaged.
        count: () or (T,) number of things, or sum of their weights.
    """

    total: Tensor
    count: Tensor

    def __add__(self, other: "Mean") -> "Mean":
        """Merge two parts of one mean."""
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> float:
        """The mean, or the sum of the T means; NaN when nothing was counted."""
        return float((self.total.double() / self.count.double()).sum())


class Task(ABC):
    """Loss and metrics of one learning problem.

    The objective is the sum over terms of coefficient x total / count. Counts depend on the batch
    alone, so that gradient accumulation and many ranks divide by the count of the whole batch.

    Attributes:
        labels: fields of the batch that are compared with a prediction.
        relaxed_energy: the energy among them is that of the relaxed structure.
        metric_names: what `metrics` gives; empty leaves `engine.metric` unchecked.
        coefficients: weight of each loss term.
    """

    labels: ClassVar[tuple[str, ...]]
    relaxed_energy: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = ()
    coefficients: Mapping[str, float]

    def adapt(self, model: ForceField) -> ForceField:
        """The model as it is trained, saved and used for this task: its outputs in eV and eV/Å.

        Raises:
            ValueError: the model cannot do what the task asks for.
        """
        return model

    def check(self, batch: Batch) -> None:  # noqa: B027 (nothing to refuse is right for most)
        """Look at labels of the training split once, before a step, in which nothing may wait.

        Raises:
            ValueError: they do not suit the task.
        """

    def prepare(self, batch: Batch, seed: int) -> Batch:
        """The batch that the model is trained on, after augmentation; here as it is.

        Called ahead of the step, in a thread of the loader: it must not touch the global random
        state, and knows nothing of how far the training will be.

        Args:
            batch: structures, on the CPU, with `places` (B,): where each stands in the whole batch
                of this step, over all micro-batches and ranks, so that what is drawn does not
                depend on the division.
            seed: of this step.
        """
        return batch

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Denominator () of each loss term."""

    @abstractmethod
    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Numerator () of each loss term, differentiable in the prediction.

        `progress` of the batch is a number of the host: it is all that is known no earlier than at
        the step.
        """

    @abstractmethod
    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """Metrics of one batch, by the names of `tracking.schema`."""
