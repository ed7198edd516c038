"""What every model promises: one forward from a batch to a `Prediction`, and what is built in."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.graph.edges import edge_vectors
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER, element_names
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum
from atomsweep.tracing import is_traced


class Prediction(NamedTuple):
    """What a model returns; a quantity that it does not predict is None.

    Attributes:
        energy: (B,) eV.
        forces: (N, 3) eV/Å, one row for each atom, fixed ones included.
        noise: (N, 3), the denoising output of DeNS.
    """

    energy: Tensor | None = None
    forces: Tensor | None = None
    noise: Tensor | None = None


class ForceField(nn.Module, ABC):
    """A network over a periodic radius graph.

    The data room builds the graph that `cutoff` and `max_neighbors` ask for; the forward reads
    `edge_index` and `cell_offsets` of the batch and never builds edges itself.

    Attributes:
        conservative: forces are -dE/dx of the predicted energy.
        equivariant: a rotated input gives rotated forces, exactly.
        supports_dens: the model encodes the forces `dens_forces` of a batch that has them (else
            zeros) and predicts `noise`.
        supports_sigma: it also reads the noise's scale `dens_sigma`.
        predicts_energy: the prediction has an energy.
        predicts_labels: outputs are eV and eV/Å by themselves, so that no task scales them.
        forces_wanted: set by the task; without it no gradient is taken for forces.
        not_compiled: why the forward is not one graph for a shape (`engine.compile`), in words.
        initialised_from_data: `initialise` sets first weights; it is called before training.
        cutoff: radius of the graph, Å; None for a model that reads no edges, and no graph is built.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
    """

    conservative: bool = False
    equivariant: bool = False
    supports_dens: bool = False
    supports_sigma: bool = False
    predicts_energy: bool = True
    predicts_labels: bool = False
    forces_wanted: bool = True
    initialised_from_data: bool = False
    not_compiled: str | None = None

    cutoff: float | None
    max_neighbors: int | None

    def unsupported_elements(self) -> frozenset[int]:
        """Atomic numbers that the model has no input data for; data with them is refused."""
        return frozenset()

    def check_elements(self, atomic_numbers: Tensor) -> None:
        """Refuse elements that the model has no input data for.

        Reads the values, so call it where a batch is built, on the CPU: on a GPU it would wait.

        Args:
            atomic_numbers: (N,).

        Raises:
            ValueError: names the elements.
        """
        found = set(atomic_numbers.unique().tolist())
        unsupported = self.unsupported_elements()
        missing = {
            number
            for number in found
            if number in unsupported or not 0 <= number <= MAX_ATOMIC_NUMBER
        }
        if missing:
            raise ValueError(
                f"{type(self).__name__} has no input data for {element_names(missing)}; "
                "leave out the structures that contain them or choose a model that embeds them"
            )

    def check_elements_on_cpu(self, atomic_numbers: Tensor) -> None:
        """`check_elements` where reading values costs nothing: eager, on the CPU. Else nothing."""
        if atomic_numbers.device.type == "cpu" and not is_traced():
            self.check_elements(atomic_numbers)

    def prepare(self, batch: Batch) -> Batch:
        """The batch with what the forward wants to know beyond edges; most models want nothing.

        Called on the CPU, perhaps in a thread, on the positions that the forward sees, and where
        atoms move on the device they lie on, for each step. A forward does without it and then
        computes more, or makes it by itself and may wait for a GPU.
        """
        return batch

    def energy_offset(self, batch: Batch) -> Tensor | None:
        """The part of the energy that no weight moves, eV, or None where all is. Shape: (B,)."""
        return None

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction:
        """Predict for every structure of the batch."""

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Set what is a statistic of the training split, before training. Most models have none.

        Args:
            batches: one pass over the training split, in order, without edges or augmentation.
        """

    def fit_labels(self, labels: Callable[[], Mapping[str, Any]]) -> None:
        """Set what is a statistic of the training labels, before training. Most models have none.

        Args:
            labels: gives `LabelStatistics.result`; may read the whole split, so it is called only
                where it is needed.
        """

    def initialise(self, batch: Batch) -> None:
        """Set what of the first weights depends on data. Most models have nothing of the kind.

        Args:
            batch: some training structures with their edges, on the model's device; the same for
                all ranks.
        """


