"""Elements as model inputs: nine properties and Slater's radii, from elements.csv.

The table was made once with mendeleev 0.9.0 and is shipped as data, because later versions count
valence electrons and volumes differently. Electronegativity is Sanderson's, the covalent radius
Cordero's (pm), energies are eV, the volume is cm³/mol, the block s p d f is 1 2 3 4. The f block
without a group takes Z - 54 or Z - 86; a missing electron affinity is -3. Radii are Slater's (J.
Chem. Phys. 41, 3199, 1964).
"""

import csv
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

MAX_ATOMIC_NUMBER = 118
PROPERTIES = (
    "group",
    "period",
    "electronegativity",
    "covalent_radius_pm",
    "valence_electrons",
    "ionisation_energy",
    "electron_affinity",
    "block",
    "atomic_volume",
)
RADIUS = "slater_radius_pm"
_SYMBOL = "symbol"
_PM_PER_ANGSTROM = 100.0


@cache
def _rows() -> dict[int, dict[str, str]]:
    table = files("atomsweep.nn").joinpath("elements.csv").read_text(encoding="utf-8")
    return {int(row["atomic_number"]): row for row in csv.DictReader(table.splitlines())}


@cache
def elements_without_properties() -> frozenset[int]:
    """Atomic numbers, 0 included, that have no row of nine properties."""
    return frozenset(range(MAX_ATOMIC_NUMBER + 1)) - _rows().keys()


@cache
def elements_without_radius() -> frozenset[int]:
    """Atomic numbers, 0 included, that have no empirical radius (Kr and Xe among them)."""
    with_radius = {number for number, row in _rows().items() if row[RADIUS]}
    return frozenset(range(MAX_ATOMIC_NUMBER + 1)) - with_radius


def element_properties() -> Tensor:
    """Nine properties, each scaled to [0, 1] by its extremes over all elements of the table.

    Shape: (119, 9), row Z is element Z; NaN where there is no data, so refuse such elements first.
    """
    columns = []
    for name in PROPERTIES:
        values = {number: float(row[name]) for number, row in _rows().items()}
        low, high = min(values.values()), max(values.values())
        scaled = {number: (value - low) / (high - low) for number, value in values.items()}
        columns.append([scaled.get(number, math.nan) for number in range(MAX_ATOMIC_NUMBER + 1)])
    return torch.tensor(columns).T.contiguous()


def atomic_radii() -> Tensor:
    """Slater's radii, Å. Shape: (119,), NaN where there is no data."""
    rows = _rows()
    return torch.tensor(
        [
            float(rows[number][RADIUS]) / _PM_PER_ANGSTROM
            if number not in elements_without_radius()
            else math.nan
            for number in range(MAX_ATOMIC_NUMBER + 1)
        ]
    )


def element_names(numbers: Iterable[int]) -> str:
    """Symbols with atomic numbers for a message, e.g. `Kr (Z=36), Z=87`."""
    rows = _rows()
    return ", ".join(
        f"{rows[number][_SYMBOL]} (Z={number})" if number in rows else f"Z={number}"
        for number in sorted(numbers)
    )
