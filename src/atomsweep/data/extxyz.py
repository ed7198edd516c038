"""The user's own files as a data set: extended XYZ, plain or compressed, OC20's download layout."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomsweep.data.base import (
    Array,
    DataError,
    DataSource,
    OnError,
    Provenance,
    StructureDataset,
    Subset,
    check_on_error,
    check_split,
    report_skipped,
    structure_fault,
    usable,
)
from atomsweep.data.extxyz_read import FrameOptions, kind_of, read_frames, sidecar_of
from atomsweep.data.filehash import content_hash
from atomsweep.data.locked_build import build_once
from atomsweep.data.store import StoreDataset, StoreWriter
from atomsweep.units import HARTREE, KCAL_PER_MOL

CONVERTER = 1  # raise when the same files would give other data
CONVERSION = "conversion.json"
ENERGY_UNITS = {"eV": 1.0, "kcal/mol": KCAL_PER_MOL, "hartree": HARTREE}
VALIDATION = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
Paths = str | Sequence[str]

log = logging.getLogger(__name__)


class ExtXYZ(DataSource):
    """Files of structures, converted once to the native store and read from there.

    Frames carry `energy`, `forces`, `move_mask` (F = fixed) or `fixed`, `tags`, and `sid` and `fid`
    in their comment line; a sidecar `N.txt[.xz]` beside `N.extxyz[.xz]`, as in OC20's download,
    gives ids and the reference energy that is subtracted. A file whose frames carry no `sid` is one
    system. Frames without tags get them by rule, see `describe()["tags"]`.

    Args:
        path: a file, directory, glob pattern, or list of them: the training frames.
        root: directory for converted data, in `<root>/extxyz-<content hash>/`.
        val_id: files of that split, like `path`; None leaves it out.
        val_ood_ads: likewise.
        val_ood_cat: likewise.
        val_ood_both: likewise.
        val_fraction: share of `path` that becomes `val_id` when no validation files are given.
        split_by: what is never divided between train and val_id: a system, or only a frame.
        seed: of that division.
        energy_key: name of the energy.
        forces_key: name of the forces.
        energy_unit: of energies in the files, and with Å of forces: eV, kcal/mol or hartree.
        labels: what every frame must carry.
        max_force: frames with a larger force component (eV/Å) are left out and counted, OC20's own
            rule; None keeps all.
        on_error: "skip" leaves out frames that cannot be used, counts and logs them.
        name: how reports call it.
        licence: of the files, for reports.

    Raises:
        ValueError: arguments that do not fit.
        FileNotFoundError: a path that matches nothing.
    """

    def __init__(
        self,
        path: Paths,
        root: str,
        val_id: Paths | None = None,
        val_ood_ads: Paths | None = None,
        val_ood_cat: Paths | None = None,
        val_ood_both: Paths | None = None,
        val_fraction: float = 0.1,
        split_by: Literal["sid", "frame"] = "sid",
        seed: int = 0,
        energy_key: str = "energy",
        forces_key: str = "forces",
        energy_unit: Literal["eV", "kcal/mol", "hartree"] = "eV",
        labels: Sequence[Literal["energy", "forces"]] = ("energy", "forces"),
        max_force: float | None = 50.0,
        on_error: OnError = "raise",
        name: str = "extxyz",
        licence: str = "not stated",
    ) -> None:
        if energy_unit not in ENERGY_UNITS:
            raise ValueError(
                f"energy_unit must be one of {', '.join(ENERGY_UNITS)}, got {energy_unit!r}"
            )
        if split_by not in ("sid", "frame"):
            raise ValueError(f"split_by must be sid or frame, got {split_by!r}")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
        if unknown := set(labels) - {"energy", "forces"}:
            raise ValueError(f"labels may contain energy and forces, got {sorted(unknown)}")
        given = zip(VALIDATION, (val_id, val_ood_ads, val_ood_cat, val_ood_both), strict=True)
        self.paths = {"train": path} | {split: p for split, p in given if p is not None}
        self.name = name
        self.root = Path(root)
        self.val_fraction = val_fraction if len(self.paths) == 1 else 0.0
        self.split_by, self.seed = split_by, seed
        self.options = FrameOptions(
            energy_key, forces_key, ENERGY_UNITS[energy_unit], tuple(sorted(labels))
        )
        self.max_force = max_force
        self.on_error = check_on_error(on_error)
        self.skipped = {}
        self.licence = licence
        self._files = {split: find_files(p) for split, p in self.paths.items()}
        self._content: str | None = None

    def _content_hash(self) -> str:
        """Of the files and of how their frames are read; names the directory."""
        if self._content is None:
            parts: list[Any] = [CONVERTER, vars(self.options), self.max_force]
            for split, files in self._files.items():
                beside = [s for f in files if (s := sidecar_of(f)) is not None]
                parts.append([split, len(files), content_hash([*files, *beside], self.root)])
            self._content = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return self._content

    def fingerprint(self) -> str:
        """Hash of the files' contents, of how they are read and of how they are split."""
        split = [self.val_fraction, self.split_by, self.seed] if self.val_fraction else []
        text = json.dumps([self._content_hash(), split])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def directory(self) -> Path:
        """Where the converted data lie."""
        return self.root / f"extxyz-{self._content_hash()}"

    def prepare(self, progress: bool = True) -> None:
        """Convert the files unless that was done.

        Raises:
            DataError: a frame is unusable and `on_error` is "raise"; names file and frame.
            OSError: the disk is full or not writable; names the path.
        """
        build_once(self.directory, self._convert, f"the data set {self.name}")
        conversion = self._conversion()
        self.skipped = {split: faults for split, faults in conversion["skipped"].items() if faults}
        if self.on_error == "raise" and self.skipped:
            first = next(iter(self.skipped.values()))[0]
            raise DataError(f"{first} (leave such frames out with data.on_error=skip)")

    def _convert(self, partial: Path) -> None:
        conversion: dict[str, dict[str, Any]] = {
            "skipped": {},
            "filtered": {},
            "tags": {},
            "frames": {},
        }
        first_number = 0  # of a split's files, so that files without ids are systems of their own
        for split, files in self._files.items():
            faults: list[str] = []
            rules: Counter[str] = Counter()
            filtered = total = 0
            fingerprint = self._content_hash()
            meta = {"provenance": self.provenance.as_dict()}
            with StoreWriter(partial / f"{split}.lmdb", fingerprint, meta) as writer:
                for number, file in enumerate(files, start=first_number):
                    log.info("converting %s", file)
                    for frame in read_frames(file, number, self.options):
                        total += 1
                        fault = frame.fault
                        if frame.structure is not None:
                            fault = structure_fault(frame.structure) or ""
                        if fault:
                            faults.append(f"frame {frame.index} of {file}: {fault}")
                            if self.on_error == "raise":
                                raise DataError(
                                    f"{faults[0]} (leave such frames out with data.on_error=skip)"
                                )
                            continue
                        assert frame.structure is not None
                        forces = frame.structure.forces
                        limit = self.max_force
                        if limit and forces is not None and np.abs(forces).max() > limit:
                            filtered += 1
                            continue
                        rules[frame.tags_rule] += 1
                        writer.add(frame.structure)
            if not rules:
                raise DataError(
                    f"no usable frame for {split} in {files[0]}"
                    + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
                    + (f"; first fault: {faults[0]}" if faults else "")
                )
            if faults:
                report_skipped(f"{self.name} {split}", faults, total)
            if filtered:
                log.info(
                    "%s: left out %d frames with |F| > %s eV/Å", split, filtered, self.max_force
                )
            first_number += len(files)
            conversion["skipped"][split] = faults
            conversion["filtered"][split] = filtered
            conversion["tags"][split] = dict(rules)
            conversion["frames"][split] = rules.total()
        text = json.dumps(conversion, indent=1)
        (partial / CONVERSION).write_text(text, encoding="utf-8")

    def _conversion(self) -> dict[str, Any]:
        return json.loads((self.directory / CONVERSION).read_text(encoding="utf-8"))

    def splits(self) -> tuple[str, ...]:
        """`train` and the validation splits that were given or cut off."""
        return (*self.paths, "val_id") if self.val_fraction else tuple(self.paths)

    def split(self, name: str) -> StructureDataset:
        """Frames of a split.

        Raises:
            DataError: `val_fraction` cannot be cut off because there are too few systems or frames.
        """
        check_split(name, self.splits(), self.name)
        self.prepare()
        store = StoreDataset(self.directory / f"{name if name in self.paths else 'train'}.lmdb")
        dataset: StructureDataset = store
        if self.val_fraction:
            held_out = self._held_out(store)
            chosen = np.flatnonzero(held_out if name == "val_id" else ~held_out)
            dataset = Subset(store, chosen, f"{self.name} {name}")
        dataset, faults = usable(dataset, self.on_error)
        if faults:
            self.skipped[name] = [*self.skipped.get(name, []), *faults]
        return dataset

    def _held_out(self, store: StoreDataset) -> Array:
        """(len,) which frames of `path` are `val_id`."""
        groups = store.sids if self.split_by == "sid" else np.arange(len(store))
        names = np.unique(groups)
        count = max(1, round(self.val_fraction * len(names)))
        if len(names) < 2:
            raise DataError(
                f"{self.name} holds {len(names)} {'system' if self.split_by == 'sid' else 'frame'} "
                "and cannot hold out any; give data.val_id=<files>, data.split_by=frame or "
                "data.val_fraction=0"
            )
        if self.split_by == "frame":
            log.warning(
                "%s is split by frame: frames of one system are in train and in val_id", self.name
            )
        order = np.random.default_rng([self.seed]).permutation(len(names))
        return np.isin(groups, names[order[:count]])

    @property
    def provenance(self) -> Provenance:
        """The files' names, not their places."""
        files = self._files["train"]
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        return Provenance(f"{files[0].name}{more}", self.licence, "converted from the user's files")

    def describe(self) -> dict[str, Any]:
        """Counts by split, what was skipped or filtered, and by which rule atoms got their tags."""
        splits = {}
        for name in self.splits():
            dataset = self.split(name)
            splits[name] = {
                "frames": len(dataset),
                "atoms_mean": round(float(dataset.natoms.mean()), 1),
                "has_energy": dataset.has_energy,
                "has_forces": dataset.has_forces,
            }
        conversion = self._conversion()
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "splits": splits,
            "skipped": {split: len(faults) for split, faults in self.skipped.items()},
            "filtered": conversion["filtered"],
            "tags": conversion["tags"],
            "split_by": self.split_by if self.val_fraction else "files",
            "provenance": self.provenance.as_dict(),
        }


def find_files(paths: Paths) -> list[Path]:
    """Files of structures that a path, directory, glob pattern or list of them names, in order.

    Raises:
        FileNotFoundError: one of them matches no file of structures.
    """
    found: list[Path] = []
    for one in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(one).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and kind_of(p) is not None)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
            matches = [p for p in matches if p.is_file()]
        if not matches:
            raise FileNotFoundError(
                f"no file of structures (.extxyz, .xyz, .traj, also .xz, .gz, .bz2) at {one}"
            )
        for match in matches:
            if kind_of(match) is None:
                raise ValueError(f"{match} is not .extxyz, .xyz or .traj (also .xz, .gz, .bz2)")
        found += matches
    return found
