"""DeNS: denoising of non-equilibrium structures beside the task, structure by structure.

Liao, Smidt, Shuaibi and Das, arXiv:2403.09549. Some structures of a batch are corrupted; the model
sees the forces of the atoms that were moved and predicts their displacements, and from the same
output heads the energy of the original structure. One forward and one backward for all.
"""

from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.dens.corrupt import Corruption
from atomsweep.graph.batch import rebuild_edges
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.base import NOTHING, Mean, Task
from atomsweep.tasks.s2ef import S2EF


@dataclass(frozen=True)
class Denoising(Corruption):
    """What is corrupted (`Corruption`), what the model is told and what it is asked for.

    Attributes:
        coefficient: λ_DeNS.
        decay: "linear" lowers λ_DeNS with progress to 0 (MD17), step by step.
        reduction: "joint" is one mean over all free atoms of λ_F f_i or λ_DeNS n_i (released code
            on OC20, OC22), "separate" a mean of each over its own atoms (released code on MD17).
        noise_norm: what displacements are divided by: "sigma_high" (released code), or "sigma",
            the scale of the structure itself. With one σ the two are the same.
        noise_loss: n_i, the norm of the error ("l2", released code) or its square ("mse", paper).
        corrupted_energy: the energy of corrupted structures counts (eq. 6).
        encode_forces: False tells the model nothing of the forces.
        sigma_encoding: tell the model σ (Table 1e, row 5).
        force_scale: forces are encoded in eV/Å times this. The papers encode what the data set has:
            on MD17 kcal/mol/Å.
        graph: "rebuild" finds neighbours of the corrupted positions, as paper and code do; "keep"
            keeps the edges and offsets of the original, with their new vectors.
    """

    coefficient: float
    decay: Literal["none", "linear"]
    reduction: Literal["joint", "separate"]
    noise_norm: Literal["sigma_high", "sigma"]
    noise_loss: Literal["l2", "mse"]
    corrupted_energy: bool
    encode_forces: bool
    sigma_encoding: bool
    force_scale: float
    graph: Literal["rebuild", "keep"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficient < 0 or self.force_scale <= 0:
            raise ValueError(
                "dens.coefficient must not be negative and dens.force_scale must be positive, got "
                f"{self.coefficient} and {self.force_scale}"
            )

    def around(self, task: Task) -> "DenoisingTask":
        """`task` with denoising beside it.

        Raises:
            ValueError: the task predicts no energy.
        """
        if not isinstance(task, S2EF):
            raise ValueError(
                "dens needs the energy and forces of task=s2ef; choose task=s2ef or dens=none"
            )
        return DenoisingTask(task, self)


class DenoisingTask(Task):
    """S2EF on a batch some of whose structures are corrupted; metrics are those of S2EF.

    Loss = λ_E mean_S e_S + λ_F mean f_i + λ_DeNS mean n_i, where f_i stands for free atoms that
    were left, n_i for those that were moved, and e_S compares with the energy before corruption.
    The gradient of a batch is the sum of what its standard and its corrupted structures give.
    """

    labels, metric_names = S2EF.labels, S2EF.metric_names

    def __init__(self, task: S2EF, dens: Denoising) -> None:
        self.task, self.dens = task, dens
        self.coefficients = {**task.coefficients, "noise": dens.coefficient}
        self._graph: RadiusGraph | None = None

    def adapt(self, model: ForceField) -> ForceField:
        """The model as S2EF has it.

        Raises:
            ValueError: the model cannot encode forces, or not the scale of the noise.
        """
        name = type(model).__name__
        if not model.supports_dens:
            raise ValueError(
                f"{name} cannot encode forces; choose dens=none, a model that can, or set "
                "model.force_encoding=edge_projection where it has that"
            )
        if self.dens.sigma_encoding and not model.supports_sigma:
            raise ValueError(
                f"{name} cannot encode the scale of the noise; set dens.sigma_encoding=false"
            )
        if self.dens.graph == "rebuild" and model.cutoff is not None:
            self._graph = RadiusGraph(model.cutoff, model.max_neighbors)
        return self.task.adapt(model)

    def check(self, batch: Batch) -> None:
        """As S2EF does."""
        self.task.check(batch)

    def prepare(self, batch: Batch, seed: int) -> Batch:
        """A copy of the batch with some structures corrupted; the batch itself where none can be.

        Where the graph is rebuilt, the edges into moved atoms and the others are listed, so that a
        model can leave out what no loss reads: noise of atoms left, forces of atoms moved.

        The energy stays that of the original structure, and so do the forces.
        """
        dens = self.dens
        if dens.prob == 0:
            return batch
        draw = dens.draw(batch, seed, batch.places)
        corrupted = copy(batch)
        corrupted[keys.POS] = batch.pos + draw.noise
        encoded = draw.encoded[:, None] * batch.forces * dens.force_scale
        scale = draw.sigma[batch.batch][:, None] if dens.noise_norm == "sigma" else dens.sigma_high
        corrupted[keys.DENS_STRUCTURES] = draw.structures
        corrupted[keys.DENS_MASK] = draw.encoded
        corrupted[keys.DENS_MOVED] = draw.moved
        corrupted[keys.DENS_FORCES] = encoded if dens.encode_forces else torch.zeros_like(encoded)
        corrupted[keys.DENS_NOISE] = (draw.noise / scale).to(batch.pos.dtype)
        if dens.sigma_encoding:
            sigma = draw.sigma * draw.structures
            corrupted[keys.DENS_SIGMA] = sigma[batch.batch].to(batch.pos.dtype)
        if self._graph is not None:
            rebuild_edges(corrupted, self._graph, draw.structures)
            into_moved = draw.moved[corrupted.edge_index[1]]
            corrupted[keys.DENS_MOVED_EDGES] = into_moved.nonzero().squeeze(1)
            corrupted[keys.DENS_LEFT_EDGES] = (~into_moved).nonzero().squeeze(1)
        return corrupted

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Structures; free atoms, or with separate means those left and those moved."""
        counts = self.task.counts(batch)
        if keys.DENS_MOVED not in batch:
            return counts
        if self.dens.reduction == "joint":
            return {**counts, "noise": counts["forces"]}
        moved = batch[keys.DENS_MOVED]
        left = (self.task.scored_atoms(batch) & ~moved).sum()
        return {
            "energy": counts["energy"],
            "forces": left.float() + NOTHING,
            "noise": moved.sum().float() + NOTHING,
        }

    def totals(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Sums of e_S, of f_i over atoms left, and of n_i over atoms moved.

        All outputs are in the sums of every batch, if with weight 0, so that every parameter has a
        gradient in every step.
        """
        if keys.DENS_MOVED not in batch:
            return self.task.totals(prediction, batch)
        real = batch.pos.dtype
        moved = batch[keys.DENS_MOVED]
        left = (self.task.scored_atoms(batch) & ~moved).to(real)
        energy = self.task.energy_errors(prediction, batch)
        if not self.dens.corrupted_energy:
            energy = energy * ~batch[keys.DENS_STRUCTURES]
        decay = 1.0
        if self.dens.decay == "linear":
            decay -= min(batch[keys.PROGRESS], 1.0)
        return {
            "energy": energy.sum(),
            "forces": (left * self.task.force_errors(prediction, batch)).sum(),
            "noise": decay * (moved * self._noise_errors(prediction, batch)).sum(),
        }

    def metrics(self, prediction: Prediction, batch: Batch) -> dict[str, Mean]:
        """Those of S2EF."""
        return self.task.metrics(prediction, batch)

    def _noise_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """n_i of each atom. Shape: (N,)."""
        if prediction.noise is None:
            raise ValueError("dens needs a model that predicts noise; this one predicts none")
        error = prediction.noise.to(batch.pos.dtype) - batch[keys.DENS_NOISE]
        if self.dens.noise_loss == "mse":
            return error.square().sum(-1)
        return torch.linalg.vector_norm(error, dim=-1)
