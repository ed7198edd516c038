"""The native store: one LMDB file of fixed binary records, no pickle. Layout in docs/data.md."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.store.record import (
    COUNT,
    HAS_EDGES,
    HAS_ENERGY,
    HAS_FORCES,
    HEADER,
    PBC,
    VERSION,
    WITH_EDGES,
    check_record,
    decode,
    edges_at,
    encode,
)
from atomsweep.data.structure import (
    Array,
    DataError,
    Structure,
    StructureDataset,
    Subset,
    structure_fault,
)
from atomsweep.graph.neighbors import RadiusGraph

_META, _NUM_EDGES = b"meta", b"num_edges"
_BATCH_BYTES = 32 << 20  # written in one transaction
_FIRST_MAP = 64 << 20
_NEARLY_FULL = 1 << 20  # bytes that a failed write leaves on a full disk


def _key(index: int) -> bytes:
    return struct.pack(">Q", index)  # big-endian: LMDB's order is the order of the data set


class StoreWriter:
    """Writes a store under a temporary name; the file appears, complete, when the block ends.

        with StoreWriter(path, provenance=..., fingerprint=...) as writer:
            writer.add(structure)

    Args:
        path: the file; an existing one is replaced in one step.
        fingerprint: of the content; derived files are keyed by it.
        meta: more to keep in the header, plain JSON; may be added to until the block ends.
        graph: neighbour lists of this kind are stored with the structures.

    Raises:
        DataError: a structure is unusable (from `add`).
        OSError: the disk is full or the path not writable; names the path, leaves no file behind.
    """

    def __init__(
        self,
        path: Path | str,
        fingerprint: str = "",
        meta: dict[str, Any] | None = None,
        graph: RadiusGraph | None = None,
    ) -> None:
        self.path = Path(path)
        self.graph = graph
        self.fingerprint = fingerprint
        self.meta = dict(meta) if meta is not None else {}
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._natoms: list[int] = []
        self._ids: list[tuple[int, int]] = []
        self._num_edges: list[int] = []
        self._all_flags = HAS_ENERGY | HAS_FORCES
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._env: Any = None

    def __enter__(self) -> StoreWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.unlink(missing_ok=True)
        with _named_errors(self.path):
            self._env = lmdb.open(
                str(self._temporary), subdir=False, lock=False, map_size=_FIRST_MAP, sync=False
            )
        return self

    def add(self, structure: Structure) -> None:
        """Append a structure.

        Raises:
            DataError: it is unusable.
        """
        name = (
            f"structure {len(self._natoms)} for {self.path} "
            f"(sid {structure.sid}, fid {structure.fid})"
        )
        if fault := structure_fault(structure):
            raise DataError(f"{name}: {fault}")
        edges = None
        if self.graph is not None:
            flat = FlatStructures.collect([structure], energy=False, forces=False)
            edges = FlatEdges.build(flat, self.graph, [name])
        self._append(encode(structure, edges), structure.natoms, structure.sid, structure.fid)

    def add_record(self, record: bytes) -> None:
        """Append a record of another store as it is.

        Raises:
            DataError: it is not a whole record, or not of the kind that this store holds.
        """
        flags, _, natoms, sid, fid, _ = check_record(record)
        if bool(flags & HAS_EDGES) != (self.graph is not None):
            raise DataError("has neighbour lists where this store has none, or the reverse")
        self._append(record, natoms, sid, fid)

    def _append(self, record: bytes, natoms: int, sid: int, fid: int) -> None:
        if self.graph is not None:
            self._num_edges += COUNT.unpack_from(record, edges_at(record[5], natoms))
        self._pending.append((_key(len(self._natoms)), record))
        self._pending_bytes += len(record)
        self._natoms.append(natoms)
        self._ids.append((sid, fid))
        self._all_flags &= record[5]
        if self._pending_bytes > _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        with _named_errors(self.path):
            while True:
                try:
                    with self._env.begin(write=True) as transaction:
                        for key, record in self._pending:
                            transaction.put(key, record)
                    break
                except lmdb.MapFullError:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
        self._pending, self._pending_bytes = [], 0

    def _finish(self) -> None:
        ids = np.array(self._ids, dtype="<i8").reshape(-1, 2)
        header = {
            "version": VERSION if self.graph is None else WITH_EDGES,
            "count": len(self._natoms),
            "fingerprint": self.fingerprint,
            "has_energy": bool(self._all_flags & HAS_ENERGY) and bool(self._natoms),
            "has_forces": bool(self._all_flags & HAS_FORCES) and bool(self._natoms),
            **self.meta,
        }
        if self.graph is not None:
            header["neighbors"] = asdict(self.graph)
            self._pending.append((_NUM_EDGES, np.array(self._num_edges, dtype="<u4").tobytes()))
        self._pending += [
            (_META, json.dumps(header, sort_keys=True).encode()),
            (b"natoms", np.array(self._natoms, dtype="<u4").tobytes()),
            (b"sid", ids[:, 0].tobytes()),
            (b"fid", ids[:, 1].tobytes()),
        ]
        self._flush()
        with _named_errors(self.path):
            self._env.sync(True)
            size = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            self._env.close()
            self._env = None
            if self._temporary.stat().st_size < size:  # so that readers can tell a file cut off
                os.truncate(self._temporary, size)
            os.replace(self._temporary, self.path)  # noqa: PTH105 (atomic also over an existing file)
            sync_directory(self.path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._env is not None:
                self._env.close()
                self._env = None
            self._temporary.unlink(missing_ok=True)


class _named_errors:
    """Turn LMDB's errors of the file system into an OSError that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, lmdb.Error) and not isinstance(error, lmdb.MapFullError):
            full = "No space left" in str(error) or "File too large" in str(error)
            # where only a part of a page fitted, LMDB says "Input/output error"
            full = full or shutil.disk_usage(self.path.parent).free < _NEARLY_FULL
            code = errno.ENOSPC if full else errno.EIO
            told = "the disk is full" if full else str(error)
            raise OSError(code, f"cannot write the store: {told}", str(self.path)) from error


