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
from atomsweep.data.store.writer import FIRST_MAP, StoreWriter, named_errors
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
        self._temporary = grows_at(path, folder)
        self.kept = 0

    def _open(self) -> None:
        with named_errors(self.path):
            self._env = lmdb.open(
                str(self._temporary), subdir=False, lock=False, map_size=FIRST_MAP
            )
            with self._env.begin() as transaction:
                header = json.loads(transaction.get(META, b'{"count": 0}'))
        self._count = self.kept = header["count"]
        if self._count:
            flags = (HAS_ENERGY * header["has_energy"]) | (HAS_FORCES * header["has_forces"])
            self._all_flags = flags
        for name in self._columns():
            file = self._column(name).open("a+b")
            file.truncate(self._count * np.dtype(INDEX[name]).itemsize)
            self._index[name] = file

    def _column(self, name: str) -> Path:
        return self._temporary.with_suffix(f".{name}")

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
            self._column(name).unlink()

    def _leave(self) -> None:
        """What has not become the store goes on later."""


def grows_at(path: Path, folder: Path) -> Path:
    """The file in which a store grows."""
    return folder / f"{path.stem}.growing"


def is_growing(path: Path, folder: Path) -> bool:
    """Whether a store is begun there; one that is damaged is not."""
    file = grows_at(path, folder)
    return file.exists() and page_fault(file) is None
