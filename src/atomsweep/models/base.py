"""What every model promises: one forward from a batch to a `Prediction`, and what is built in."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch_geometric.data import Batch


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
        supports_dens: the model can encode forces and predict noise.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
    """

    conservative: ClassVar[bool] = False
    equivariant: ClassVar[bool] = False
    supports_dens: ClassVar[bool] = False

    cutoff: float
    max_neighbors: int | None

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction:
        """Predict for every structure of the batch."""

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Set what is a statistic of the training split, before training. Most models have none.

        Args:
            batches: one pass over the training split, in order, without edges or augmentation.
        """
