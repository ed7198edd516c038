"""ASE databases (.db) and fairchem's .aselmdb (rows of JSON in LMDB): no pickle in either."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.data.constraints import held_atoms
from atomsweep.data.formats.lmdb_files import check_shards, count_keys, get
from atomsweep.data.frames import (
    FID,
    SID,
    Frame,
    Labels,
    Reader,
    check_labels,
    first_of,
    lacking,
    set_ids,
    set_tags,
)
from atomsweep.data.structure import DataError, Structure
from atomsweep.data.values import directions, integers, number, numbers

MAX_ROW_BYTES = 256 << 20  # unpacked


@dataclass(frozen=True)
class AseDb(Reader):
    """Rows of ASE databases: SQLite, or LMDB as fairchem writes it.

    `sid` and `fid` are taken from a row's data or key-value pairs. Fixed atoms are those that
    constraints hold in all three directions. Energies and forces are those of the stored
    calculation, as computed, or else of the key-value pairs, or else of the row's data.

    Attributes:
        labels: what every row must carry.
        energy_key: name of the energy.
        forces_key: name of the forces.
    """

    own = True
    version = 2  # text ids; constraints in all three directions; values taken for what they say
    labels: Labels = ("energy", "forces")
    energy_key: str = "energy"
    forces_key: str = "forces"
    suffixes = (".db", ".aselmdb")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))

    def check_files(self, files: Sequence[Path]) -> None:
        """No shard is missing."""
        check_shards(files)

    def count(self, file: Path) -> int:
        """Number of rows."""
        if file.suffix.lower() == ".db":
            return len(_connect(file))
        return len(_row_ids(file))

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Rows in the order of their ids."""
        rows = (
            _sqlite_rows(file, start, stop)
            if file.suffix.lower() == ".db"
            else _rows(file, start, stop)
        )
        for index, row in enumerate(rows, start):
            if isinstance(row, str):
                yield Frame(index, None, fault=row)
                continue
            try:
                structure, unkept = self._structure(row)
                ids = {**row, **_record(row, "key_value_pairs"), **_record(row, "data")}
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                yield Frame(index, None, fault=f"the row {error}")
            else:
                frame = Frame(index, structure, set_tags(structure), unkept=unkept)
                yield set_ids(frame, first_of(ids, SID), first_of(ids, FID), number)

    def _structure(self, row: Mapping[str, Any]) -> tuple[Structure, list[str]]:
        """A structure without ids, and constraints that it cannot keep."""
        places = (row, _record(row, "key_value_pairs"), _record(row, "data"))
        labels = {
            label: next((place[key] for place in places if place.get(key) is not None), None)
            for label, key in (("energy", self.energy_key), ("forces", self.forces_key))
            if label in self.labels
        }
        if missing := [label for label, value in labels.items() if value is None]:
            there = {key for place in places for key in place if place[key] is not None}
            keys = {"energy": self.energy_key, "forces": self.forces_key}
            raise DataError(lacking(keys, missing, there - _OWN, "data.reader."))
        for name in ("numbers", "positions"):
            if row.get(name) is None:
                raise DataError(f"has no {name}; there is {', '.join(sorted(row))}")
        species = integers("numbers", _plain(row["numbers"])).ravel()
        cell, pbc, tags = (_plain(row.get(name)) for name in ("cell", "pbc", "tags"))
        vectors = np.zeros(9) if cell is None else numbers("cell", cell)
        if vectors.size != 9:
            raise DataError(f"has a cell of {vectors.size} numbers, expected 9")
        vectors = vectors.reshape(3, 3)
        constraints = _plain(_unpacked(row.get("constraints") or []))
        if not isinstance(constraints, list):
            raise DataError(f"has constraints that are no list: {constraints!r}"[:200])
        fixed, unkept = held_atoms(constraints, len(species), vectors)
        energy, forces = labels.get("energy"), labels.get("forces")
        structure = Structure(
            atomic_numbers=species,
            pos=numbers("positions", _plain(row["positions"])),
            cell=vectors,
            pbc=np.zeros(3, dtype=bool) if pbc is None else directions(pbc),
            tags=np.zeros(len(species), np.int64) if tags is None else integers("tags", tags),
            fixed=fixed,
            forces=None if forces is None else numbers(self.forces_key, _plain(forces)),
            energy=None if energy is None else number(self.energy_key, _plain(energy)),
        )
        return structure, unkept


