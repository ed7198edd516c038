"""The baseline of the tables: medians of the training split, of forces and of energies."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import ForceField, Prediction


class MedianBaseline(ForceField):
    """Predicts the median of each force component over the free atoms of the training split.

    "Median" of ForceNet, arXiv:2103.01436, Table 1. Nothing is trained and no edge is read; the
    median is a statistic, and the constant with the least mean absolute error. Where the data have
    energies, every structure gets their median, eV.
    """

    predicts_labels = True
    cutoff: float | None = None
    max_neighbors: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("median", torch.full((3,), torch.nan))
        self.register_buffer("median_energy", torch.full((), torch.nan))
        self.median: Tensor
        self.median_energy: Tensor
        self._known = False, False  # of energy and forces, on the host: a forward reads no value

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Weights of before have no energy."""
        state_dict.setdefault(f"{prefix}median_energy", torch.full((), torch.nan))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._look()

    def _look(self) -> None:
        self._known = _is_set(self.median_energy), _is_set(self.median)

    def fit_statistics(self, batches: Iterable[Batch]) -> None:
        """Take medians over one pass, exactly: all forces are held at once, 12 bytes an atom.

        Raises:
            ValueError: the data have forces, and there is no free atom.
        """
        free, energies, labelled = [], [], False
        for batch in batches:
            if keys.ENERGY in batch:
                energies.append(batch.energy.cpu())
            if keys.FORCES in batch:
                labelled = True
                free.append(batch.forces[~batch.fixed].cpu())
        if energies:
            self.median_energy.copy_(_middle(torch.cat(energies)))
            self._look()
        if energies and not labelled:
            return
        forces = torch.cat(free) if free else torch.empty(0, 3)
        if len(forces) == 0:
            raise ValueError(
                "the median needs at least one free atom in the training split, got none; "
                "check the `fixed` flags of the data"
            )
        self.median.copy_(_middle(forces))
        self._look()

    def forward(self, batch: Batch) -> Prediction:
        """The same energy for every structure, the same force for every atom, as far as known.

        Raises:
            RuntimeError: no median is set.
        """
        energy = forces = None
        with_energy, with_forces = (True, True) if self.median.is_meta else self._known
        if with_energy:
            energy = self.median_energy.expand(len(batch.cell)).to(batch.pos.dtype)
        if with_forces:
            forces = self.median.expand(len(batch.pos), 3).to(batch.pos.dtype)
        if energy is None and forces is None:
            raise RuntimeError(
                "MedianBaseline has no median yet; call fit_statistics with the training split "
                "or load a checkpoint"
            )
        return Prediction(energy, forces)


def _is_set(median: Tensor) -> bool:
    return not bool(median.isnan().any())


def _middle(values: Tensor) -> Tensor:
    """Median over the first dimension; of an even number the mean of the middle two."""
    ordered = values.sort(dim=0).values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
