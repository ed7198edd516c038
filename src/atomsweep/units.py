"""Unit conversions.

Inside the package lengths are Å, energies eV, forces eV/Å; `data/` converts once.
"""

KCAL_PER_MOL = 0.0433641  # eV
HARTREE = 27.211386245988  # eV, CODATA 2018
BOHR = 0.529177210903  # Å, CODATA 2018
SECONDS_PER_DAY = 86_400.0

ENERGY_UNITS = {"eV": 1.0, "kcal/mol": KCAL_PER_MOL, "hartree": HARTREE}  # eV, by name
