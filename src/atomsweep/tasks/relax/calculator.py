"""A potential as an ASE calculator."""

from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from torch_geometric.data import Batch

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.structure import Structure, structure_fault
from atomsweep.tasks.relax.potentials import PER_ATOM, Potential, batch_of
from atomsweep.transfers import read, sent

KEPT = ("atomic_numbers", "tags", "fixed", "cell", "pbc")  # while atoms only move


class PotentialCalculator(Calculator):
    """Forces (eV/Å) of a potential and, where it predicts one, the energy (eV); no stress.

    Forces are raw; ASE's constraints hold fixed atoms. Atoms may lie outside the cell.

    Args:
        potential: what predicts.
        title: of the model, for messages.
        nan_energy: an energy that is not predicted reads NaN and is no error, for ASE's optimisers,
            which ask for it to log it.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE's interface)
    nolabel = True

    def __init__(self, potential: Potential, title: str, nan_energy: bool = False) -> None:
        super().__init__()
        self.potential = potential
        self.title = title
        self.nan_energy = nan_energy
        self._structure: Structure | None = None  # that `results` are of
        self._held: tuple[Structure, Batch] | None = None  # that was looked at last

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """What is not as it was at the last call: ASE's list, and all else that a model may read.

        ASE asks this before it gives stored results again, and looks at no tags or constraints.
        """
        changes: list[str] = super().check_state(atoms, tol)
        if changes or self._structure is None:
            return changes
        now = structure_from_atoms(atoms)
        same = np.array_equal
        return [n for n in PER_ATOM if not same(getattr(now, n), getattr(self._structure, n))]

    def calculate(
        self,
        atoms: Any = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE.

        Raises:
            ValueError: the model cannot say anything about these atoms.
            PropertyNotImplementedError: an energy is asked for and none predicted.
        """
        super().calculate(atoms, properties or ["forces"], system_changes)
        assert self.atoms is not None
        structure = structure_from_atoms(self.atoms)
        if fault := structure_fault(structure) or self.potential.refusal(structure):
            raise ValueError(f"{self.title} cannot evaluate these atoms: {fault}")
        found = self.potential(self._batch_of(structure))
        if found.faults:
            raise ValueError(f"{self.title} cannot evaluate these atoms: {found.faults[0]}")
        self._structure = structure
        told = read(found.forces, *([] if found.energy is None else [found.energy]))
        self.results: dict[str, Any] = {"forces": told[0].numpy()}
        if found.energy is not None or self.nan_energy:
            energy = float("nan") if found.energy is None else float(told[1][0])
            self.results |= {"energy": energy, "free_energy": energy}
        elif {"energy", "free_energy"} & set(properties or []):
            raise PropertyNotImplementedError(
                f"{self.title} predicts forces and no energy; ask for get_forces() alone, take "
                "calculator(nan_energy=True) for ASE's optimisers, which log the energy, or train "
                "a model that predicts one"
            )

    def _batch_of(self, structure: Structure) -> Batch:
        """A structure on the device; where its atoms have only moved, their positions are sent."""
        held, same = self._held, np.array_equal
        if held is not None and all(same(getattr(structure, n), getattr(held[0], n)) for n in KEPT):
            batch = held[1]
            batch.pos = sent(torch.tensor(structure.pos, dtype=torch.float64), batch.pos.device)
        else:
            batch = batch_of([structure], self.potential.device)
        self._held = structure, batch
        return batch
