"""A native store as a data set: one LMDB file of binary records, no pickle. See docs/data.md."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from atomsweep.data.dataset import StructureDataset, Subset
from atomsweep.data.mapped import take
from atomsweep.data.store.environment import close_environment, open_environment
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.store.pages import end_of_pages, place_of
from atomsweep.data.store.record import (
    GROUPED,
    HAS_ENERGY,
    HAS_FORCES,
    INDEX,
    META,
    PBC,
    VERSION,
    WITH_EDGES,
    Buffer,
    check_record,
    cut,
    decode,
    key_of,
    member,
)
from atomsweep.data.structure import Array, DataError, Structure, structure_fault
from atomsweep.graph.neighbors import RadiusGraph

_SMALL = 1 << 20  # bytes of an array that is read rather than mapped


class StoreDataset(StructureDataset):
    """A native store, read in any order. Safe to fork, pickle and open more than once.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not a store, was cut off, or has another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self.meta = _header(self.path, _raw_header(self.path))
        self._group = self.meta.get("group", 1)  # records of a value
        self._natoms = self._mapped("natoms")
        self.sids = self._mapped("sid")  # (len,)
        self.fids = self._mapped("fid")  # (len,)
        self.num_edges: Array | None = None  # (len,) with stored neighbour lists
        self.graph: RadiusGraph | None = None  # what the stored neighbour lists are
        if self.meta["version"] == WITH_EDGES or "neighbors" in self.meta:
            try:
                self.graph = RadiusGraph(**self.meta["neighbors"])
            except (TypeError, ValueError, KeyError) as error:
                raise _damaged(self.path, f"tells no neighbour lists ({error})") from error
            self.num_edges = self._mapped("num_edges")
        self.has_energy, self.has_forces = self.meta["has_energy"], self.meta["has_forces"]
        self.fingerprint = (
            f"{self.meta['fingerprint']}-{self.path.stem}" if self.meta["fingerprint"] else ""
        )
        self.cache_dir = self.path.parent

    def __reduce__(self) -> tuple[type[StoreDataset], tuple[Path]]:
        return StoreDataset, (self.path,)

    def _mapped(self, name: str) -> Array:
        """An array of the index as it lies in the file: no process has a copy of its own."""
        count, dtype = self.meta["count"], np.dtype(INDEX[name])
        place = place_of(self.path, name.encode())
        if place is None:  # the arrays of a large store lie behind its pages
            before = list(INDEX)[: list(INDEX).index(name)]
            offset = end_of_pages(self.path)
            offset += sum(count * np.dtype(INDEX[one]).itemsize for one in before)
            place = offset, min(count * dtype.itemsize, self.path.stat().st_size - offset)
        offset, size = place
        if size != count * dtype.itemsize:
            raise DataError(
                f"{self.path}: its array {name} has {size} bytes, which do not fit "
                f"{count} structures; build it again"
            )
        if size < _SMALL:
            with self.path.open("rb") as file:
                file.seek(offset)
                return np.frombuffer(file.read(size), dtype)
        return np.asarray(np.memmap(self.path, dtype, "r", offset, (count,)))

    def release(self) -> None:
        """Close the file: pages of it that were read count as this process's memory."""
        close_environment(self.path)

    def __len__(self) -> int:
        return len(self._natoms)

    def __getitem__(self, index: int) -> Structure:
        structure = self.decoded(index)
        if fault := structure_fault(structure):
            raise self._unusable(index, structure, fault)
        return structure

    def decoded(self, index: int) -> Structure:
        """The structure of a record that is what the index says; its values are not checked.

        Raises:
            DataError: the record is missing, damaged, or another than the index says.
            IndexError: outside the data set.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"structure {index} of {len(self)} in {self.path}")
        record = self.record(index)
        try:
            structure = decode(record)
        except DataError as error:
            raise DataError(f"{self.where(index)} {error}") from None
        fault = ""
        told = (self._natoms[index], self.sids[index], self.fids[index])
        if (structure.natoms, structure.sid, structure.fid) != told:
            fault = "the file's index tells another size or other ids"
        for label, promised in (("energy", self.has_energy), ("forces", self.has_forces)):
            if promised and getattr(structure, label) is None:
                fault = f"it carries no {label}, while the file says that all do"
        if fault:
            raise self._unusable(index, structure, fault)
        return structure

    def _unusable(self, index: int, structure: Structure, fault: str) -> DataError:
        ids = f"(sid {structure.sid}, fid {structure.fid})"
        return DataError(f"{self.where(index)} {ids}: {fault}")

    def record(self, index: int) -> bytes:
        """The bytes of a record, not checked.

        Raises:
            DataError: there is none, or the file cannot be read.
        """
        return self.records([index])[0]

    def records(self, indices: Iterable[int]) -> list[bytes]:
        """The bytes of some records, not checked.

        Raises:
            DataError: as `record`.
        """
        try:
            with open_environment(self.path).begin(buffers=True) as transaction:
                return [bytes(self._record(transaction, index)) for index in indices]
        except lmdb.Error as error:
            raise DataError(f"{self.path} cannot be read: {error}") from error

    def _record(self, transaction: lmdb.Transaction, index: int) -> Buffer:
        first = index - index % self._group
        record: Buffer | None = transaction.get(key_of(first))
        if record is not None and self._group > 1:
            try:
                record = member(record, min(self._group, len(self) - first), index - first)
            except DataError as error:
                raise DataError(f"{self.where(index)} {error}") from None
        if not record:
            raise DataError(f"{self.where(index)} is missing from the file")
        return record

    def flat(self, indices: Iterable[int], edges: bool) -> tuple[FlatStructures, FlatEdges | None]:
        """Many structures at once, and their stored neighbour lists, with no object for each.

        Raises:
            DataError: a record is missing, damaged or not finite; reading one by one names which.
        """
        heads: list[tuple[int, int, int, int, int, float]] = []
        rows: list[list[Any]] = []
        places = list(indices)
        with open_environment(self.path).begin(buffers=True) as transaction:
            for index in places:
                record = self._record(transaction, index)
                heads.append(check_record(record))
                rows.append(cut(record, heads[-1][0], heads[-1][2], edges))
            # bytearray: torch wants to write into it
            columns = [bytearray().join(parts) for parts in zip(*rows, strict=True)]
        flags, pbc, natoms, sid, fid, energy = map(np.array, zip(*heads, strict=True))
        which = np.array(places)
        told = [take(column, which) for column in (self._natoms, self.sids, self.fids)]
        promised = self.has_energy * HAS_ENERGY | self.has_forces * HAS_FORCES
        if (flags & promised != promised).any() or any(
            (one != other).any() for one, other in zip((natoms, sid, fid), told, strict=True)
        ):
            raise DataError(f"a structure of {self.path} is not what the file says of it")
        cell, pos, forces, numbers, tags, fixed, *lists = columns
        flat = FlatStructures(
            natoms=natoms,
            atomic_numbers=np.frombuffer(numbers, "u1"),
            pos=np.frombuffer(pos, "<f4").reshape(-1, 3),
            tags=np.frombuffer(tags, "i1"),
            fixed=np.frombuffer(fixed, "?"),
            cell=np.frombuffer(cell, "<f8").reshape(-1, 3, 3),
            pbc=PBC[pbc],
            sid=sid,
            fid=fid,
            energy=energy if self.has_energy else None,
            forces=np.frombuffer(forces, "<f4").reshape(-1, 3) if self.has_forces else None,
        )
        checked = (flat.pos, flat.cell, flat.energy, flat.forces)
        if not all(np.isfinite(values).all() for values in checked if values is not None):
            raise DataError(f"a structure of {self.path} is not finite")
        if not edges:
            return flat, None
        degree, source, offsets = lists
        return flat, FlatEdges(
            num_edges=np.array([len(row[-1]) // 3 for row in rows], dtype=np.int64),
            degree=np.frombuffer(degree, "<u2").astype("i4"),
            source=np.frombuffer(source, "<u2").astype("i4"),
            offsets=np.frombuffer(offsets, "i1").astype("i2").reshape(-1, 3),
        )

    @property
    def natoms(self) -> Array:
        """(len,) uint32, mapped from the file."""
        return self._natoms


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} is damaged: its key meta {what}; build it again")


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    """What `meta` says, checked.

    Raises:
        DataError: it is damaged or of another version; names the file.
    """
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is no JSON ({error})") from error
    if not isinstance(meta, dict):
        raise _damaged(path, "is no record")
    if meta.get("version") not in (VERSION, WITH_EDGES, GROUPED):
        raise DataError(
            f"{path} has store version {meta.get('version')!r:.60}, this program reads versions "
            f"{VERSION} to {GROUPED}; build it again"
        )
    if meta["version"] == GROUPED and not (type(meta.get("group")) is int and meta["group"] > 0):
        raise _damaged(path, f"says group {meta.get('group')!r:.60}")
    kinds = {"count": int, "fingerprint": str, "has_energy": bool, "has_forces": bool}
    optional = {name: dict for name in ("provenance", "conversion") if name in meta}
    for name, kind in {**kinds, **optional}.items():
        if type(meta.get(name)) is not kind:
            raise _damaged(path, f"says {name} {meta.get(name)!r:.60}")
    return meta


def _raw_header(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such store", str(path))
    try:
        with open_environment(path).begin() as transaction:
            raw: bytes = transaction.get(META, b"")
    except (lmdb.Error, DataError) as error:
        raise DataError(f"{path} is not a store of this program: {error}") from error
    if not raw:
        raise DataError(f"{path} is an LMDB, but not a store of this program; convert it first")
    return raw


def read_at_once(
    dataset: StructureDataset, places: Array, graph: RadiusGraph | None
) -> tuple[FlatStructures, FlatEdges | None] | None:
    """Structures of a native store or a subset of one, with neighbour lists if it has `graph`'s.

    None where the data set is no store, or where something in it is wrong: reading one by one tells
    what.
    """
    while isinstance(dataset, Subset):
        places, dataset = dataset.indices[places], dataset.dataset
    if not isinstance(dataset, StoreDataset) or not len(places):
        return None
    try:
        return dataset.flat(places.tolist(), graph is not None and graph == dataset.graph)
    except DataError:
        return None


def stored_num_edges(dataset: StructureDataset, graph: RadiusGraph | None) -> Array | None:
    """(len,) number of edges of each structure, where a native store has `graph`'s lists."""
    if isinstance(dataset, Subset):
        whole = stored_num_edges(dataset.dataset, graph)
        return whole[dataset.indices] if whole is not None else None
    if isinstance(dataset, StoreDataset) and graph is not None and graph == dataset.graph:
        return dataset.num_edges
    return None
