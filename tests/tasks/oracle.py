"""A function of one structure as a potential of relaxations."""

from collections.abc import Callable

import numpy as np
import torch
from torch_geometric.data import Batch

from atomsweep.data.structure import Array, Structure
from atomsweep.tasks.relax.potentials import Forces, structures_of


class OraclePotential:
    """A function of one structure as a potential, called for one after the other.

    Args:
        oracle: energy (eV) and forces (N, 3) (eV/Å) of a structure; a `ValueError` is a fault of
            that structure.
    """

    device = torch.device("cpu")

    def __init__(self, oracle: Callable[[Structure], tuple[float, Array]]) -> None:
        self.oracle = oracle

    def refusal(self, structure: Structure) -> str | None:
        """Nothing is known before it is called."""
        return None

    def __call__(self, batch: Batch) -> Forces:
        """One call for each structure."""
        energies, forces, faults = [], [], {}
        for number, structure in enumerate(structures_of(batch)):
            try:
                energy, force = self.oracle(structure)
            except ValueError as error:
                faults[number] = str(error)
                energy, force = np.nan, np.full((structure.natoms, 3), np.nan)
            energies.append(energy)
            forces.append(force)
        return Forces(
            torch.tensor(energies, dtype=torch.float64),
            torch.from_numpy(np.concatenate(forces)).double(),
            faults,
        )
