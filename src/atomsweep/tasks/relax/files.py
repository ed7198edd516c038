"""Relaxed structures and trajectories as files that ASE and DFT codes' interfaces read."""

from dataclasses import replace
from pathlib import Path

from atomsweep.data.atoms import structure_to_atoms
from atomsweep.data.structure import Structure
from atomsweep.tasks.relax.loop import Relaxed


def write_extxyz(path: Path, structure: Structure) -> None:
    """One structure with cell, tags, `move_mask` for its fixed atoms and the model's labels.

    Atomic; the folder is made.
    """
    import ase.io

    atoms = structure_to_atoms(structure)
    atoms.info["sid"] = structure.sid
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    ase.io.write(temporary, atoms, format="extxyz")
    temporary.replace(path)


def write_trajectory(path: Path, one: Relaxed) -> None:
    """Every step of a relaxation that kept its path, as an ASE trajectory, atomically."""
    from ase.io.trajectory import Trajectory

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with Trajectory(str(temporary), "w") as file:
        for pos, energy, forces in one.path:
            frame = replace(one.structure, pos=pos, energy=energy, forces=forces)
            file.write(structure_to_atoms(frame))
    temporary.replace(path)