def _connect(file: Path) -> Any:
    from ase.db import connect

    try:
        database = connect(file, type="db", use_lock_file=False)
        len(database)
    except Exception as error:  # of sqlite3 or ASE, whatever they stumble on
        raise DataError(f"{file} is no ASE database: {error}") from error
    return database


def _sqlite_rows(file: Path, start: int, stop: int | None) -> Iterator[Mapping[str, Any] | str]:
    rows = _connect(file).select(sort="id", offset=start, limit=stop - start if stop else -1)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of sqlite3 or ASE: the rest cannot be read
            yield f"the database cannot be read from here on: {type(error).__name__}: {error}"
            return
        try:
            # not row.constraints, which fails on those of a class that ASE does not know
            own = {"data": dict(row.data), "constraints": getattr(row, "_constraints", [])}
            yield {**{key: row.get(key) for key in row}, **own}
        except Exception as error:  # likewise
            yield f"the row cannot be read: {type(error).__name__}: {error}"


_OWN = frozenset(  # of every row, and no labels
    (
        *("id", "unique_id", "ctime", "mtime", "user", "calculator", "calculator_parameters"),
        *("numbers", "positions", "cell", "pbc", "constraints", "data", "key_value_pairs"),
    )
)


def _row_ids(file: Path) -> list[int]:
    """Ids of the rows of an .aselmdb, in order."""
    last, deleted = _json(file, b"nextid"), _json(file, b"deleted_ids")
    if not _is_id(last):
        raise DataError(f"{file} has no key nextid that is a number: it is no .aselmdb file")
    if not isinstance(deleted, list | None) or not all(map(_is_id, deleted or ())):
        raise DataError(f"{file} has deleted_ids that are no list of numbers: {str(deleted)[:60]}")
    gone, records = set(deleted or ()), count_keys(file, ())
    if last - len(gone) > 2 * records + 1000:  # a few that are lacking are told one by one
        raise DataError(f"{file} has nextid {last}, but only {records} records; it is damaged")
    if any(get(file, str(number).encode()) is not None for number in range(last, last + 3)):
        raise DataError(f"{file} has nextid {last}, and rows beyond it; it is damaged")
    return [number for number in range(1, last) if number not in gone]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rows(file: Path, start: int, stop: int | None) -> Iterator[Mapping[str, Any] | str]:
    for place in islice(_row_ids(file), start, stop):
        try:
            row = _json(file, str(place).encode())
        except DataError as error:
            yield str(error)
            continue
        if not isinstance(row, dict):
            yield f"the file has no row {place}" if row is None else f"row {place} is no record"
            continue
        yield row


def _json(file: Path, key: bytes) -> Any:
    packed = get(file, key)
    if packed is None:
        return None
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MAX_ROW_BYTES)
        if unpacker.unconsumed_tail:
            raise DataError(f"key {key.decode()} unpacks to more than {MAX_ROW_BYTES} bytes")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"key {key.decode()} of {file} is no packed JSON: {error}") from error


def _record(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Named values that a row carries."""
    found = _unpacked(row.get(name) or {})
    if not isinstance(found, Mapping):
        raise DataError(f"has {name} that are no record")
    return found


def _unpacked(value: Any) -> Any:
    """A value that may be JSON text."""
    return json.loads(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """A value of JSON with ASE's notation for arrays and cells made into arrays."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "__ndarray__" in value:
        shape, _, values = value["__ndarray__"]
        return np.reshape(np.asarray(values), shape)
    if value.get("__ase_objtype__") == "cell":
        return _plain(value.get("array"))
    return {key: _plain(one) for key, one in value.items()}
