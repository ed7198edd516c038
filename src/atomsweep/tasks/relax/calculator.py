"""A potential as an ASE calculator."""

from typing import Any

from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.tasks.relax.potentials import Potential, batch_of


class PotentialCalculator(Calculator):
    """Forces (eV/Å) of a potential and, where it predicts one, the energy (eV); no stress.

    Forces are raw; ASE's constraints hold fixed atoms. Atoms may lie outside the cell.

    Args:
        potential: what predicts.
        name: of the model, for messages.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE's interface)
    nolabel = True

    def __init__(self, potential: Potential, name: str) -> None:
        super().__init__()
        self.potential = potential
        self.name = name

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
        if fault := self.potential.refusal(structure):
            raise ValueError(f"{self.name}: {fault}")
        found = self.potential(batch_of([structure], self.potential.device))
        if found.faults:
            raise ValueError(f"{self.name} cannot evaluate these atoms: {found.faults[0]}")
        self.results: dict[str, Any] = {"forces": found.forces.cpu().numpy()}
        if found.energy is not None:
            energy = float(found.energy[0])
            self.results |= {"energy": energy, "free_energy": energy}
        elif {"energy", "free_energy"} & set(properties or []):
            raise PropertyNotImplementedError(
                f"{self.name} predicts forces and no energy; ask for get_forces(), give ASE's "
                "optimisers logfile=None, or train a model that predicts an energy"
            )
