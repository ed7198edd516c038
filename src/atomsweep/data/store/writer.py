"""Writing a native store: whole or not at all. Its layout is in docs/data.md."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Any, Self

import lmdb
import numpy as np

from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.store.record import (
    COUNT,
    GROUP,
    GROUPED,
    HAS_EDGES,
    HAS_ENERGY,
    HAS_FORCES,
    INDEX,
    META,
    check_record,
    edges_at,
    encode,
    grouped,
    key_of,
)
from atomsweep.data.structure import DataError, Structure, structure_fault
from atomsweep.graph.neighbors import RadiusGraph

_BATCH_BYTES = 32 << 20  # written in one transaction
FIRST_MAP = 64 << 20
_SPOOL = 1 << 20  # bytes of a column of the index that are held in memory
MOST_INSIDE = 1 << 22  # structures whose index LMDB takes as values
_NEARLY_FULL = 1 << 20  # bytes that a failed write leaves on a full disk


class StoreWriter:
    """Writes a store under a temporary name; the file appears, complete, when the block ends.

        with StoreWriter(path, fingerprint=...) as writer:
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
        self._count = 0
        self._index: dict[str, IO[bytes]] = {}
        self._group: list[bytes] = []
        self._all_flags = HAS_ENERGY | HAS_FORCES
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._env: Any = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        return self

    def _columns(self) -> list[str]:
        return [name for name in INDEX if name != "num_edges" or self.graph is not None]

    def _open(self) -> None:
        for name in self._columns():
            folder = str(self.path.parent)
            self._index[name] = SpooledTemporaryFile(_SPOOL, dir=folder)  # noqa: SIM115
        self._temporary.unlink(missing_ok=True)
        with named_errors(self.path):
            self._env = lmdb.open(
                str(self._temporary), subdir=False, lock=False, map_size=FIRST_MAP, sync=False
            )

    def add(self, structure: Structure) -> bytes:
        """Append a structure; returns its record.

        Raises:
            DataError: it is unusable.
        """
        if fault := structure_fault(structure):
            raise DataError(f"{self._called(structure)}: {fault}")
        return self.add_checked(structure)

    def _called(self, structure: Structure) -> str:
        ids = f"(sid {structure.sid}, fid {structure.fid})"
        return f"structure {self._count} for {self.path} {ids}"

    def add_checked(self, structure: Structure) -> bytes:
        """Append a structure in which `structure_fault` has found nothing; returns its record.

        Raises:
            DataError: its neighbour list cannot be made or stored.
        """
        edges = None
        if self.graph is not None:
            flat = FlatStructures.collect([structure], energy=False, forces=False)
            edges = FlatEdges.build(flat, self.graph, lambda _: self._called(structure))
        record = encode(structure, edges)
        self._append([record], [structure.natoms], [structure.sid], [structure.fid])
        return record

    def add_records(self, records: Sequence[bytes]) -> None:
        """Append records of another store as they are.

        Raises:
            DataError: one is not a whole record, or not of the kind that this store holds; then
                none is appended.
        """
        if not records:
            return
        flags, _, natoms, sids, fids, _ = zip(*map(check_record, records), strict=True)
        if any(bool(one & HAS_EDGES) != (self.graph is not None) for one in flags):
            raise DataError("has neighbour lists where this store has none, or the reverse")
        self._append(records, natoms, sids, fids)

    def _append(
        self,
        records: Sequence[bytes],
        natoms: Sequence[int],
        sids: Sequence[int],
        fids: Sequence[int],
    ) -> None:
        values = {"natoms": natoms, "sid": sids, "fid": fids}
        if self.graph is not None:
            values["num_edges"] = [
                COUNT.unpack_from(record, edges_at(record[5], n))[0]
                for record, n in zip(records, natoms, strict=True)
            ]
        with named_errors(self.path):
            for name, column in values.items():
                self._index[name].write(np.array(column, INDEX[name]).tobytes())
        for record in records:
            self._group.append(record)
            self._count += 1
            self._all_flags &= record[5]
            if len(self._group) == GROUP:
                self._close_group()

    def _close_group(self) -> None:
        if not self._group:
            return
        value = grouped(self._group)
        self._pending.append((key_of(self._count - len(self._group)), value))
        self._pending_bytes += len(value)
        self._group = []
        if self._pending_bytes > _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        with named_errors(self.path):
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
        self._close_group()
        large = self._count > MOST_INSIDE
        self._pending.append((META, self._header(self._count)))
        if not large:
            for name, file in self._index.items():
                self._pending.append((name.encode(), _content(file)))
        self._flush()
        with named_errors(self.path):
            self._env.sync(True)
            size = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            self._env.close()
            self._env = None
            if self._temporary.stat().st_size != size:  # so that readers can tell a file cut off
                os.truncate(self._temporary, size)
            if large:  # LMDB would hold each array in memory, twice
                self._append_index(size)
            os.replace(self._temporary, self.path)  # noqa: PTH105 (atomic also over an existing file)
            sync_directory(self.path.parent)

    def _header(self, count: int) -> bytes:
        header = {
            "version": GROUPED,
            "group": GROUP,
            "count": count,
            "fingerprint": self.fingerprint,
            "has_energy": bool(self._all_flags & HAS_ENERGY) and bool(count),
            "has_forces": bool(self._all_flags & HAS_FORCES) and bool(count),
            **self.meta,
        }
        if self.graph is not None:
            header["neighbors"] = asdict(self.graph)
        return json.dumps(header, sort_keys=True).encode()

    def _append_index(self, end: int) -> None:
        with self._temporary.open("r+b") as file:
            file.truncate(end)
            file.seek(end)
            for column in self._index.values():
                column.seek(0)
                shutil.copyfileobj(column, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())

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
            self._close()
            self._leave()

    def _leave(self) -> None:
        """Remove what has not become the store."""
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        for column in self._index.values():
            with suppress(OSError):  # what a full disk does not take was told already
                column.close()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


class named_errors:
    """Turn errors of the file system, LMDB's too, into an OSError that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and error.filename is None:  # of a file that was open
            raise OSError(error.errno, str(error.strerror), str(self.path)) from error
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
