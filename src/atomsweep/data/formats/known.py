"""Which reader a path needs, told from names and, for LMDB files, from what is inside."""

from __future__ import annotations

from pathlib import Path

from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.extxyz import ExtXYZReader
from atomsweep.data.formats.find import Found, find
from atomsweep.data.formats.flat_npz import FlatNPZReader
from atomsweep.data.formats.lmdb_files import get
from atomsweep.data.formats.ocp_lmdb import IS2RE, S2EF
from atomsweep.data.formats.store import StoreReader
from atomsweep.data.formats.unpickle import decode_record
from atomsweep.data.frames import Labels, Reader
from atomsweep.data.structure import DataError


def open_files(
    path: str,
    labels: Labels,
    linear_references: str | None = None,
    energy_key: str = "energy",
    forces_key: str = "forces",
) -> tuple[Reader, Found]:
    """The reader for a file, directory or glob pattern, and what lies there.

    Args:
        path: what to read.
        labels: what every frame must carry, where the reader can be told.
        linear_references: of S2EF LMDBs.
        energy_key: name of the energy in extended XYZ, trajectories and ASE databases.
        forces_key: likewise of the forces.

    Raises:
        FileNotFoundError: nothing there is of a known kind.
        ValueError: the path is empty, or an option is none of this kind of files.
        DataError: an LMDB that holds none of the known records, or links that cannot be followed.
    """
    keys = (energy_key, forces_key)
    text = ExtXYZReader(*keys, tuple(sorted(labels)))
    for reader in (StoreReader(), AseDb(labels, *keys), text, FlatNPZReader(labels)):
        try:
            found = find(path, reader)
        except FileNotFoundError:
            continue
        except ValueError as error:
            if isinstance(error, DataError) or not path.strip():
                raise
            continue  # a file of another kind
        if keys != ("energy", "forces") and not isinstance(reader, AseDb | ExtXYZReader):
            raise ValueError(
                f"{found.files[0]} has energy and forces under names of its own; --energy-key and "
                "--forces-key are for extended XYZ, trajectories and ASE databases"
            )
        if isinstance(reader, StoreReader):
            return _lmdb_reader(found.files[0], labels, linear_references), found
        return reader, found
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
