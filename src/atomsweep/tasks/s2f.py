"""Structure to forces: weighted L1 on forces, metrics over free atoms."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.models.base import Prediction
from atomsweep.tasks.base import NOTHING, Mean, Task
from atomsweep.tasks.force_metrics import FORCE_METRICS, force_metrics


class S2F(Task):
    """Forces of a structure, eV/Å; the energy is not used.

    Loss = sum_i w_i sum_xyz |f - f*| / (3 sum_i w_i), with w_i = `fixed_weight` on fixed atoms and
    1 elsewhere (ForceNet, arXiv:2103.01436, Sec. 3.3). The paper weighs by the fixed flag; its
    public port by tags (tag 0 counts as fixed), which `fixed_by="tags"` reproduces.

    Args:
        fixed_weight: weight of fixed atoms in the loss: 0.05 in the paper; 1 and 0 in its Table 7.
        fixed_by: what says that an atom is fixed, in the loss. Metrics always go by the flag.
    """

    labels: ClassVar[tuple[str, ...]] = ("forces",)
    metric_names: ClassVar[tuple[str, ...]] = FORCE_METRICS

    def __init__(
        self, fixed_weight: float = 0.05, fixed_by: Literal["flag", "tags"] = "flag"
    ) -> None:
        if not 0.0 <= fixed_weight <= 1.0:
            raise ValueError(f"task.fixed_weight must lie in [0, 1], got {fixed_weight}")
        self.fixed_weight = fixed_weight
        self.fixed_by = fixed_by
        self.coefficients = {"forces": 1.0}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Three times the sum of weights, which is no 0 where no atom counts."""
        return {"forces": 3.0 * self._weights(batch).sum() + NOTHING}

    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Weighted sum of absolute component errors."""
        error = (_forces(prediction) - batch.forces).abs().sum(-1)  # (N,)
        return {"forces": (self._weights(batch) * error).sum()}

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """Force metrics over free atoms."""
        return force_metrics(_forces(prediction), batch)

    def _weights(self, batch: Batch) -> Tensor:
        fixed = batch.fixed if self.fixed_by == "flag" else batch.tags == 0
        return torch.where(fixed, self.fixed_weight, 1.0)  # (N,)


def _forces(prediction: Prediction) -> Tensor:
    if prediction.forces is None:
        raise ValueError("task=s2f needs a model that predicts forces; this one predicts none")
    return prediction.forces.float()
