"""The user's own files as a data set: converted once to the native store, and read from there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomsweep.data.dataset import OnError, StructureDataset, Subset, check_on_error, usable
from atomsweep.data.filehash import content_hash
from atomsweep.data.formats.divided import check_copies, check_shared
from atomsweep.data.formats.find import Paths, find, summary
from atomsweep.data.formats.mapping import FIELDS, groups_of
from atomsweep.data.formats.sane import Said, check_first, check_numbers
from atomsweep.data.frames import Reader
from atomsweep.data.source import DataSource, Provenance, check_split
from atomsweep.data.store.build_once import build_once
from atomsweep.data.store.convert import convert
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.groups import SPLIT_BY, held_out_frames
from atomsweep.data.store.parts import ENDS, HINT, Conversion
from atomsweep.data.store.whole import found_in
from atomsweep.data.structure import Array, DataError
from atomsweep.tracking.files import read_text, write_atomic

CONVERTER = 1  # raise when the same files would give other data
CONVERSION = "conversion.json"
ALONE = 32 << 20  # bytes of files that one process converts before others have started
VALIDATION = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both", "val_ood")
SplitBy = Literal["auto", "sid", "frame", "adsorbate", "catalyst"]

log = logging.getLogger(__name__)


class FileSource(DataSource):
    """Files that a reader knows, converted once to the native store and read from there.

    Args:
        reader: of the files.
        path: a file, directory, glob pattern, or list of them: the training frames.
        root: directory for converted data, in `<root>/<name>-<content hash>/`.
        val_id: files of that split, like `path`; None leaves it out.
        val_ood_ads: likewise.
        val_ood_cat: likewise.
        val_ood_both: likewise.
        val_ood: likewise; OC22 has this one and val_id alone.
        is2re: split → IS2RE files (LMDB) with both ends of its relaxations, for files of frames.
        val_fraction: share of `path` that becomes `val_id` when no validation files are given.
        split_by: what is never divided between train and val_id: a system, an adsorbate, a
            catalyst, or only a frame. "auto": a system, or a frame where there is one system.
        seed: of that division.
        mapping: OC20's or OC22's mapping, by which adsorbates and catalysts are told; None goes by
            the composition of the atoms.
        relaxed_energy: energies are those of the relaxed structures (IS2RE), where the files do not
            say whose they are.
        max_force: frames with a larger force component (eV/Å) are left out and counted, OC20's own
            rule; None keeps all.
        on_error: "skip" leaves out frames that cannot be used, counts and logs them.
        name: how reports call it.
        licence: of the files, for reports.
        workers: processes that convert large files; None takes one for each available CPU.
        energy_unit: of energies in the files, of `ENERGY_UNITS`; None is eV, unless the numbers
            say that they are in another, which is then asked for.
        force_unit: of forces, of `FORCE_UNITS`; None is that of energy per Å.

    Raises:
        ValueError: arguments that do not fit.
        FileNotFoundError: a path that matches nothing.
    """

    def __init__(
        self,
        reader: Reader,
        path: Paths,
        root: str,
        val_id: Paths | None = None,
        val_ood_ads: Paths | None = None,
        val_ood_cat: Paths | None = None,
        val_ood_both: Paths | None = None,
        val_fraction: float = 0.1,
        split_by: SplitBy = "auto",
        seed: int = 0,
        max_force: float | None = 50.0,
        on_error: OnError = "raise",
        name: str = "files",
        licence: str = "not stated",
        workers: int | None = None,
        mapping: str | None = None,
        relaxed_energy: bool | None = None,
        val_ood: Paths | None = None,
        is2re: Mapping[str, Paths] | None = None,
        energy_unit: str | None = None,
        force_unit: str | None = None,
    ) -> None:
        _check(split_by, max_force, val_fraction)
        validation = (val_id, val_ood_ads, val_ood_cat, val_ood_both, val_ood)
        given = zip(VALIDATION, validation, strict=True)
        self.paths = {"train": path} | {split: p for split, p in given if p is not None}
        self.name = name
        self.root = Path(root)
        self.val_fraction = val_fraction if len(self.paths) == 1 else 0.0
        self.split_by, self.seed = split_by, seed
        self.mapping = Path(mapping).expanduser() if mapping is not None else None
        if self.mapping is not None and not self.mapping.is_file():
            raise FileNotFoundError(f"no mapping at {self.mapping}; set data.mapping")
        self.reader, self.max_force = reader, max_force
        self.said = Said(energy_unit, force_unit)
        self.units = self.said.units
        if relaxed_energy is not None and reader.relaxed_energy not in (None, relaxed_energy):
            raise ValueError(
                f"data.relaxed_energy is {relaxed_energy}, but energies of {name} are those of the "
                f"{'relaxed structures' if reader.relaxed_energy else 'frames themselves'}"
            )
        self.relaxed_energy = reader.relaxed_energy if relaxed_energy is None else relaxed_energy
        self.on_error = check_on_error(on_error)
        self.skipped = {}
        self.licence = licence
        self.is2re = dict(is2re or {})
        self.workers = workers if workers is not None else len(os.sched_getaffinity(0))
        found = {
            split: find(p, reader, f"data.{'path' if split == 'train' else split}")
            for split, p in self.paths.items()
        }
        self._files = {split: one.files for split, one in found.items()}
        self._left_out = {split: one.left_out for split, one in found.items()}
        check_shared(self._files)
        self._content: str | None = None
        self._prepared = False
        self._held_out: Array | None = None

    def _content_hash(self) -> str:
        """Of the files and of how their frames are read; names the directory."""
        if self._content is None:
            how = {**self.reader.settings(), **self.units.settings()}
            parts: list[Any] = [CONVERTER, how, self.max_force]
            for split, files in self._files.items():
                beside = [s for f in files for s in self.reader.beside(f)]
                parts.append([split, len(files), content_hash([*files, *beside], self.root)])
            self._content = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return self._content

    def _tell_of_trained(self, split: str, trained: Array) -> None:
        """Say loudly that frames of a validation split are in the training files too."""
        if trained.any():
            log.warning(
                "%d of %d frames of data.%s are in data.path too: a model is judged by frames that "
                "it was trained on; remove them from one of the two",
                trained.sum(),
                len(trained),
                split,
            )

    def fingerprint(self) -> str:
        """Hash of the files' contents, of how they are read and of how they are split."""
        split: list[Any] = []
        if self.val_fraction:
            by = "sid" if self.split_by == "auto" else self.split_by  # only one of them can be
            split = [self.val_fraction, by, self.seed, *self._mapping_hash()]
        text = json.dumps([self._content_hash(), split])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _mapping_hash(self) -> list[str]:
        """Of the mapping, where it decides something."""
        if self.mapping is None or not self.val_fraction or self.split_by not in FIELDS:
            return []
        return [content_hash([self.mapping], self.root)]

    def label_names(self) -> frozenset[str] | None:
        """What the reader insists on."""
        return None if self.reader.labels is None else frozenset(self.reader.labels)

    @property
    def directory(self) -> Path:
        """Where the converted data lie."""
        return self.root / f"{self.name}-{self._content_hash()}"

    def prepare(self, progress: bool = True) -> None:
        """Convert the files unless that was done; what comes of it is looked at once.

        Raises:
            DataError: a frame is unusable and `on_error` is "raise"; names file and frame.
            OSError: the disk is full or not writable; names the path.
        """
        if self._prepared:
            return

        def build(partial: Path) -> None:
            self._convert(partial, progress)

        build_once(self.directory, build, f"the data set {self.name}")
        conversion = self._conversion()
        self.skipped = {split: faults for split, faults in conversion["skipped"].items() if faults}
        if self.on_error == "raise" and self.skipped:
            raise DataError(f"{next(iter(self.skipped.values()))[0]} {HINT}")
        called = f"{self.name} ({self.provenance.source})"
        left_out = conversion["filtered"]["train"]
        check_numbers(self._store("train"), left_out, self.max_force, self.said, called)
        self._prepared = True

    def _convert(self, partial: Path, progress: bool) -> None:
        check_copies(self._files, self.root)
        whose, called = self._files["train"][0], f"{self.name} ({self.provenance.source})"
        check_first(self.reader, whose, self.max_force, self.said, called)
        for split, left_out in self._left_out.items():
            if left_out:
                log.info("%s of %s: left out %s", split, self.name, summary(left_out))
        record: dict[str, dict[str, Any]] = {
            name: {} for name in ("frames", "skipped", "filtered", "tags", "unkept")
        }
        how = Conversion(self.reader, self.max_force, self.on_error, units=self.units)
        meta = {"provenance": self.provenance.as_dict()}
        trained = partial / "contents-train.bin"
        first_number = 0  # of a split's files, so that files without ids are systems of their own
        for split, files in self._files.items():
            contents, made = partial / f"contents-{split}.bin", partial / f"made-{split}.json"
            first, first_number = first_number, first_number + len(files)
            if made.exists():  # before a kill
                for name, value in json.loads(read_text(made)).items():
                    record[name][split] = value
                continue
            small = sum(file.stat().st_size for file in files) < ALONE
            report = convert(
                how,
                files,
                partial / f"{split}.lmdb",
                partial / f"parts-{split}-{self.on_error}",
                self._content_hash(),
                meta,
                first,
                1 if small else self.workers,
                progress,
                contents,
            )
            if contents != trained:  # the training split is the first
                self._tell_of_trained(split, found_in(contents, trained))
                contents.unlink()
            for name in record:
                record[name][split] = getattr(report, name)
            write_atomic(made, json.dumps({name: of[split] for name, of in record.items()}))
        (partial / CONVERSION).write_text(json.dumps(record, indent=1), encoding="utf-8")
        for left in (trained, *partial.glob("made-*.json")):
            left.unlink(missing_ok=True)

    def _store(self, split: str) -> StoreDataset:
        return StoreDataset(self.directory / f"{split}.lmdb")

    def _conversion(self) -> dict[str, Any]:
        return json.loads(read_text(self.directory / CONVERSION))

    def splits(self) -> tuple[str, ...]:
        """`train` and the validation splits that were given or cut off."""
        return (*self.paths, "val_id") if self.val_fraction else tuple(self.paths)

    def split(self, name: str) -> StructureDataset:
        """Frames of a split.

        Raises:
            DataError: `val_fraction` cannot be cut off because there are too few systems or frames.
        """
        store, chosen = self._chosen(name)
        dataset: StructureDataset = store
        if chosen is not None:
            dataset = Subset(store, chosen, f"{self.name} {name}")
        dataset, faults = usable(dataset, self.on_error)
        if faults:
            self.skipped[name] = [*self.skipped.get(name, []), *faults]
        return dataset

    def relaxations(self, name: str) -> StructureDataset:
        """Both ends of every relaxation of a split: even indices initial, odd ones relaxed.

        Raises:
            ValueError: the files hold no relaxations.
        """
        if not self.reader.relaxations:
            if name in self.is2re:
                references = getattr(self.reader, "linear_references", None)
                called = f"{self.name}_is2rs_{name}"
                return relaxations_in(self.is2re[name], str(self.root), called, references)
            return super().relaxations(name)
        store, chosen = self._chosen(name)
        ends = StoreDataset(store.path.with_name(f"{store.path.stem}{ENDS}.lmdb"))
        if len(ends) != 2 * len(store):
            raise ValueError(f"not every record of {self.name} carries pos_relaxed")
        if chosen is None:
            return ends
        both = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
        return Subset(ends, both, f"{self.name} {name}{ENDS}")

    def _chosen(self, name: str) -> tuple[StoreDataset, Array | None]:
        """The store that holds a split, and the split's places in it; None for all."""
        check_split(name, self.splits(), self.name)
        self.prepare()
        store = self._store(name if name in self.paths else "train")
        if not self.val_fraction:
            return store, None
        if self._held_out is None:
            called, mapped = f"{self.name} ({self.provenance.source})", self._mapped(store)
            self._held_out = held_out_frames(
                store, self.val_fraction, self.split_by, self.seed, called, mapped
            )
        return store, np.flatnonzero(self._held_out if name == "val_id" else ~self._held_out)

    def _mapped(self, store: StoreDataset) -> dict[int, str] | None:
        """Adsorbate or catalyst of each system by the mapping, which is read once, as it is big."""
        if not (parts := self._mapping_hash()):
            return None
        assert self.mapping is not None
        file = self.directory / f"{self.split_by}-{parts[0][:12]}.json"
        if not file.is_file():
            groups = groups_of(self.mapping, np.unique(store.sids).tolist(), self.split_by)
            write_atomic(file, json.dumps(groups))
        return {int(k): v for k, v in json.loads(read_text(file)).items()}

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
            "unkept": conversion.get("unkept", {}),  # not in conversions of earlier versions
            "left_out": {split: summary(one) for split, one in self._left_out.items() if one},
            "split_by": self.split_by if self.val_fraction else "files",
            "groups_by": self.mapping.name
            if self._mapping_hash() and self.mapping
            else "structure",
            "provenance": self.provenance.as_dict(),
        }


def _check(split_by: str, max_force: float | None, val_fraction: float) -> None:
    if split_by not in SPLIT_BY:
        raise ValueError(f"split_by must be {', '.join(SPLIT_BY)}, got {split_by!r}")
    if max_force is not None and not max_force > 0:
        raise ValueError(
            f"max_force must be above 0 eV/Å, or null to keep all frames, got {max_force}"
        )
    if not 0.0 <= val_fraction < 1.0:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")


def relaxations_in(
    paths: Paths, root: str, name: str, references: str | None = None
) -> StructureDataset:
    """Both ends of every relaxation of some IS2RE files (LMDB), as `DataSource.relaxations`.

    Args:
        paths: files.
        root: where they are converted to.
        name: of the data set.
        references: linear references that energies of the model are less of.
    """
    from atomsweep.data.formats.ocp_lmdb import IS2RE

    files = FileSource(
        IS2RE(linear_references=references), paths, root, val_fraction=0.0, name=name
    )
    return files.relaxations("train")
