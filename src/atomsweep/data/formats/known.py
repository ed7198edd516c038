"""Which reader a path needs, told from names and, for LMDB files, from what is inside."""

from __future__ import annotations

from pathlib import Path

from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.extxyz import ExtXYZReader
from atomsweep.data.formats.find import find_files
from atomsweep.data.formats.flat_npz import FlatNPZReader
from atomsweep.data.formats.lmdb_files import get
from atomsweep.data.formats.ocp_lmdb import IS2RE, S2EF
from atomsweep.data.formats.store import StoreReader
from atomsweep.data.formats.unpickle import decode_record
from atomsweep.data.frames import Labels, Reader
from atomsweep.data.structure import DataError
from atomsweep.units import ENERGY_UNITS


def open_files(
    path: str, labels: Labels, energy_unit: str = "eV", linear_references: str | None = None
) -> tuple[Reader, list[Path]]:
    """The reader for a file, directory or glob pattern, and its files.

    Args:
        path: what to read.
        labels: what every frame must carry, where the reader can be told.
        energy_unit: of extended XYZ and trajectories.
        linear_references: of S2EF LMDBs.

    Raises:
        FileNotFoundError: nothing there is of a known kind.
        DataError: an LMDB that holds none of the known records.
    """
    text = ExtXYZReader("energy", "forces", ENERGY_UNITS[energy_unit], tuple(sorted(labels)))
    for reader in (StoreReader(), AseDb(labels), text, FlatNPZReader(labels)):
        try:
            files = find_files(path, reader)
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(reader, StoreReader):
            return _lmdb_reader(files[0], labels, linear_references), files
        return reader, files
    raise FileNotFoundError(
        f"no file of a known kind at {path}: .lmdb, .aselmdb, .db, .extxyz, .xyz (also .xz, .gz, "
        ".bz2), .traj and .npz of relaxations can be converted; molecules in .npz are read as they "
        "are by data=md17"
    )


def _lmdb_reader(file: Path, labels: Labels, linear_references: str | None) -> Reader:
    if get(file, b"natoms") is not None:
        return StoreReader()
    if (record := get(file, b"0")) is None:
        raise DataError(f"{file} is an LMDB without a record 0: neither OC20's nor a native store")
    try:
        fields = decode_record(record)
    except DataError as error:
        raise DataError(f"frame 0 of {file}: the record {error}") from None
    if "y_relaxed" in fields or "pos_relaxed" in fields:
        return IS2RE(tuple(label for label in labels if label == "energy"))
    return S2EF(labels, linear_references)
