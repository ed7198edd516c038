"""Between `Structure` and ASE's `Atoms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atomsweep.data.constraints import held_atoms
from atomsweep.data.structure import Structure
from atomsweep.data.values import integers, number, numbers

if TYPE_CHECKING:
    from ase import Atoms


def structure_from_atoms(atoms: Atoms, sid: int = 0, fid: int = 0) -> Structure:
    """A structure from ASE atoms: constraints → fixed, tags as they are, stored results as labels.

    Energies and forces are taken from a calculator that already holds them and never computed.
    What a structure cannot keep of constraints is told by `unkept_constraints`.

    Raises:
        DataError: a stored result or a tag is no number, or a constraint is malformed.
    """
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy, forces = results.get("energy"), results.get("forces")
    fixed, _ = held_atoms(atoms.constraints, len(atoms), atoms.cell.array)
    return Structure(
        atomic_numbers=atoms.numbers.astype(np.int64),
        pos=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc.copy(),
        tags=integers("tags", atoms.get_tags()),
        fixed=fixed,
        forces=numbers("forces", forces) if forces is not None else None,
        energy=number("energy", energy) if energy is not None else None,
        sid=sid,
        fid=fid,
    )


def unkept_constraints(atoms: Atoms) -> list[str]:
    """Names of constraints that a structure cannot keep: it knows fixed and free atoms alone."""
    return held_atoms(atoms.constraints, len(atoms), atoms.cell.array)[1]


def structure_to_atoms(structure: Structure) -> Atoms:
    """ASE atoms with tags, `FixAtoms` and, where there are labels, a calculator that holds them."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    atoms = Atoms(
        numbers=structure.atomic_numbers,
        positions=structure.pos,
        cell=structure.cell,
        pbc=structure.pbc,
        tags=structure.tags,
    )
    if structure.fixed.any():
        atoms.set_constraint(FixAtoms(mask=structure.fixed))
    labels = {
        name: value
        for name, value in (("energy", structure.energy), ("forces", structure.forces))
        if value is not None
    }
    if labels:
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms
