"""Structure to energy and forces, on normalised labels; forces direct or as a gradient."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.base import ENERGY_THRESHOLD, NOTHING, Mean, Task
from atomsweep.tasks.force_metrics import FORCE_METRICS, force_metrics
from atomsweep.tasks.normalize import NormalizedModel, Normalizer
from atomsweep.tracking import schema

FORCE_THRESHOLD = 0.03  # eV/Å: of EFwT (OC20, arXiv:2010.09990)


class S2EF(Task):
    """Energy and forces of a structure.

    Loss = λ_E mean_S e_S + λ_F mean_i f_i over normalised labels (`Normalizer`): eq. 1 of DeNS,
    arXiv:2403.09549. e_S is |ΔÊ| ("l1") or its square ("mse"); f_i is ‖Δf̂‖ ("l2mae"), or the mean
    over x, y and z of |Δf̂| ("l1") or of its square ("mse").

    Args:
        normalizer: statistics of the labels.
        energy_coefficient: λ_E.
        forces_coefficient: λ_F.
        energy_loss: e_S.
        forces_loss: f_i.
        per_atom_energy: divide ΔÊ by the number of atoms, in the loss.
        free_atoms_only: forces of fixed atoms are left out of the loss. Metrics always do so.
    """

    labels: ClassVar[tuple[str, ...]] = ("energy", "forces")
    metric_names: ClassVar[tuple[str, ...]] = (
        schema.ENERGY_MAE,
        schema.ENERGY_PER_ATOM_MAE,
        schema.EFWT,
        schema.NORMALISED_L1,
        *FORCE_METRICS,
    )

    def __init__(
        self,
        normalizer: Normalizer,
        energy_coefficient: float,
        forces_coefficient: float,
        energy_loss: Literal["l1", "mse"] = "l1",
        forces_loss: Literal["l2mae", "l1", "mse"] = "l2mae",
        per_atom_energy: bool = False,
        free_atoms_only: bool = True,
    ) -> None:
        if min(energy_coefficient, forces_coefficient) < 0:
            raise ValueError(
                "task.energy_coefficient and task.forces_coefficient must not be negative, got "
                f"{energy_coefficient} and {forces_coefficient}"
            )
        self.normalizer = normalizer
        self.energy_loss, self.forces_loss = energy_loss, forces_loss
        self.per_atom_energy = per_atom_energy
        self.free_atoms_only = free_atoms_only
        self.coefficients = {"energy": energy_coefficient, "forces": forces_coefficient}

    def adapt(self, model: ForceField) -> ForceField:
        """The model with its outputs scaled from normalised labels to eV and eV/Å.

        Raises:
            ValueError: the model predicts no energy.
        """
        if not model.predicts_energy:
            raise ValueError(
                f"task=s2ef needs a model that predicts the energy, and {type(model).__name__} "
                "predicts none; choose another model, or take task=s2f: a row of a sweep file may "
                "have its own, {model: gns, task: s2f}"
            )
        return NormalizedModel(model, self.normalizer)

    def check(self, batch: Batch) -> None:
        """Energies that float32 can tell apart; see `Normalizer.check`."""
        if keys.ENERGY in batch:
            self.normalizer.check(batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Structures, and atoms whose forces count."""
        scored = self.scored_atoms(batch)
        structures = torch.full((), float(len(batch.cell)), device=scored.device)
        return {"energy": structures, "forces": scored.sum().float() + NOTHING}

    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Sums of e_S and of f_i."""
        scored = self.scored_atoms(batch).to(batch.pos.dtype)
        return {
            "energy": self.energy_errors(prediction, batch).sum(),
            "forces": (scored * self.force_errors(prediction, batch)).sum(),
        }

    def scored_atoms(self, batch: Batch) -> Tensor:
        """(N,) bool, atoms whose forces are in the loss."""
        return ~batch.fixed if self.free_atoms_only else torch.ones_like(batch.fixed)

    def energy_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """e_S of each structure. Shape: (B,)."""
        _label(batch, keys.ENERGY)
        error = self.normalizer.energy_error(_energy(prediction), batch)
        if self.per_atom_energy:
            error = error / batch.natoms
        return error.abs() if self.energy_loss == "l1" else error.square()

    def force_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """f_i of each atom. Shape: (N,)."""
        error = (_forces(prediction) - _label(batch, keys.FORCES)) / self.normalizer.forces_std.to(
            batch.pos.dtype
        )  # (N, 3)
        if self.forces_loss == "l2mae":
            return torch.linalg.vector_norm(error, dim=-1)
        return (error.abs() if self.forces_loss == "l1" else error.square()).mean(-1)

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """Energy MAE, forces' metrics over free atoms, EFwT, and the normalised L1.

        EFwT is the share of structures whose energy is off by less than 0.02 eV and none of whose
        free atoms has a force component off by 0.03 eV/Å or more. The normalised L1 is the mean
        of |ΔE| / σ_E over structures plus that of |Δf| / σ_F over components of all atoms, fixed
        ones included, whatever the loss is: Open MatSci ML Toolkit, arXiv:2210.17484, Table 2.
        """
        energy_error = (
            _energy(prediction).double() - _label(batch, keys.ENERGY).double()
        ).abs()  # (B,)
        errors = (
            _forces(prediction).double() - _label(batch, keys.FORCES).double()
        ).abs()  # (N, 3)
        worst = errors.amax(-1)  # (N,)
        far = ~batch.fixed & (worst >= FORCE_THRESHOLD)
        num_far = torch.zeros_like(energy_error).index_add_(0, batch.batch, far.double())
        within = (energy_error < ENERGY_THRESHOLD) & (num_far == 0)
        structures = energy_error.new_full((), len(energy_error))
        terms = [
            energy_error.sum() / self.normalizer.energy_std,
            errors.sum() / self.normalizer.forces_std,
        ]
        components = structures.new_full((), errors.numel())
        return {
            schema.ENERGY_MAE: Mean(energy_error.sum(), structures),
            schema.ENERGY_PER_ATOM_MAE: Mean(1e3 * (energy_error / batch.natoms).sum(), structures),
            schema.EFWT: Mean(within.double().sum(), structures),
            schema.NORMALISED_L1: Mean(torch.stack(terms), torch.stack([structures, components])),
            **force_metrics(_forces(prediction), batch),
        }


def _label(batch: Batch, name: str) -> Tensor:
    if name not in batch:
        raise ValueError(f"task=s2ef needs the label {name}, and the data have none; see data=")
    return batch[name]


def _energy(prediction: Prediction) -> Tensor:
    if prediction.energy is None:
        raise ValueError("task=s2ef needs a model that predicts the energy; this one predicts none")
    return prediction.energy.to(torch.promote_types(prediction.energy.dtype, torch.float32))


def _forces(prediction: Prediction) -> Tensor:
    if prediction.forces is None:
        raise ValueError("task=s2ef needs a model that predicts forces; this one predicts none")
    return prediction.forces.to(torch.promote_types(prediction.forces.dtype, torch.float32))
