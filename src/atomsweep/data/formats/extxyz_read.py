"""Frames of .extxyz, .xyz (also compressed) and .traj files, with OC20's sidecar and tag rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from atomsweep.data.atoms import structure_from_atoms, unkept_constraints
from atomsweep.data.constraints import held_by_flags
from atomsweep.data.formats.extxyz_text import TextFrame, atomic_numbers, parse_frame
from atomsweep.data.formats.text_files import foreign_text, open_text
from atomsweep.data.frames import (
    COMPRESSED,
    FID,
    SID,
    Frame,
    first_of,
    lacking,
    set_ids,
    set_tags,
)
from atomsweep.data.structure import Array, DataError, Structure
from atomsweep.data.values import directions, integers, number, numbers

if TYPE_CHECKING:
    from ase import Atoms

SUFFIXES = (".extxyz", ".xyz", ".traj")
MAX_ATOMS = 10_000_000  # of a frame; a number of atoms that lies must not fill the memory
MAX_LINE = 1 << 24  # characters
_SIDECAR_LINE = re.compile(r"(?:random)?([0-9]+),(?:frame)?([0-9]+),([-+.0-9e]+)", re.IGNORECASE)
_SIDECAR_LOOK = 1000  # lines, among which a sidecar has one that is whole
_MASKS = ("fixed", "move_mask")
_NEAR_MASK = re.compile(r"fix|frozen|freez|constrain|selective|move_?mask|immobile", re.IGNORECASE)
_SHAPES = ("species", "pos", "Z", "Lattice", "Properties", "pbc")  # of every frame, no labels


@dataclass(frozen=True)
class FrameOptions:
    """How frames are read.

    Attributes:
        energy_key: name of the energy in a frame's comment line.
        forces_key: name of the forces' column.
        labels: what every frame must carry, of "energy" and "forces".
    """

    energy_key: str
    forces_key: str
    labels: tuple[str, ...]


def kind_of(path: Path) -> str | None:
    """One of `SUFFIXES`, looking through compression; None for other files."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def sidecar_of(path: Path) -> Path | None:
    """The file of ids and reference energies of OC20's download that belongs to `N.extxyz[.xz]`.

    A text of that name is a sidecar if any line of it has the form of one; others are notes.

    Raises:
        DataError: it is empty or damaged, so that it cannot be told; names it.
    """
    name = path.name
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    stem = name.removesuffix(".extxyz")
    candidates = (path.with_name(f"{stem}.txt{suffix}") for suffix in ("", *COMPRESSED))
    found = next((c for c in candidates if c.is_file()), None) if stem != name else None
    if found is None:
        return None
    try:
        with open_text(found) as file:
            lines = islice(iter(lambda: file.readline(MAX_LINE), ""), _SIDECAR_LOOK)
            if any(_SIDECAR_LINE.fullmatch(line.strip()) for line in lines):
                return found
    except DataError as error:
        raise DataError(
            f"{found}: {error}; it may be the sidecar of {path.name}, repair or remove it"
        ) from error
    if found.stat().st_size == 0:
        raise DataError(f"{found} is empty; it may be the sidecar of {path.name}, remove it if not")
    return None


def read_sidecar(path: Path) -> list[tuple[int, int, float]]:
    """System id, frame id and reference energy (eV) of every frame.

    Raises:
        DataError: a line is not `random<sid>,frame<fid>,<energy>`; names file and line.
    """
    rows = []
    with open_text(path) as file:
        for place, line in enumerate(file, start=1):
            match = _SIDECAR_LINE.fullmatch(line.strip())
            try:
                if match is None:
                    raise DataError("no match")
                reference = number("the reference energy", match[3])
                rows.append((int(match[1]), int(match[2]), reference))
            except DataError:
                raise DataError(
                    f"{path}, line {place}: expected random<sid>,frame<fid>,<reference energy>, "
                    f"got {line.strip()[:60]!r}"
                ) from None
    return rows


def read_frames(path: Path, file_number: int, options: FrameOptions) -> Iterator[Frame]:
    """All frames of a file in order, faulty ones marked. Frames without a sid get `file_number`.

    Raises:
        DataError: the sidecar is malformed or has another number of lines than the file has frames.
    """
    sidecar = sidecar_of(path)
    rows = read_sidecar(sidecar) if sidecar is not None else None
    raw = _traj_frames(path) if kind_of(path) == ".traj" else _text_frames(path)
    count = 0
    for index, item in enumerate(raw):
        count = index + 1
        if rows is not None and index >= len(rows):
            break
        if isinstance(item, str):
            yield Frame(index, None, fault=item)
            continue
        try:
            text = isinstance(item, TextFrame)
            structure, unkept = (_of_text if text else _of_atoms)(item, options)
        except (DataError, ValueError, TypeError) as error:
            yield Frame(index, None, fault=str(error))
            continue
        sid, fid = first_of(item.info, SID), first_of(item.info, FID)
        if rows is not None:
            sid, fid, reference = rows[index]
            if structure.energy is not None:
                structure.energy -= reference
        frame = Frame(index, structure, set_tags(structure), unkept=unkept)
        yield set_ids(frame, sid, fid, file_number)
    if rows is not None and count != len(rows):
        more = "more" if count > len(rows) else count
        raise DataError(f"{path} has {more} frames, but {sidecar} has {len(rows)} lines")


def _traj_frames(path: Path) -> Iterator[Atoms | str]:
    """Atoms of each frame, or a message: a bad frame does not hide the ones behind it."""
    from ase.io.trajectory import Trajectory

    try:
        trajectory = Trajectory(path)
        count = len(trajectory)
    except Exception as error:  # whatever the reader stumbles on
        yield f"the file cannot be read as ASE's trajectory: {type(error).__name__}: {error}"
        return
    with trajectory:
        for index in range(count):
            try:
                yield trajectory[index]
            except Exception as error:  # likewise
                yield f"the frame cannot be read: {type(error).__name__}: {error}"


