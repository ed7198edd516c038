"""The native store: one LMDB file of fixed binary records, no pickle. Layout in docs/data.md."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from atomsweep.data.base import Array, DataError, Structure, StructureDataset, structure_fault

VERSION = 1
MAGIC = b"ASWP"
_HEADER = struct.Struct("<4sBBBxI4xqqd")  # magic, version, flags, pbc, natoms, sid, fid, energy
_CRC = struct.Struct("<I")
_HAS_ENERGY, _HAS_FORCES = 1, 2
_META = b"meta"
_BATCH_BYTES = 32 << 20  # written in one transaction
_FIRST_MAP = 64 << 20


def encode(structure: Structure) -> bytes:
    """One record: header, cell, pos, forces, atomic_numbers, tags, fixed, CRC-32 of all before."""
    n = structure.natoms
    flags = 0
    if structure.energy is not None:
        flags |= _HAS_ENERGY
    parts = [
        np.ascontiguousarray(structure.cell, "<f8").tobytes(),
        np.ascontiguousarray(structure.pos, "<f4").tobytes(),
    ]
    if structure.forces is not None:
        flags |= _HAS_FORCES
        parts.append(np.ascontiguousarray(structure.forces, "<f4").tobytes())
    parts.append(np.ascontiguousarray(structure.atomic_numbers, "u1").tobytes())
    parts.append(np.ascontiguousarray(structure.tags, "i1").tobytes())
    parts.append(np.ascontiguousarray(structure.fixed, "?").tobytes())
    pbc = sum(1 << axis for axis in range(3) if structure.pbc[axis])
    energy = structure.energy if structure.energy is not None else 0.0
    header = _HEADER.pack(MAGIC, VERSION, flags, pbc, n, structure.sid, structure.fid, energy)
    body = b"".join([header, *parts])
    return body + _CRC.pack(zlib.crc32(body))


def decode(record: bytes) -> Structure:
    """The structure of a record. Arrays are read-only views of it.

    Raises:
        DataError: the record is not one of this version, is truncated or was altered.
    """
    if len(record) < _HEADER.size + _CRC.size or record[:4] != MAGIC:
        raise DataError(f"is no record of this store ({len(record)} bytes)")
    _, version, flags, pbc, n, sid, fid, energy = _HEADER.unpack_from(record)
    if version != VERSION:
        raise DataError(f"has record version {version}, this program reads version {VERSION}")
    has_forces = bool(flags & _HAS_FORCES)
    expected = _HEADER.size + 72 + n * (12 * (1 + has_forces) + 3) + _CRC.size
    if len(record) != expected:
        raise DataError(f"is truncated: {len(record)} bytes, {expected} expected for {n} atoms")
    if zlib.crc32(record[: -_CRC.size]) != _CRC.unpack_from(record, expected - _CRC.size)[0]:
        raise DataError("is corrupt: its checksum does not match")
    at = _HEADER.size

    def take(dtype: str, count: int) -> Array:
        nonlocal at
        array = np.frombuffer(record, dtype, count, at)
        at += array.nbytes
        return array

    return Structure(
        cell=take("<f8", 9).reshape(3, 3),
        pos=take("<f4", 3 * n).reshape(n, 3),
        forces=take("<f4", 3 * n).reshape(n, 3) if has_forces else None,
        atomic_numbers=take("u1", n),
        tags=take("i1", n),
        fixed=take("?", n),
        pbc=np.array([bool(pbc >> axis & 1) for axis in range(3)]),
        energy=energy if flags & _HAS_ENERGY else None,
        sid=sid,
        fid=fid,
    )


def _key(index: int) -> bytes:
    return struct.pack(">Q", index)  # big-endian: LMDB's order is the order of the data set


class StoreWriter:
    """Writes a store under a temporary name; the file appears, complete, when the block ends.

        with StoreWriter(path, provenance=..., fingerprint=...) as writer:
            writer.add(structure)

    Args:
        path: the file; an existing one is replaced in one step.
        fingerprint: of the content; derived files are keyed by it.
        meta: more to keep in the header, plain JSON.

    Raises:
        DataError: a structure is unusable (from `add`).
        OSError: the disk is full or the path not writable; names the path, leaves no file behind.
    """

    def __init__(
        self, path: Path | str, fingerprint: str = "", meta: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.meta = dict(meta) if meta is not None else {}
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._natoms: list[int] = []
        self._ids: list[tuple[int, int]] = []
        self._all_flags = _HAS_ENERGY | _HAS_FORCES
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
        if fault := structure_fault(structure):
            raise DataError(
                f"structure {len(self._natoms)} for {self.path} "
                f"(sid {structure.sid}, fid {structure.fid}): {fault}"
            )
        record = encode(structure)
        self._pending.append((_key(len(self._natoms)), record))
        self._pending_bytes += len(record)
        self._natoms.append(structure.natoms)
        self._ids.append((structure.sid, structure.fid))
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
            "version": VERSION,
            "count": len(self._natoms),
            "fingerprint": self.fingerprint,
            "has_energy": bool(self._all_flags & _HAS_ENERGY) and bool(self._natoms),
            "has_forces": bool(self._all_flags & _HAS_FORCES) and bool(self._natoms),
            **self.meta,
        }
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
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, f"cannot write the store: {error}", str(self.path)) from error


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


def _environment(path: Path) -> Any:
    """The one reader of a file in this process; LMDB refuses to open a file twice.

    Keyed by inode too: a replaced file is another. A reader without locks only maps the file, so it
    goes on working in a forked child.
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
            with _environment(self.path).begin() as transaction:
                raw = {name: transaction.get(name) for name in (_META, b"natoms", b"sid", b"fid")}
        except lmdb.Error as error:
            raise DataError(f"{self.path} is not a store of this program: {error}") from error
        if raw[_META] is None:
            raise DataError(
                f"{self.path} is an LMDB, but not a store of this program; convert it first"
            )
        self.meta: dict[str, Any] = json.loads(raw[_META])
        if self.meta.get("version") != VERSION:
            raise DataError(
                f"{self.path} has store version {self.meta.get('version')}, this program reads "
                f"version {VERSION}; build it again"
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
        try:
            with _environment(self.path).begin() as transaction:
                record = transaction.get(_key(index))
        except lmdb.Error as error:
            raise DataError(f"{self.where(index)} cannot be read: {error}") from error
        if record is None:
            raise DataError(f"{self.where(index)} is missing from the file")
        try:
            structure = decode(record)
        except DataError as error:
            raise DataError(f"{self.where(index)} {error}") from None
        if fault := structure_fault(structure):
            raise DataError(
                f"{self.where(index)} (sid {structure.sid}, fid {structure.fid}): {fault}"
            )
        return structure

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return self._natoms
