"""Frames of one molecule: what MD17's files and generated dynamics share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.data.dataset import OnError, StructureDataset, check_on_error, usable
from atomsweep.data.source import DataSource, check_split
from atomsweep.data.structure import Array, DataError, Structure, structure_fault

SPLITS = TRAIN, VAL, TEST = "train", "val_id", "test"
PER_FRAME = ("pos", "energy", "forces")


class MoleculeSource(DataSource):
    """Frames of one molecule, divided by frame into `train`, `val_id` and `test`.

    A subclass reads or makes the frames in `prepare` and hands them to `_divide`.

    Args:
        root: directory for derived files.
        train_size: frames.
        val_size: frames.
        test_size: the first so many frames of `test`; None keeps all.
        on_error: "skip" leaves out frames that cannot be used, counts and logs them.
        name: how reports call it.

    Raises:
        ValueError: a size below 1.
    """

    molecule: str
    small = True

    def __init__(
        self,
        root: Path,
        train_size: int,
        val_size: int,
        test_size: int | None,
        on_error: OnError,
        name: str,
    ) -> None:
        if min(train_size, val_size, test_size if test_size is not None else 1) < 1:
            raise ValueError("train_size, val_size and test_size must be at least 1")
        self.train_size, self.val_size, self.test_size = train_size, val_size, test_size
        self.root, self.name = root, name
        self.on_error = check_on_error(on_error)
        self.skipped = {}
        self._splits: dict[str, MoleculeFrames] = {}
        self._shift = 0.0

    @property
    def divided(self) -> bool:
        """Whether `_divide` has been called."""
        return bool(self._splits)

    def _divide(
        self,
        numbers: Array,
        frames: Mapping[str, Array],
        order: Array,
        rest: Array | None,
        names: Mapping[str, str],
    ) -> None:
        """Deal out frames, with the mean energy of `train` subtracted in float64 from all.

        Args:
            numbers: (N,) atomic numbers.
            frames: pos (S, N, 3) Å, energy (S,) eV, forces (S, N, 3) eV/Å.
            order: indices of frames: the first `train_size` train, the next `val_size` validate.
            rest: indices to test on; None takes what is left of `order`.
            names: split → how errors call it.
        """
        held_in = self.train_size + self.val_size
        chosen = {
            TRAIN: order[: self.train_size],
            VAL: order[self.train_size : held_in],
            TEST: (order[held_in:] if rest is None else rest)[: self.test_size],
        }
        self._shift = float(np.nanmean(frames["energy"][chosen[TRAIN]]))  # bad ones are told later
        centred = dict(frames) | {"energy": frames["energy"] - self._shift}
        for split, indices in chosen.items():
            self._splits[split] = MoleculeFrames(
                names[split],
                numbers,
                {key: values[indices] for key, values in centred.items()},
                indices,
                f"{self.fingerprint()}-{split}",
                self.root / f"{self.name}-{self.fingerprint()}",
            )

    def splits(self) -> tuple[str, ...]:
        """`train`, `val_id` and `test`."""
        return SPLITS

    def split(self, name: str) -> StructureDataset:
        """Frames of a split, in the order in which they were dealt."""
        check_split(name, SPLITS, self.name)
        self.prepare()
        dataset, faults = usable(self._splits[name], self.on_error)
        if faults:
            self.skipped[name] = faults
        return dataset

    def describe(self) -> dict[str, Any]:
        """Counts by split and the energy that was subtracted."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "splits": {
                name: {"frames": len(part), "atoms_mean": float(part.natoms.mean())}
                for name in SPLITS
                for part in [self.split(name)]
            },
            "skipped": {split: len(faults) for split, faults in self.skipped.items()},
            "molecule": self.molecule,
            "energy_subtracted": self._shift,
            "split_by": "frame",
            "provenance": self.provenance.as_dict(),
        }


class MoleculeFrames(StructureDataset):
    """Frames of one molecule, without a cell. All atoms have tag 1 and are free.

    Args:
        name: how errors call it.
        numbers: (N,) atomic numbers.
        arrays: pos (S, N, 3) Å, energy (S,) eV, forces (S, N, 3) eV/Å.
        fids: (S,) number of each frame in its file.
        fingerprint: of the content.
        cache_dir: for neighbour lists.
    """

    has_energy = has_forces = True

    def __init__(
        self,
        name: str,
        numbers: Array,
        arrays: Mapping[str, Array],
        fids: Array,
        fingerprint: str,
        cache_dir: Path,
    ) -> None:
        self.name, self.numbers, self.arrays, self.fids = name, numbers, arrays, fids
        self.fingerprint, self.cache_dir = fingerprint, cache_dir

    def __len__(self) -> int:
        return len(self.fids)

    def __getitem__(self, index: int) -> Structure:
        if not 0 <= index < len(self):
            raise IndexError(f"structure {index} of {len(self)} in {self.name}")
        n = len(self.numbers)
        structure = Structure(
            atomic_numbers=self.numbers,
            pos=self.arrays["pos"][index],
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            tags=np.ones(n, dtype=np.int64),
            fixed=np.zeros(n, dtype=bool),
            forces=self.arrays["forces"][index],
            energy=float(self.arrays["energy"][index]),
            fid=int(self.fids[index]),
        )
        if fault := structure_fault(structure):
            raise DataError(f"{self.where(index)} (frame {structure.fid}): {fault}")
        return structure

    @property
    def natoms(self) -> Array:
        """(len,) int64."""
        return np.full(len(self), len(self.numbers), dtype=np.int64)
