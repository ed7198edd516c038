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

from atomsweep.data.formats.lmdb_files import check_shards, get
from atomsweep.data.frames import (
    FID,
    SID,
    Frame,
    Labels,
    Reader,
    check_labels,
    first_of,
    set_ids,
    set_tags,
)
from atomsweep.data.structure import Array, DataError, Structure

MAX_ROW_BYTES = 256 << 20  # unpacked


@dataclass(frozen=True)
class AseDb(Reader):
    """Rows of ASE databases: SQLite, or LMDB as fairchem writes it.

    `sid` and `fid` are taken from a row's data or key-value pairs. Fixed atoms are those of
    `FixAtoms`; energies and forces those of the stored calculation, as computed.

    Attributes:
        labels: what every row must carry.
    """

    version = 2  # ids that are text
    labels: Labels = ("energy", "forces")
    suffixes = (".db", ".aselmdb")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))

    def check_files(self, files: Sequence[Path]) -> None:
        """No shard is missing."""
        check_shards(files)

    def count(self, file: Path) -> int:
        """Number of rows."""
        if file.suffix == ".db":
            return len(_connect(file))
        return len(_row_ids(file))

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Rows in the order of their ids."""
        rows = _sqlite_rows(file, start, stop) if file.suffix == ".db" else _rows(file, start, stop)
        for index, row in enumerate(rows, start):
            if isinstance(row, str):
                yield Frame(index, None, fault=row)
                continue
            try:
                structure, data = _structure(row, self.labels)
            except (DataError, ValueError, TypeError, KeyError) as error:
                yield Frame(index, None, fault=f"the row {error}")
            else:
                frame = Frame(index, structure, set_tags(structure))
                sid, fid = (first_of({**row, **data}, names) for names in (SID, FID))
                yield set_ids(frame, sid, fid, number)


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
            found = {key: row.get(key) for key in _FIELDS if row.get(key) is not None}
            found["constraints"] = [one.todict() for one in row.constraints]
            found.update(data=dict(row.data), **row.key_value_pairs)
        except StopIteration:
            return
        except Exception as error:  # the rest cannot be read
            yield f"the database cannot be read from here on: {type(error).__name__}: {error}"
            return
        yield found


_FIELDS = ("numbers", "positions", "cell", "pbc", "tags", "energy", "forces")


def _row_ids(file: Path) -> list[int]:
    """Ids of the rows of an .aselmdb, in order."""
    last, deleted = _json(file, b"nextid"), _json(file, b"deleted_ids")
    if not isinstance(last, int):
        raise DataError(f"{file} has no key nextid: it is no .aselmdb file")
    gone = set(deleted if isinstance(deleted, list) else ())
    return [number for number in range(1, last) if number not in gone]


def _rows(file: Path, start: int, stop: int | None) -> Iterator[Mapping[str, Any] | str]:
    for number in islice(_row_ids(file), start, stop):
        try:
            row = _json(file, str(number).encode())
        except DataError as error:
            yield str(error)
            continue
        if not isinstance(row, dict):
            yield f"the file has no row {number}" if row is None else f"row {number} is no record"
            continue
        yield {**row, **row.get("key_value_pairs", {})}


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
    except (zlib.error, ValueError) as error:
        raise DataError(f"key {key.decode()} of {file} is no packed JSON: {error}") from error


def _structure(row: Mapping[str, Any], labels: Labels) -> tuple[Structure, Mapping[str, Any]]:
    """All but the ids, and the row's own data."""

    def array(name: str, dtype: str, default: Any = None) -> Array:
        value = row.get(name, default)
        if value is None:
            raise DataError(f"has no {name}; there is {', '.join(sorted(row))}")
        if isinstance(value, dict) and "__ndarray__" in value:
            shape, _, values = value["__ndarray__"]
            value = np.reshape(values, shape)
        return np.array(value, dtype=dtype)

    for label in labels:
        if row.get(label) is None:
            there = ", ".join(sorted(key for key in row if row[key] is not None))
            raise DataError(
                f"carries no {label}; there is {there}. Leave it out of data.reader.labels if that "
                "is right"
            )
    numbers = array("numbers", "i8")
    n = len(numbers)
    fixed = np.zeros(n, dtype=bool)
    constraints = row.get("constraints") or []
    for one in json.loads(constraints) if isinstance(constraints, str) else constraints:
        if one.get("name") == "FixAtoms":
            indices = one["kwargs"]["indices"]
            if isinstance(indices, dict):
                indices = indices["__ndarray__"][2]
            fixed[np.asarray(indices, dtype=np.int64)] = True
    data = row.get("data") or {}
    data = json.loads(data) if isinstance(data, str) else data
    structure = Structure(
        atomic_numbers=numbers,
        pos=array("positions", "f8"),
        cell=array("cell", "f8", np.zeros((3, 3))).reshape(3, 3),
        pbc=array("pbc", "?", [False] * 3),
        tags=array("tags", "i8", np.zeros(n)),
        fixed=fixed,
        forces=array("forces", "f8") if "forces" in labels else None,
        energy=float(row["energy"]) if "energy" in labels else None,
    )
    return structure, data
