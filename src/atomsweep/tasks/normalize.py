"""Labels with zero mean and unit spread: the one place that scales them, and undoes it."""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.data.batches.tensors import to_device
from atomsweep.data.normalizer import COARSE, spacing_fault
from atomsweep.data.structure import MAX_ATOMIC_NUMBER
from atomsweep.models.base import ForceField, Prediction
from atomsweep.nn.scatter import segment_sum


class Normalizer(nn.Module):
    """Ê = (E - sum_i c[Z_i] - μ) / σ_E and f̂ = f / σ_F, with statistics of the training split.

    The statistics are buffers: they are saved with the weights. They and what is computed with them
    are float64, whatever the weights are, except on a device that has none: total energies of 10⁴
    eV differ by 10⁻¹ eV, and float32 tells 10⁻³ eV apart there.

    Args:
        energy_mean: μ, eV; None takes it from the training split.
        energy_std: σ_E, eV; None takes it from the training split.
        forces_std: σ_F, eV/Å, about zero over free atoms; "energy" sets it to the number of σ_E, as
            MD17's recipes do; None takes it from the training split.
        references: c, an energy of each element: "fit" finds them by least squares on the training
            split, "none" has none (or the data set subtracts its own).
    """

    def __init__(
        self,
        energy_mean: float | None = None,
        energy_std: float | None = None,
        forces_std: float | Literal["energy"] | None = None,
        references: Literal["none", "fit"] = "none",
    ) -> None:
        super().__init__()
        for name, value in (("energy_std", energy_std), ("forces_std", forces_std)):
            if isinstance(value, (int, float)) and not value > 0:
                raise ValueError(f"task.normalizer.{name} must be positive, got {value}")
        if forces_std == "energy" and energy_std is not None:
            forces_std = energy_std
        self.given = (energy_mean, energy_std, forces_std)
        self.fit_references = references == "fit"
        known = [value if isinstance(value, (int, float)) else torch.nan for value in self.given]
        for name, value in zip(("energy_mean", "energy_std", "forces_std"), known, strict=True):
            self.register_buffer(name, torch.tensor(float(value), dtype=torch.float64))
        zeros = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
        self.register_buffer("references", zeros)
        self.energy_mean: Tensor
        self.energy_std: Tensor
        self.forces_std: Tensor
        self.references: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Normalizer":
        """Move the statistics, but keep their precision where the device has it."""
        device = fn(torch.zeros(())).device
        if device.type == "mps":
            self._buffers.update(
                {name: b.float() for name, b in self._buffers.items() if b is not None}
            )
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in before.items():
            after = self._buffers[name]
            if value is not None and after is not None and after.dtype != value.dtype:
                self._buffers[name] = value.to(device)
        return self

    @property
    def needs_fit(self) -> bool:
        """Something is to be taken from the training split."""
        return self.fit_references or any(not isinstance(v, (int, float)) for v in self.given)

    def fit(self, found: Mapping[str, Any]) -> None:
        """Take what was not given.

        Args:
            found: `LabelStatistics.result` of the training split.

        Raises:
            ValueError: there are no labels, all are equal, or references account for all of them.
        """
        mean, std, forces_std = self.given
        if "energy" not in found or (forces_std is None and "forces" not in found):
            raise ValueError(
                "labels are normalised with statistics of the training split, and the data set has "
                "no " + ("energies" if "energy" not in found else "forces of free atoms")
            )
        rank = found["independent_elements"]
        if self.fit_references and rank >= found["structures"]:
            raise ValueError(
                f"task.normalizer.references=fit finds {rank} energies of elements from "
                f"{found['structures']} training structures, which leaves nothing to learn; "
                "take more structures, or references=none"
            )
        energy = found["energy_minus_references" if self.fit_references else "energy"]
        if self.fit_references:
            values = torch.tensor(found["linear_references"], dtype=torch.float64)
            self.references.copy_(values)
        mean = mean if mean is not None else energy["mean"]
        std = std if std is not None else energy["std"]
        if fault := spacing_fault(found["energy_spacing"], energy["std"]):
            raise ValueError(f"the data set's {fault}")
        if forces_std is None:
            forces_std = found["forces"]["std"]
        elif forces_std == "energy":
            forces_std = std
        if not (std > 0 and forces_std > 0):
            raise ValueError(
                "all energies or all forces of the training split are equal, so they cannot be "
                "normalised; set task.normalizer.energy_std and forces_std"
            )
        for buffer, value in (
            (self.energy_mean, mean),
            (self.energy_std, std),
            (self.forces_std, forces_std),
        ):
            buffer.fill_(value)

    def check(self, batch: Batch) -> None:
        """Refuse statistics that do not belong to labels like these, on the CPU.

        Raises:
            ValueError: what the network must give is so large that float32 cannot tell labels
                apart.
        """
        there = self.energy_std.device
        offset = self.energy_offset(to_device(copy(batch), there)).cpu()
        wanted = (batch.energy.cpu() - offset) / self.energy_std.cpu()
        largest = float(wanted.abs().max())
        if np.spacing(np.float32(largest)) > COARSE:
            raise ValueError(
                f"energies lie up to {largest:.3g} spreads from what task.normalizer "
                "subtracts, where float32 cannot tell a thousandth of the spread; set "
                "task.normalizer.energy_mean=null, or references=fit for total energies"
            )

    def energy_error(self, energy: Tensor, batch: Batch) -> Tensor:
        """(E - E*) / σ_E, in the precision of the weights after the subtraction. Shape: (B,)."""
        return ((energy - batch.energy) / self.energy_std).to(batch.pos.dtype)

    def energy_offset(self, batch: Batch) -> Tensor:
        """What is added to σ_E Ê: the mean and the elements' references, eV. Shape: (B,)."""
        offset = self.energy_mean.expand(len(batch.cell))
        if not self.fit_references:
            return offset
        by_atom = self.references[batch.atomic_numbers]  # (N,)
        return offset + segment_sum(by_atom[:, None], batch.batch, len(batch.cell)).squeeze(-1)


class NormalizedModel(ForceField):
    """A network whose outputs are Ê and f̂, as a force field in eV and eV/Å.

    Forces of a conservative network are -dÊ/dx and are scaled by σ_E, so that they stay the
    gradient of the energy.

    Args:
        model: the network.
        normalizer: statistics of the labels, shared with the task.
    """

    def __init__(self, model: ForceField, normalizer: Normalizer) -> None:
        super().__init__()
        self.model = model
        self.normalizer = normalizer
        self.cutoff, self.max_neighbors = model.cutoff, model.max_neighbors
        for name in (
            "conservative",
            "equivariant",
            "supports_dens",
            "supports_sigma",
            "initialised_from_data",
            "not_compiled",
        ):
            setattr(self, name, getattr(model, name))
        self.predicts_energy = model.predicts_energy
        self.forces_wanted = model.forces_wanted

    def unsupported_elements(self) -> frozenset[int]:
        """Those of the network."""
        return self.model.unsupported_elements()

    def prepare(self, batch: Batch) -> Batch:
        """As the network does."""
        return self.model.prepare(batch)

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Those of the network."""
        self.model.fit_statistics(batches)

    def fit_labels(self, labels: Callable[[], Mapping[str, Any]]) -> None:
        """Take the normaliser's statistics.

        Raises:
            ValueError: the data have no energies or forces.
        """
        if self.normalizer.needs_fit:
            self.normalizer.fit(labels())

    def initialise(self, batch: Batch) -> None:
        """First weights of the network."""
        self.model.initialise(batch)

    def energy_offset(self, batch: Batch) -> Tensor | None:
        """That of the normaliser."""
        labels = self.model.predicts_labels or not self.predicts_energy
        return None if labels else self.normalizer.energy_offset(batch)

    def forward(self, batch: Batch) -> Prediction:
        """Energy (B,) eV, float64, and forces (N, 3) eV/Å; the noise as the network has it."""
        energy, forces, noise = self.model(batch)
        if self.model.predicts_labels:
            return Prediction(energy, forces, noise)
        dtype, normalizer = batch.pos.dtype, self.normalizer
        scale = normalizer.energy_std if self.conservative else normalizer.forces_std
        if energy is not None:
            offset = normalizer.energy_offset(batch)
            energy = energy.to(offset.dtype) * normalizer.energy_std + offset
        if forces is not None:
            forces = forces.to(dtype) * scale.to(dtype)
        return Prediction(energy, forces, noise)
