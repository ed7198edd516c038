"""Which atoms do not move, from constraints of ASE or flags in a file; and what is not kept.

A structure knows fixed and free atoms alone. An atom is fixed if it is held in all three
directions, by whatever constraints together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atomsweep.data.structure import Array, DataError
from atomsweep.data.values import flags, integers, numbers

PARTLY = "in one or two directions"
_HOLDING = ("FixAtoms", "FixCartesian", "FixScaled", "FixedPlane", "FixedLine")


def held_atoms(constraints: Iterable[Any], natoms: int, cell: Array) -> tuple[Array, list[str]]:
    """(N,) bool, fixed atoms; and names of constraints that a structure cannot keep.

    Args:
        constraints: of ASE, or the records that ASE makes of them (`name`, `kwargs`).
        natoms: N.
        cell: (3, 3) Å.

    Raises:
        DataError: a constraint is malformed, or names an atom that is not there.
    """
    fixed = np.zeros(natoms, dtype=bool)
    held: dict[int, list[Array]] = {}  # directions in which other atoms are held
    partly: dict[str, set[int]] = {}
    unkept: list[str] = []
    for one in constraints:
        name, arguments = _record(one)
        if name not in _HOLDING:
            unkept.append(name)
            continue
        atoms = _atoms(name, arguments, natoms)
        if name == "FixAtoms":
            fixed[atoms] = True
            continue
        vectors = _directions(name, arguments, cell)
        for atom in atoms.tolist():
            held.setdefault(atom, []).append(vectors)
        partly.setdefault(name, set()).update(atoms.tolist())
    for atom, vectors_of in held.items():
        fixed[atom] |= bool(np.linalg.matrix_rank(np.concatenate(vectors_of), tol=1e-6) == 3)
    unkept += [f"{name} {PARTLY}" for name, atoms in partly.items() if not fixed[[*atoms]].all()]
    return fixed, sorted(set(unkept))


def held_by_flags(name: str, value: Any, natoms: int) -> tuple[Array, list[str]]:
    """As `held_atoms`, from `fixed` (true: held) or `move_mask` (true: moves), (N,) or (N, 3).

    Raises:
        DataError: they are no flags, or of another shape.
    """
    held = flags(name, value)
    if name == "move_mask":
        held = ~held
    if held.shape not in ((natoms,), (natoms, 1), (natoms, 3)):
        raise DataError(
            f"{name} must have one or three flags for each of {natoms} atoms, got {held.shape}"
        )
    held = held.reshape(natoms, -1)
    fixed: Array = np.all(held, axis=1)
    return fixed, [f"{name} {PARTLY}"] if (held.any(1) & ~fixed).any() else []


def _record(one: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of a constraint; those of others than ASE's have no arguments."""
    if one is None or isinstance(one, str | int | float | list):
        raise DataError(f"a constraint is no record: {one!r}")
    if not isinstance(one, Mapping):
        try:
            one = dict(one.todict())
        except Exception:  # whatever a class of somebody else does
            one = {"name": type(one).__name__}
    name = one.get("name", one.get("__name__"))
    if not isinstance(name, str):
        raise DataError(f"a constraint has no name: {dict(one)!r}")
    arguments = one.get("kwargs", one)  # beside the name, as early versions of ASE wrote them
    if not isinstance(arguments, Mapping):
        raise DataError(f"the constraint {name} has no arguments")
    return name.rpartition(".")[2], arguments


def _atoms(name: str, arguments: Mapping[str, Any], natoms: int) -> Array:
    given = np.atleast_1d(np.asarray(arguments.get("indices", arguments.get("a"))))
    if given.dtype.kind == "b":
        if given.shape != (natoms,):
            raise DataError(f"{name} has {given.size} flags for {natoms} atoms")
        return np.flatnonzero(given)
    atoms = integers(f"atoms of {name}", given.tolist()).ravel() if given.size else given
    if ((atoms < -natoms) | (atoms >= natoms)).any():
        raise DataError(f"{name} names an atom that is not there, of {natoms}: {atoms.tolist()}")
    return atoms.astype(np.int64) % natoms


def _directions(name: str, arguments: Mapping[str, Any], cell: Array) -> Array:
    """(D, 3): directions in which a constraint holds its atoms."""
    if name in ("FixCartesian", "FixScaled"):
        mask = flags(f"mask of {name}", arguments.get("mask", [True] * 3)).ravel()
        if mask.size not in (1, 3):
            raise DataError(f"mask of {name} must have three flags, got {mask.size}")
        axes = np.eye(3)
        if name == "FixScaled" and np.linalg.matrix_rank(cell) == 3:
            axes = np.linalg.inv(cell).T  # what does not change along a scaled coordinate
            axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        return axes[np.broadcast_to(mask, 3)]
    along = numbers(f"direction of {name}", arguments.get("direction")).ravel()
    if along.shape != (3,) or not np.isfinite(along).all() or not along.any():
        raise DataError(f"direction of {name} must be a vector, got {along.tolist()}")
    along = along / np.linalg.norm(along)
    return along[None] if name == "FixedPlane" else np.linalg.svd(along[None])[2][1:]
