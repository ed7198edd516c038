"""Between `Structure` and ASE's `Atoms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atomsweep.data.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


def structure_from_atoms(atoms: Atoms, sid: int = 0, fid: int = 0) -> Structure:
    """A structure from ASE atoms: `FixAtoms` → fixed, tags as they are, stored results as labels.

    Energies and forces are taken from a calculator that already holds them and never computed.
    """
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy, forces = results.get("energy"), results.get("forces")
    return Structure(
        atomic_numbers=atoms.numbers.astype(np.int64),
        pos=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc.copy(),
        tags=atoms.get_tags().astype(np.int64),
        fixed=fixed,
        forces=np.array(forces, dtype=np.float64) if forces is not None else None,
        energy=float(energy) if energy is not None else None,
        sid=sid,
        fid=fid,
    )


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
