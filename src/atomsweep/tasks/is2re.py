"""Initial structure to relaxed energy (IS2RE), directly: no relaxation in between, no forces."""

from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.base import ENERGY_THRESHOLD, Mean, Task
from atomsweep.tasks.normalize import NormalizedModel, Normalizer
from atomsweep.tracking import schema


class IS2RE(Task):
    """The energy of the relaxed structure from the initial one.

    Loss = mean |E - E*| / σ_E over structures: L1 on normalised energies (`Normalizer`), as in the
    Open MatSci ML Toolkit, arXiv:2210.17484. A gradient that a model would take for forces is left
    out.

    Args:
        normalizer: statistics of the relaxed energies.
    """

    labels: ClassVar[tuple[str, ...]] = ("energy",)
    relaxed_energy: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = (
        schema.ENERGY_MAE,
        schema.EWT,
        schema.NORMALISED_L1,
    )

    def __init__(self, normalizer: Normalizer) -> None:
        self.normalizer = normalizer
        self.coefficients = {"energy": 1.0}

    def adapt(self, model: ForceField) -> ForceField:
        """The model with its energy scaled from normalised labels to eV, and without a gradient.

        Raises:
            ValueError: the model predicts no energy.
        """
        if not model.predicts_energy:
            raise ValueError(
                f"task=is2re needs a model that predicts the energy, and {type(model).__name__} "
                "predicts none; choose another model"
            )
        model.forces_wanted = False
        return NormalizedModel(model, self.normalizer)

    def check(self, batch: Batch) -> None:
        """Energies that float32 can tell apart; see `Normalizer.check`."""
        if keys.ENERGY in batch:
            self.normalizer.check(batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Structures."""
        return {"energy": batch.pos.new_full((), len(batch.cell))}

    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Sum of absolute errors of normalised energies."""
        energy = _energy(prediction, batch)
        return {"energy": self.normalizer.energy_error(energy, batch).abs().sum()}

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """MAE in eV, EwT (share of structures within 0.02 eV), and the loss, normalised."""
        error = (_energy(prediction, batch) - batch.energy).abs().double()  # (B,)
        structures = error.new_full((), len(error))
        return {
            schema.ENERGY_MAE: Mean(error.sum(), structures),
            schema.EWT: Mean((error < ENERGY_THRESHOLD).double().sum(), structures),
            schema.NORMALISED_L1: Mean(error.sum() / self.normalizer.energy_std, structures),
        }


def _energy(prediction: Prediction, batch: Batch) -> Tensor:
    """Predicted energy of a labelled batch, eV, at least in float32. Shape: (B,)."""
    if prediction.energy is None:
        raise ValueError(
            "task=is2re needs a model that predicts the energy; this one predicts none"
        )
    if keys.ENERGY not in batch:
        raise ValueError("task=is2re needs the label energy, and the data have none; see data=")
    return prediction.energy.to(torch.promote_types(prediction.energy.dtype, torch.float32))
