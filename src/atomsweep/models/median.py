"""The baseline of the force tables: every atom gets the median force of the training split."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.models.base import ForceField, Prediction


class MedianBaseline(ForceField):
    """Predicts the median of each force component over the free atoms of the training split.

    "Median" of ForceNet, arXiv:2103.01436, Table 1. Nothing is trained and no edge is read; the
    median is a statistic, and the constant with the least mean absolute error.
    """

    predicts_energy = False
    cutoff: float | None = None
    max_neighbors: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("median", torch.full((3,), torch.nan))
        self.median: Tensor

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Take the median over one pass, exactly: all forces are held at once, 12 bytes an atom.

        Raises:
            ValueError: there is no free atom.
        """
        free = [batch.forces[~batch.fixed].cpu() for batch in batches]
        forces = torch.cat(free) if free else torch.empty(0, 3)
        if len(forces) == 0:
            raise ValueError(
                "the median needs at least one free atom in the training split, got none; "
                "check the `fixed` flags of the data"
            )
        ordered = forces.sort(dim=0).values
        middle = ordered[(len(forces) - 1) // 2] + ordered[len(forces) // 2]
        self.median.copy_(middle / 2)

    def forward(self, batch: Batch) -> Prediction:
        """The same force for every atom.

        Raises:
            RuntimeError: the median is not set.
        """
        if self.median.device.type != "meta" and bool(self.median.isnan().any()):
            raise RuntimeError(
                "MedianBaseline has no median yet; call fit_statistics with the training split "
                "or load a checkpoint"
            )
        return Prediction(forces=self.median.expand(len(batch.pos), 3).to(batch.pos.dtype))