def sync_directory(path: Path) -> None:
    """Make a rename in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_environments: dict[tuple[str, int, int], Any] = {}
_environments_lock = threading.Lock()


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _environments_lock
    _environments_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def open_environment(path: Path) -> Any:
    """The one reader of a file in this process; LMDB refuses to open a file twice.

    Keyed by inode too: a replaced file is another. A reader without locks only maps the file, so it
    goes on working in a forked child.

    Raises:
        DataError: the file was cut off.
        lmdb.Error: it is no LMDB.
    """
    stat = path.stat()
    key = (str(path.resolve()), stat.st_ino, stat.st_dev)
    with _environments_lock:
        if key not in _environments:
            env = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False
            )
            size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            if stat.st_size < size:  # reading past the end of a mapped file kills the process
                env.close()
                raise DataError(f"{path} is cut off: {stat.st_size} bytes, {size} expected")
            _environments[key] = env
        return _environments[key]


def close_environment(path: Path) -> None:
    """Close the reader of a file, if there is one; whoever reads it again opens it anew."""
    with _environments_lock:
        for key in [key for key in _environments if key[0] == str(path.resolve())]:
            _environments.pop(key).close()


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
        if not self.path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such store", str(self.path))
        try:
            with open_environment(self.path).begin() as transaction:
                raw = {
                    name: transaction.get(name)
                    for name in (_META, b"natoms", b"sid", b"fid", _NUM_EDGES)
                }
        except lmdb.Error as error:
            raise DataError(f"{self.path} is not a store of this program: {error}") from error
        if raw[_META] is None:
            raise DataError(
                f"{self.path} is an LMDB, but not a store of this program; convert it first"
            )
        self.meta: dict[str, Any] = json.loads(raw[_META])
        if self.meta.get("version") not in (VERSION, WITH_EDGES):
            raise DataError(
                f"{self.path} has store version {self.meta.get('version')}, this program reads "
                f"version {VERSION} and {WITH_EDGES}; build it again"
            )
        count = int(self.meta["count"])
        sizes = {name.decode(): len(raw[name] or b"") for name in (b"natoms", b"sid", b"fid")}
        if sizes != {"natoms": 4 * count, "sid": 8 * count, "fid": 8 * count}:
            raise DataError(
                f"{self.path}: index arrays of {sizes} bytes do not fit {count} structures"
            )
        self._natoms = np.frombuffer(raw[b"natoms"], "<u4").astype(np.int64)
        self.sids = np.frombuffer(raw[b"sid"], "<i8").astype(np.int64)  # (len,)
        self.fids = np.frombuffer(raw[b"fid"], "<i8").astype(np.int64)  # (len,)
        self.num_edges: Array | None = None  # (len,) with stored neighbour lists
        self.graph: RadiusGraph | None = None  # what the stored neighbour lists are
        if self.meta["version"] == WITH_EDGES:
            self.graph = RadiusGraph(**self.meta["neighbors"])
            self.num_edges = np.frombuffer(raw[_NUM_EDGES], "<u4").astype(np.int64)
        self.has_energy = bool(self.meta["has_energy"])
        self.has_forces = bool(self.meta["has_forces"])
        self.fingerprint = (
            f"{self.meta['fingerprint']}-{self.path.stem}" if self.meta["fingerprint"] else ""
        )
        self.cache_dir = self.path.parent

    def __len__(self) -> int:
        return len(self._natoms)

    def __getitem__(self, index: int) -> Structure:
        if not 0 <= index < len(self):
            raise IndexError(f"structure {index} of {len(self)} in {self.path}")
        record = self.record(index)
        try:
            structure = decode(record)
        except DataError as error:
            raise DataError(f"{self.where(index)} {error}") from None
        if fault := structure_fault(structure):
            raise DataError(
                f"{self.where(index)} (sid {structure.sid}, fid {structure.fid}): {fault}"
            )
        return structure

    def record(self, index: int) -> bytes:
        """The bytes of a record, not checked.

        Raises:
            DataError: there is none, or the file cannot be read.
        """
        try:
            with open_environment(self.path).begin() as transaction:
                record = transaction.get(_key(index))
        except lmdb.Error as error:
            raise DataError(f"{self.where(index)} cannot be read: {error}") from error
        if record is None:
            raise DataError(f"{self.where(index)} is missing from the file")
        return bytes(record)

    def flat(self, indices: Iterable[int], edges: bool) -> tuple[FlatStructures, FlatEdges | None]:
        """Many structures at once, and their stored neighbour lists, with no object for each.

        Raises:
            DataError: a record is missing, damaged or not finite; reading one by one names which.
        """
        forces, energy = self.has_forces, self.has_energy
        heads: list[tuple[int, int, int, int, int, float]] = []
        cells, pos, force, numbers, tags, fixed = [], [], [], [], [], []
        num_edges, degree, source, offsets = [], [], [], []
        with open_environment(self.path).begin(buffers=True) as transaction:
            for index in indices:
                record = transaction.get(_key(index))
                if record is None:
                    raise DataError(f"{self.where(index)} is missing from the file")
                head = check_record(record)
                heads.append(head)
                n = head[2]
                at = HEADER.size
                cells.append(record[at : at + 72])
                at += 72
                pos.append(record[at : at + 12 * n])
                at += 12 * n
                if head[0] & HAS_FORCES:
                    force.append(record[at : at + 12 * n])
                    at += 12 * n
                numbers.append(record[at : at + n])
                tags.append(record[at + n : at + 2 * n])
                fixed.append(record[at + 2 * n : at + 3 * n])
                if edges:
                    at += 3 * n
                    count = COUNT.unpack_from(record, at)[0]
                    at += COUNT.size
                    num_edges.append(count)
                    degree.append(record[at : at + 2 * n])
                    at += 2 * n
                    source.append(record[at : at + 2 * count])
                    at += 2 * count
                    offsets.append(record[at : at + 3 * count])

            def joined(parts: list[Any], dtype: str) -> Array:
                return np.frombuffer(bytearray().join(parts), dtype)  # torch wants it writable

            _, pbc, natoms, sid, fid, energies = map(np.array, zip(*heads, strict=True))
            flat = FlatStructures(
                natoms=natoms,
                atomic_numbers=joined(numbers, "u1"),
                pos=joined(pos, "<f4").reshape(-1, 3),
                tags=joined(tags, "i1"),
                fixed=joined(fixed, "?"),
                cell=joined(cells, "<f8").reshape(-1, 3, 3),
                pbc=PBC[pbc],
                sid=sid,
                fid=fid,
                energy=energies if energy else None,
                forces=joined(force, "<f4").reshape(-1, 3) if forces else None,
            )
            lists = None
            if edges:
                lists = FlatEdges(
                    num_edges=np.array(num_edges, dtype=np.int64),
                    degree=joined(degree, "<u2").astype("i4"),
                    source=joined(source, "<u2").astype("i4"),
                    offsets=joined(offsets, "i1").astype("i2").reshape(-1, 3),
                )
        checked = (flat.pos, flat.cell, flat.energy, flat.forces)
        if not all(np.isfinite(values).all() for values in checked if values is not None):
            raise DataError(f"a structure of {self.path} is not finite")
        return flat, lists

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return self._natoms


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