class EnergyForceField(ForceField):
    """A network for the energy; forces are -dE/dx by automatic differentiation.

    The energy depends on positions through the edge vectors alone, so the gradient is taken with
    respect to these and summed over the edges of each atom. It is taken inside the forward,
    whatever the caller's mode; with gradients on, forces can be differentiated again, as training
    needs.
    """

    conservative = True
    equivariant = True

    @abstractmethod
    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,) eV, invariant under rotation, from the edge vectors (E, 3) Å."""

    def forward(self, batch: Batch) -> Prediction:
        """Energy (B,) eV and forces (N, 3) eV/Å."""
        self.check_elements_on_cpu(batch.atomic_numbers)
        with full_precision(batch.pos):
            vectors, source, target = self.vectors(batch)
        return energy_and_forces(
            partial(self.energy, batch),
            vectors,
            source,
            target,
            len(batch.pos),
            self.forces_wanted,
        )

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What `energy` reads: vectors (E, 3) Å, and the atoms source and target (E,) of each."""
        source, target = batch.edge_index
        return edge_vectors(batch), source, target


def energy_and_forces(
    energy_of: Callable[[Tensor], Tensor],
    vectors: Tensor,
    source: Tensor,
    target: Tensor,
    num_atoms: int,
    forces_wanted: bool = True,
) -> Prediction:
    """A network's energy, and -dE/dx, where the energy reads positions through vectors alone.

    Taken in any gradient mode; with gradients on, forces can be differentiated again.

    Args:
        energy_of: energy (B,) from the vectors.
        vectors: from atom `target` to atom `source`, Å.
        source: atom at the end of each vector.
        target: atom at the start of each vector.
        num_atoms: N.
        forces_wanted: take the gradient; else the prediction has no forces.

    Shape: vectors (P, 3), source and target (P,).
    """
    if not forces_wanted:
        return Prediction(energy_of(vectors))
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        if not vectors.requires_grad:
            vectors.requires_grad_()
        energy = energy_of(vectors)
        with full_precision(vectors):  # autocast rounds forwards; their backwards follow
            (slope,) = torch.autograd.grad(energy.sum(), vectors, create_graph=differentiable)
    forces = segment_sum(slope, target, num_atoms) - segment_sum(slope, source, num_atoms)
    return Prediction(energy if differentiable else energy.detach(), forces)


def require_positive(**sizes: float | Sequence[int] | None) -> None:
    """Refuse sizes of a network that make none: zero, negative, infinite, an empty list.

    Args:
        sizes: arguments of the model by name; None passes, since it stands for no limit.

    Raises:
        ValueError: names the argument.
    """
    for name, value in sizes.items():
        if value is None:
            continue
        values = value if isinstance(value, Sequence) else (value,)
        if not values or not all(0 < number < math.inf for number in values):
            raise ValueError(f"model.{name} must be positive, got {value}")


def dens_forces(batch: Batch) -> Tensor:
    """Forces that a model for DeNS encodes: `dens_forces` where `dens_mask` is set, else zero.

    Both fields are optional; without them nothing is encoded. Shape: (N, 3).
    """
    if keys.DENS_FORCES not in batch:
        return torch.zeros_like(batch.pos)
    forces = batch[keys.DENS_FORCES].to(batch.pos.dtype)
    if keys.DENS_MASK in batch:
        forces = torch.where(batch[keys.DENS_MASK][:, None], forces, 0.0)
    return forces


def dens_sigma(batch: Batch) -> Tensor:
    """Scale of the noise of each atom's structure, Å, zero where there is none. Shape: (N, 1)."""
    if keys.DENS_SIGMA not in batch:
        return torch.zeros_like(batch.pos[:, :1])
    return batch[keys.DENS_SIGMA].to(batch.pos.dtype)[:, None]


def refuse_sigma_without_dens(dens: bool, sigma_encoding: bool) -> None:
    """Refuse an encoding of the noise's scale in a model that is not built for denoising.

    Raises:
        ValueError: says which switch to set.
    """
    if sigma_encoding and not dens:
        raise ValueError("sigma_encoding belongs to dens; set model.dens=true as well")
