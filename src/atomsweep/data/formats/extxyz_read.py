"""Frames of .extxyz, .xyz (also compressed) and .traj files, with OC20's sidecar and tag rule."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.frames import FID, SID, Frame, first_of, set_ids, set_tags
from atomsweep.data.structure import DataError, Structure

if TYPE_CHECKING:
    from ase import Atoms

SUFFIXES = (".extxyz", ".xyz", ".traj")
_OPENERS: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_COMPRESSED = tuple(_OPENERS)
_ID = re.compile(rf'(?<!\S)({"|".join(SID + FID)})\s*=\s*(?:"([^"]+)"|([^\s"]+))')
_SIDECAR_LINE = re.compile(r"\D*(\d+),\D*(\d+),([^,]+)")


@dataclass(frozen=True)
class FrameOptions:
    """How frames are read.

    Attributes:
        energy_key: name of the energy in a frame's comment line.
        forces_key: name of the forces' column.
        scale: eV in the file's unit of energy.
        labels: what every frame must carry, of "energy" and "forces".
    """

    energy_key: str
    forces_key: str
    scale: float
    labels: tuple[str, ...]


def kind_of(path: Path) -> str | None:
    """One of `SUFFIXES`, looking through compression; None for other files."""
    name = path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def sidecar_of(path: Path) -> Path | None:
    """The file of ids and reference energies of OC20's download that belongs to `N.extxyz[.xz]`."""
    name = path.name
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    stem = name.removesuffix(".extxyz")
    candidates = (path.with_name(f"{stem}.txt{suffix}") for suffix in ("", *_COMPRESSED))
    return next((c for c in candidates if c.is_file()), None) if stem != name else None


def _text(path: Path) -> IO[str]:
    opener = _OPENERS.get(path.suffix.lower())
    return opener(path, "rt", encoding="utf-8") if opener else path.open(encoding="utf-8")


def read_sidecar(path: Path) -> list[tuple[int, int, float]]:
    """System id, frame id and reference energy (eV) of every frame.

    Raises:
        DataError: a line is not `random<sid>,frame<fid>,<energy>`; names file and line.
    """
    rows = []
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            match = _SIDECAR_LINE.fullmatch(line.strip())
            try:
                if match is None:
                    raise ValueError("no match")
                rows.append((int(match[1]), int(match[2]), float(match[3])))
            except ValueError:
                raise DataError(
                    f"{path}, line {number}: expected random<sid>,frame<fid>,<reference energy>, "
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
            structure, rule = _structure(item, options)
        except (DataError, ValueError, TypeError) as error:  # an energy that is no number
            yield Frame(index, None, fault=str(error))
            continue
        sid, fid = first_of(item.info, SID), first_of(item.info, FID)
        if rows is not None:
            sid, fid, reference = rows[index]
            if structure.energy is not None:
                structure.energy -= reference * options.scale
        yield set_ids(Frame(index, structure, rule), sid, fid, file_number)
    if rows is not None and count != len(rows):
        more = "more" if count > len(rows) else count
        raise DataError(f"{path} has {more} frames, but {sidecar} has {len(rows)} lines")


def _written_ids(comment: str) -> dict[str, str]:
    """Ids as they are written: ASE takes `12e3` and 10^20 for floats and `T` for a flag."""
    return {match[1]: match[2] or match[3] for match in _ID.finditer(comment)}


def _traj_frames(path: Path) -> Iterator[Any]:
    from ase.io import iread

    frames = iter(iread(path, format="traj"))
    while True:
        try:
            yield next(frames)
        except StopIteration:
            return
        except Exception as error:  # whatever the reader stumbles on, the rest cannot be read
            yield f"the file cannot be read from here on: {type(error).__name__}: {error}"
            return


def _text_frames(path: Path) -> Iterator[Any]:
    """Atoms of each frame, or a message: a bad frame does not hide the ones behind it."""
    from ase.io.extxyz import read_xyz

    try:
        with _text(path) as file:
            while line := file.readline():
                if not line.strip():
                    continue
                try:
                    natoms = int(line)
                except ValueError:
                    shown = line.strip()[:40]
                    yield f"expected a number of atoms, got {shown!r}; the rest of the file is lost"
                    return
                lines = [line, *islice(file, min(max(natoms + 1, 0), sys.maxsize))]
                if len(lines) < natoms + 2:
                    yield f"the file ends within this frame of {natoms} atoms"
                    return
                try:
                    atoms = next(read_xyz(io.StringIO("".join(lines)), index=slice(None)))
                except KeyError as error:
                    yield f"not a frame of extended XYZ: {error} is no element and no known column"
                except Exception as error:  # ASE raises many kinds on malformed lines
                    yield f"not a frame of extended XYZ: {type(error).__name__}: {error}"
                else:
                    atoms.info |= _written_ids(lines[1])
                    yield atoms
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        yield f"the compressed file is cut off or damaged from here on: {error}"


def _structure(atoms: Atoms, options: FrameOptions) -> tuple[Structure, str]:
    structure = structure_from_atoms(atoms)
    if options.energy_key != "energy":
        value = atoms.info.get(options.energy_key)
        structure.energy = float(value) if value is not None else None
    if options.forces_key != "forces":
        structure.forces = atoms.arrays.get(options.forces_key)
    missing = [label for label in options.labels if getattr(structure, label) is None]
    if missing:
        keys = {"energy": options.energy_key, "forces": options.forces_key}
        results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
        there = sorted({*atoms.info, *results, *atoms.arrays} - {"numbers", "positions"})
        raise DataError(
            f"it carries no {' and no '.join(f'{m} (named {keys[m]})' for m in missing)}; there is "
            f"{', '.join(there) if there else 'nothing else'}. Name it by data.{missing[0]}_key, "
            f"or leave it out of data.labels"
        )
    if structure.energy is not None:
        structure.energy *= options.scale
    if structure.forces is not None:
        structure.forces = np.asarray(structure.forces, dtype=np.float64) * options.scale
    fixed = atoms.arrays.get("fixed")
    if fixed is not None and fixed.shape == (len(atoms),):
        structure.fixed = fixed.astype(bool)
    return structure, set_tags(structure)
