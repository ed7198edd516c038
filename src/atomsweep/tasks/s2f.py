"""Structure to forces: weighted L1 on forces, metrics over free atoms."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import Prediction
from atomsweep.tasks.base import NOTHING, Mean, Task
from atomsweep.tasks.force_metrics import FORCE_METRICS, force_metrics

SMALL_FORCE = 0.05  # eV/Å: a step whose forces are smaller is not made larger for it


class S2F(Task):
    """Forces of a structure, eV/Å; the energy is not used.

    Loss = sum_i w_i sum_xyz |f - f*| / (3 sum_i w_i), with w_i = `fixed_weight` on fixed atoms and
    1 elsewhere (ForceNet, arXiv:2103.01436, Sec. 3.3). The paper weighs by the fixed flag; its
    public port by tags (tag 0 counts as fixed), which `fixed_by="tags"` reproduces.

    L1 has the medians of the labels, forces of zero, as a place that training leaves slowly: as
    long as predictions carry little, their noise costs more on the many small forces than it gains
    on the large ones. Squared errors have no such place. Up to `squared_until` the loss is
    sum_i w_i |f - f*|^2 / (2 sum_i w_i sum_xyz max(|f*|, `SMALL_FORCE`)), whose gradients are of
    the size of L1's where errors are of the size of labels. Ours, not the paper's: docs/models.md.

    Args:
        fixed_weight: weight of fixed atoms in the loss: 0.05 in the paper; 1 and 0 in its Table 7.
        fixed_by: what says that an atom is fixed, in the loss. Metrics always go by the flag.
        squared_until: share of the budget that squared errors train; None is L1 throughout.
    """

    labels: ClassVar[tuple[str, ...]] = ("forces",)
    metric_names: ClassVar[tuple[str, ...]] = FORCE_METRICS

    def __init__(
        self,
        fixed_weight: float = 0.05,
        fixed_by: Literal["flag", "tags"] = "flag",
        squared_until: float | None = None,
    ) -> None:
        if not 0.0 <= fixed_weight <= 1.0:
            raise ValueError(f"task.fixed_weight must lie in [0, 1], got {fixed_weight}")
        if squared_until is not None and not 0.0 < squared_until <= 1.0:
            raise ValueError(
                "task.squared_until must lie in (0, 1], or be null for L1 throughout, got "
                f"{squared_until}"
            )
        self.fixed_weight = fixed_weight
        self.fixed_by = fixed_by
        self.squared_until = squared_until
        self.coefficients = {"forces": 1.0}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Three times the sum of weights, or twice that of |f*|; no 0 where no atom counts."""
        if self._squared(batch):
            size = batch.forces.abs().clamp(min=SMALL_FORCE).sum(-1)  # (N,)
            return {"forces": 2.0 * (self._weights(batch) * size).sum() + NOTHING}
        return {"forces": 3.0 * self._weights(batch).sum() + NOTHING}

    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted sum over components of absolute errors, or of their squares."""
        error = _forces(prediction) - batch.forces  # (N, 3)
        error = error.square() if self._squared(batch) else error.abs()
        return {"forces": (self._weights(batch) * error.sum(-1)).sum()}

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """Force metrics over free atoms."""
        return force_metrics(_forces(prediction), batch)

    def _squared(self, batch: Batch) -> bool:
        return self.squared_until is not None and batch[keys.PROGRESS] < self.squared_until

    def _weights(self, batch: Batch) -> Tensor:
        fixed = batch.fixed if self.fixed_by == "flag" else batch.tags == 0
        return torch.where(fixed, self.fixed_weight, 1.0)  # (N,)


def _forces(prediction: Prediction) -> Tensor:
    if prediction.forces is None:
        raise ValueError("task=s2f needs a model that predicts forces; this one predicts none")
    return prediction.forces.float()
