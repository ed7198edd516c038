"""What every model promises: one forward from a batch to a `Prediction`, and what is built in."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.nn.elements import MAX_ATOMIC_NUMBER, element_names


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
        cutoff: radius of the graph, Å; None for a model that reads no edges, and no graph is built.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
    """

    conservative: bool = False
    equivariant: bool = False
    supports_dens: bool = False
    supports_sigma: bool = False
    predicts_energy: bool = True

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
        if atomic_numbers.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check_elements(atomic_numbers)

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction:
        """Predict for every structure of the batch."""

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Set what is a statistic of the training split, before training. Most models have none.

        Args:
            batches: one pass over the training split, in order, without edges or augmentation.
        """
