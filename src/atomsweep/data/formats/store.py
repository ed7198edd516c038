"""Native stores, as `convert` makes them, as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomsweep.data.dataset import OnError
from atomsweep.data.formats.files import FileSource, SplitBy
from atomsweep.data.formats.find import Paths
from atomsweep.data.frames import Frame, Reader
from atomsweep.data.source import Provenance
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import DataError


@dataclass(frozen=True)
class StoreReader(Reader):
    """Records of native stores, for converting again (e.g. with neighbour lists)."""

    suffixes = (".lmdb",)

    def count(self, file: Path) -> int:
        """Number of records."""
        return len(StoreDataset(file))

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """Records as they are, tags included."""
        store = StoreDataset(file)
        for index in range(start, stop if stop is not None else len(store)):
            try:
                yield Frame(index, store.decoded(index), "as in the store")
            except DataError as error:
                yield Frame(index, None, fault=str(error))


class NativeStore(FileSource):
    """Stores that are there already, most often of one's own files: nothing is converted.

    Args are those of `FileSource`; each split is one file.

    Raises:
        ValueError: a split is more than one file.
    """

    own = True

    def __init__(
        self,
        path: Paths,
        root: str,
        val_id: Paths | None = None,
        val_ood_ads: Paths | None = None,
        val_ood_cat: Paths | None = None,
        val_ood_both: Paths | None = None,
        val_fraction: float = 0.1,
        split_by: SplitBy = "auto",
        seed: int = 0,
        on_error: OnError = "raise",
        name: str = "store",
        licence: str = "not stated",
        relaxed_energy: bool | None = None,
    ) -> None:
        super().__init__(
            StoreReader(),
            path,
            root,
            val_id,
            val_ood_ads,
            val_ood_cat,
            val_ood_both,
            val_fraction,
            split_by,
            seed,
            None,
            on_error,
            name,
            licence,
            relaxed_energy=relaxed_energy,
        )
        for split, files in self._files.items():
            if len(files) != 1:
                raise ValueError(f"{split} must be one store, got {len(files)} files")
        if self.relaxed_energy is None:  # then what the files said that it was made of
            made = self._store("train").meta.get("conversion", {})
            self.relaxed_energy = made.get("relaxed_energy")

    def prepare(self, progress: bool = True) -> None:
        """Open every store, so that one that cannot be read is known early."""
        for split in self.paths:
            self._store(split)

    def label_names(self) -> frozenset[str]:
        """What the training store carries."""
        store = self._store("train")
        there = {"energy": store.has_energy, "forces": store.has_forces}
        return frozenset(label for label, has in there.items() if has)

    def _store(self, split: str) -> StoreDataset:
        return StoreDataset(self._files[split][0])

    def _conversion(self) -> dict[str, Any]:
        """What the stores say about how they were made."""
        made = {split: self._store(split).meta.get("conversion", {}) for split in self.paths}
        return {
            "filtered": {split: one.get("filtered", 0) for split, one in made.items()},
            "tags": {split: one.get("tags", {}) for split, one in made.items()},
        }

    @property
    def provenance(self) -> Provenance:
        """What the training store says."""
        said = self._store("train").meta.get("provenance")
        if said is None:
            return super().provenance
        known = {name: str(said[name]) for name in ("source", "licence", "note") if name in said}
        return Provenance(**{"source": "not stated", "licence": "not stated", **known})
