"""A store that is written over several lives of a process: what is on disk of it stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from atomsweep.data.store.pages import page_fault
from atomsweep.data.store.record import HAS_ENERGY, HAS_FORCES, INDEX, META
from atomsweep.data.store.writer import FIRST_MAP, StoreWriter, named_errors, sync_directory
from atomsweep.graph.neighbors import RadiusGraph


class GrowingStore(StoreWriter):
    """A `StoreWriter` that leaves to the next one what it has written; at the end it appears.

    Every transaction is on disk before the next begins, and its header counts the structures up to
    it. Columns of the index are files beside it, of which what is behind that count is cut off.

    Args:
        path: the store that appears.
        folder: where it grows, on the same disk.
        fingerprint: as of `StoreWriter`.
        meta: likewise.
        graph: likewise.

    Attributes:
        kept: structures that are in it and on disk.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        fingerprint: str = "",
        meta: dict[str, Any] | None = None,
        graph: RadiusGraph | None = None,
    ) -> None:
        super().__init__(path, fingerprint, meta, graph)
        self._temporary = _grows_at(path, folder)
        self.kept = 0

    def _open(self) -> None:
        header = _header_at(self._temporary) if self._temporary.exists() else None
        if header and header["count"]:
            self._count = self.kept = header["count"]
            flags = (HAS_ENERGY * header["has_energy"]) | (HAS_FORCES * header["has_forces"])
            self._all_flags = flags
        try:
            with named_errors(self.path):
                self._env = lmdb.open(
                    str(self._temporary), subdir=False, lock=False, map_size=FIRST_MAP
                )
                for name in self._columns():
                    self._index[name] = file = _column(self._temporary, name).open("a+b")
                    file.truncate(self._count * np.dtype(INDEX[name]).itemsize)
                sync_directory(self._temporary.parent)
        except BaseException:
            self._close()
            raise

    def _flush(self) -> None:
        with named_errors(self.path):
            for file in self._index.values():
                file.flush()
                os.fsync(file.fileno())
        count = self._count - len(self._group)
        self._pending.append((META, self._header(count)))
        super()._flush()
        self.kept = count

    def _finish(self) -> None:
        super()._finish()
        for name in self._columns():
            _column(self._temporary, name).unlink()

    def _leave(self) -> None:
        """What has not become the store goes on later."""


def kept_in(path: Path, folder: Path, fingerprint: str) -> int | None:
    """Structures on disk of a store that can go on growing there; None where there is none.

    One of other content, one that is damaged, and one whose columns are gone or too short are none.
    """
    file = _grows_at(path, folder)
    header = _header_at(file) if file.exists() and page_fault(file) is None else None
    if header is None or header.get("fingerprint") != fingerprint:
        return None
    count: int = header["count"]
    for name in INDEX:
        if name == "num_edges" and "neighbors" not in header:
            continue
        column = _column(file, name)
        if not column.exists() or column.stat().st_size < count * np.dtype(INDEX[name]).itemsize:
            return None
    return count


def remove(path: Path, folder: Path) -> None:
    """Whatever of a store grows there."""
    file = _grows_at(path, folder)
    for one in (file, *(_column(file, name) for name in INDEX)):
        one.unlink(missing_ok=True)


def _grows_at(path: Path, folder: Path) -> Path:
    return folder / f"{path.stem}.growing"


def _column(file: Path, name: str) -> Path:
    return file.with_suffix(f".{name}")


def _header_at(file: Path) -> dict[str, Any] | None:
    """What a growing store says of itself; None before its first transaction, or if damaged."""
    with (
        named_errors(file),
        lmdb.open(str(file), subdir=False, lock=False, readonly=True) as env,
        env.begin() as transaction,
    ):
        raw = transaction.get(META)
    try:
        header = json.loads(raw or b"null")
    except ValueError:
        return None
    return header if isinstance(header, dict) and isinstance(header.get("count"), int) else None
