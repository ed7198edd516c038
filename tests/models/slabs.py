"""A slab with an adsorbate on it, and the same slab elsewhere in its cell."""

from dataclasses import replace

import numpy as np
from ase.build import add_adsorbate, fcc111, molecule

from tests.contracts.graphs import Atoms

NUM_ADSORBED = 2


def slab():
    """A rattled alloy of 12 atoms with CO, the last two atoms."""
    made = fcc111("Pt", (2, 2, 3), a=3.9, vacuum=5.0, periodic=True)
    made.numbers[::3] = 29
    add_adsorbate(made, molecule("CO"), height=1.9, position=(0.4, 0.3))
    made.rattle(0.1, seed=0)
    return Atoms(made.positions, made.numbers, made.cell.array, (True, True, True))


def wrapped(atoms, shift):
    """All atoms moved by `shift` (Å), and each brought back into the cell."""
    fractions = (atoms.pos + shift) @ np.linalg.inv(atoms.cell)
    return replace(atoms, pos=(fractions % 1.0) @ atoms.cell)
