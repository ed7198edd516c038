"""Unit conversions.

Inside the package lengths are Å, energies eV, forces eV/Å; `data/` converts once.
"""

from __future__ import annotations

from dataclasses import dataclass

KCAL_PER_MOL = 0.0433641  # eV
HARTREE = 27.211386245988  # eV, CODATA 2018
BOHR = 0.529177210903  # Å, CODATA 2018
SECONDS_PER_DAY = 86_400.0

ENERGY_UNITS = {  # eV, by name
    "eV": 1.0,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KCAL_PER_MOL / 4.184,
    "hartree": HARTREE,
    "rydberg": HARTREE / 2,
}
FORCE_UNITS = {f"{name}/A": value for name, value in ENERGY_UNITS.items()} | {  # eV/Å, by name
    "hartree/bohr": HARTREE / BOHR,
    "rydberg/bohr": HARTREE / 2 / BOHR,
}


@dataclass(frozen=True)
class LabelUnits:
    """What labels of a file are multiplied by.

    Attributes:
        energy: eV in the file's unit of energy.
        forces: eV/Å in its unit of forces.
    """

    energy: float = 1.0
    forces: float = 1.0

    @classmethod
    def named(cls, energy: str | None, forces: str | None) -> LabelUnits:
        """Of names; no unit of energy is eV, no unit of forces that of energy per Å.

        Raises:
            ValueError: there is no such unit; names those that exist.
        """
        for key, name, known in (
            ("energy_unit", energy, ENERGY_UNITS),
            ("force_unit", forces, FORCE_UNITS),
        ):
            if name is not None and name not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, got {name!r}")
        scale = 1.0 if energy is None else ENERGY_UNITS[energy]
        return cls(scale, scale if forces is None else FORCE_UNITS[forces])

    def settings(self) -> dict[str, float]:
        """What decides what is read, for hashes; empty for eV and eV/Å."""
        told = {} if self.energy == 1.0 else {"scale": self.energy}
        return told if self.forces == self.energy else {**told, "force_scale": self.forces}


EV = LabelUnits()