def _text_frames(path: Path) -> Iterator[TextFrame | str]:
    """Each frame, or a message: a bad frame does not hide the ones behind it."""
    try:
        with open_text(path) as file:
            yield from _frames_of(file)
    except DataError as error:
        yield str(error)


def _frames_of(file: IO[str]) -> Iterator[TextFrame | str]:
    while line := file.readline(MAX_LINE):
        if not (said := line.strip()):
            continue
        if not (said.isascii() and said.isdigit()):
            yield foreign_text(line) or (
                f"expected a number of atoms, got {said[:40]!r}; the rest of the file is lost"
            )
            return
        natoms = int(said[:20])
        if natoms > MAX_ATOMS:
            yield f"the file ends within this frame of {said[:40]} atoms, more than {MAX_ATOMS}"
            return
        lines = list(islice(iter(lambda: file.readline(MAX_LINE), ""), natoms + 1))
        if len(lines) < natoms + 1:
            yield f"the file ends within this frame of {natoms} atoms"
            return
        try:
            if fault := foreign_text("".join(lines)):
                raise DataError(fault)
            yield parse_frame(lines[0], lines[1:])
        except DataError as error:
            yield str(error)


def _of_text(frame: TextFrame, options: FrameOptions) -> tuple[Structure, list[str]]:
    """A structure of extended XYZ, and constraints that it cannot keep."""
    species = atomic_numbers(frame)
    natoms = len(species)
    lattice, pbc, tags = frame.value("Lattice"), frame.value("pbc"), frame.column("tags")
    positions, forces = frame.column("pos"), frame.column(options.forces_key)
    energy = frame.value(options.energy_key)
    if positions is None:
        raise DataError("not a frame of extended XYZ: it has no column pos")
    for name in (*SID, *FID):
        if name in frame.info and frame.info[name] is not None:
            frame.value(name)  # refused if it is given twice
    there = {*frame.info, *frame.columns} - {*_SHAPES, *_MASKS}
    _check_labels(options, {"energy": energy, "forces": forces}, there)
    cell = np.zeros((3, 3))
    if lattice is not None:
        vectors = numbers("Lattice", np.array(re.findall(r"[^\s,\[\]]+", lattice)))
        if vectors.size != 9:
            raise DataError(f"Lattice must be nine numbers, got {lattice[:60]!r}")
        cell = vectors.reshape(3, 3)
    structure = Structure(
        atomic_numbers=species,
        pos=numbers("the column pos", positions),
        cell=cell,
        pbc=directions(pbc) if pbc is not None else np.full(3, lattice is not None),
        tags=np.zeros(natoms, np.int64) if tags is None else integers("the column tags", tags),
        fixed=np.zeros(natoms, dtype=bool),
        forces=_forces(options, forces),
        energy=_energy(options, energy),
    )
    columns = {
        name: column for name in _MASKS if (column := frame.column(name, "flags")) is not None
    }
    near = [name for name in (*frame.columns, *frame.info) if _NEAR_MASK.search(name)]
    unread = [
        f"{name} (its name is not fixed or move_mask)" for name in near if name not in columns
    ]
    return structure, [*_hold(structure, columns), *unread]


def _of_atoms(atoms: Atoms, options: FrameOptions) -> tuple[Structure, list[str]]:
    """A structure of ASE's atoms, and constraints that it cannot keep."""
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy, forces = (
        next((place[key] for place in places if place.get(key) is not None), None)
        for key, places in (
            (options.energy_key, (results, atoms.info)),
            (options.forces_key, (results, atoms.arrays, atoms.info)),
        )
    )
    there = {*atoms.info, *results, *atoms.arrays} - {"numbers", "positions"}
    _check_labels(options, {"energy": energy, "forces": forces}, there)
    atoms.calc = None  # other results are nobody's concern
    structure, unkept = structure_from_atoms(atoms), unkept_constraints(atoms)
    structure.forces, structure.energy = _forces(options, forces), _energy(options, energy)
    held = structure.fixed.copy()
    masks = {name: atoms.arrays[name] for name in _MASKS if name in atoms.arrays}
    unkept += _hold(structure, masks)
    if held.any() and not np.array_equal(held, structure.fixed):
        raise DataError(f"{' and '.join(masks)} and the constraints fix different atoms")
    return structure, unkept


def _energy(options: FrameOptions, value: Any) -> float | None:
    return None if value is None else number(options.energy_key, value)


def _forces(options: FrameOptions, value: Any) -> Array | None:
    name = f"the forces {options.forces_key}"
    return None if value is None else numbers(name, value)


def _check_labels(options: FrameOptions, found: Mapping[str, Any], there: set[str]) -> None:
    """Raise DataError, which says what is there, if a label is lacking."""
    missing = [label for label in options.labels if found[label] is None]
    if missing:
        keys = {"energy": options.energy_key, "forces": options.forces_key}
        raise DataError(f"it {lacking(keys, missing, there, 'data.')}")


def _hold(structure: Structure, columns: Mapping[str, Array]) -> list[str]:
    """Set `fixed` to what columns of flags say; returns what of them a structure cannot keep.

    Raises:
        DataError: one holds no flags, or they contradict each other.
    """
    unkept: list[str] = []
    said: list[Array] = []
    for name, column in columns.items():
        fixed, more = held_by_flags(name, column, structure.natoms)
        said.append(fixed)
        unkept += more
    if any(not np.array_equal(said[0], other) for other in said[1:]):
        raise DataError(f"the columns {' and '.join(columns)} fix different atoms")
    if said:
        structure.fixed = said[0]
    return unkept
