"""MD17 and rMD17: molecules of molecular dynamics, as .npz in kcal/mol, with the papers' splits."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomsweep.data.dataset import OnError
from atomsweep.data.filehash import content_hash
from atomsweep.data.formats.find import BRING
from atomsweep.data.molecules import PER_FRAME, SPLITS, TEST, MoleculeSource
from atomsweep.data.normalizer import spacing_fault
from atomsweep.data.npz import read_npz
from atomsweep.data.source import Provenance
from atomsweep.data.structure import Array, DataError
from atomsweep.units import KCAL_PER_MOL, LabelUnits

PERMUTATION_SEED = 1  # of the published division of MD17, shared by TorchMD-NET and later papers
MOST_FRAMES = 1000  # of rMD17, that its authors allow to train on: its frames are correlated
_PAIR = re.compile(r"(.*)_train_(\d+)\.npz")
# Names of numbers, positions, energies and forces by kind of labels, in the layouts that carry it
_LAYOUTS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "original": (("z", "R", "E", "F"), ("nuclear_charges", "coords", "old_energies", "old_forces")),
    "revised": (("nuclear_charges", "coords", "energies", "forces"),),
}
_NOTES = {
    "original": "labels of the original MD17 (PBE+TS, noisy)",
    "revised": "labels of the revised MD17 (PBE/def2-SVP)",
}

log = logging.getLogger(__name__)


class MD17(MoleculeSource):
    """One molecule of MD17 or rMD17, with the division of the papers.

    A single file of N frames is divided by `default_rng(1).permutation(N)`: the first `train_size`
    are `train`, the next `val_size` `val_id`, the rest `test`. Of a pair `*_train_01.npz`,
    `*_test_01.npz` (rMD17's official splits) the first is divided so and the second is `test`.
    Energies have the mean over `train` subtracted in float64, before anything is float32; original
    and revised labels are never mixed.

    Args:
        path: a file (of a pair, the training file), or a directory that holds them.
        molecule: in a directory, whose file to take.
        labels: of the original MD17, or of the revised.
        root: directory for derived files.
        split: in a directory of pairs, the number of the official split, 1 to 5.
        train_size: frames.
        val_size: frames.
        test_size: the first so many frames of `test`; None keeps all.
        on_error: "skip" leaves out frames that cannot be used, counts and logs them.
        name: how reports call it.
        energy_unit: of the files, of `ENERGY_UNITS`; forces are in it per Å.

    Raises:
        ValueError: arguments that do not fit.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        path: str,
        molecule: str,
        labels: Literal["original", "revised"],
        root: str,
        split: int = 1,
        train_size: int = 950,
        val_size: int = 50,
        test_size: int | None = None,
        on_error: OnError = "raise",
        name: str = "md17",
        energy_unit: str = "kcal/mol",
    ) -> None:
        if labels not in _LAYOUTS:
            raise ValueError(f"labels must be original or revised, got {labels!r}")
        super().__init__(Path(root), train_size, val_size, test_size, on_error, name)
        self.files = _find(Path(path).expanduser(), molecule, labels, split)
        self.molecule, self.labels = molecule, labels
        self.scale = LabelUnits.named(energy_unit, None).energy
        self._fingerprint = ""

    def fingerprint(self) -> str:
        """Hash of the files' contents, the kind of labels and the division."""
        if not self._fingerprint:
            sizes = [self.train_size, self.val_size, self.test_size]
            unit = [] if self.scale == KCAL_PER_MOL else [self.scale]
            text = json.dumps([1, self.labels, sizes, content_hash(self.files, self.root), *unit])
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._fingerprint

    def prepare(self, progress: bool = True) -> None:
        """Read the files and divide the frames.

        Raises:
            DataError: a file is not as it should be; names file and array.
        """
        if self.divided:
            return
        parts = [_read(file, self.labels, self.scale) for file in self.files]
        count = len(parts[0]["pos"])
        if count < self.train_size + self.val_size + (len(parts) == 1):
            raise DataError(
                f"{self.files[0]} has {count} frames, too few for train_size={self.train_size} and "
                f"val_size={self.val_size}" + (" and a test set" if len(parts) == 1 else "")
            )
        if len(parts) == 2 and not np.array_equal(parts[0]["numbers"], parts[1]["numbers"]):
            raise DataError(f"{self.files[0]} and {self.files[1]} are of different molecules")
        if self.labels == "revised" and self.train_size > MOST_FRAMES:
            log.warning(
                "rMD17's authors advise against training on more than %d frames", MOST_FRAMES
            )
        whole = {key: np.concatenate([part[key] for part in parts]) for key in PER_FRAME}
        rest = None if len(parts) == 1 else count + np.arange(len(parts[1]["pos"]))
        order = np.random.default_rng(PERMUTATION_SEED).permutation(count)
        files = {TEST: self.files[-1]}
        self._divide(
            parts[0]["numbers"],
            whole,
            order,
            rest,
            {name: f"{self.name} {name} ({files.get(name, self.files[0])})" for name in SPLITS},
        )

    @property
    def provenance(self) -> Provenance:
        """The files' names and whose labels they are."""
        note = _NOTES[self.labels] + ", divided by frame as published"
        if self.labels == "original" and len(self.files) == 2:
            note += "; the frames are those that rMD17 took from it"
        names = " and ".join(file.name for file in self.files)
        return Provenance(names, "CC0-1.0" if names.startswith("rmd17") else "not stated", note)

    def describe(self) -> dict[str, Any]:
        """Counts by split, the kind of labels and the energy that was subtracted."""
        return super().describe() | {"labels": self.labels}


def _find(path: Path, molecule: str, labels: str, split: int) -> list[Path]:
    """The one file, or the training and the test file of an official split."""
    if path.is_dir():
        pairs = [f"rmd17_{molecule}_train_{split:02d}.npz"]
        single = [f"rmd17_{molecule}.npz"]
        if labels == "original":
            single = [f"md17_{molecule}.npz", f"{molecule}_dft.npz", f"{molecule}.npz", *single]
        names = [*single, *pairs]
        there = (file for name in names for file in sorted(path.rglob(name)))
        found = [f for f in there if not any(p.startswith(".") for p in f.relative_to(path).parts)]
        if not found:
            raise FileNotFoundError(
                f"none of {', '.join(names)} in {path}; set data.path, or {BRING}"
            )
        path = found[0]
    elif not path.is_file():
        raise FileNotFoundError(f"no file or directory {path}; set data.path, or {BRING}")
    if match := _PAIR.fullmatch(path.name):
        test = path.with_name(f"{match[1]}_test_{match[2]}.npz")
        if not test.is_file():
            raise FileNotFoundError(
                f"{test} is missing, the test frames that belong to {path.name}"
            )
        return [path, test]
    return [path]


def _read(path: Path, labels: str, scale: float) -> dict[str, Array]:
    """Numbers, and pos, energy and forces in Å and eV, of one file, checked for shape."""
    layouts = _LAYOUTS[labels]
    found: dict[str, Array] = {}
    for layout in layouts:
        try:
            found = read_npz(path, layout)
        except DataError as error:
            if "has no array" not in str(error) or layout == layouts[-1]:
                if "has no array" in str(error):
                    raise DataError(f"{error}: it holds no {labels} labels") from None
                raise
        else:
            break
    for name, value in found.items():
        if value.ndim == 0 or value.dtype.kind not in "iuf":
            raise DataError(f"{path}: {name} must be an array of numbers, got {value!r:.60}")
    numbers, pos, energy, forces = found.values()
    frames, n = len(pos), len(numbers)
    energy = energy.reshape(-1)
    if len(energy) and (energy == energy.astype(np.float32)).all():
        step, spread = np.spacing(np.float32(np.abs(energy).max())), energy.astype("f8").std()
        if fault := spacing_fault(float(step) * scale, float(spread) * scale):
            raise DataError(f"{path}: its {fault}")
    energy = energy.astype(np.float64)
    if numbers.shape != (n,) or pos.shape != (frames, n, 3):
        raise DataError(f"{path}: positions have shape {pos.shape}, for {n} atoms")
    if forces.shape != pos.shape or energy.shape != (frames,):
        raise DataError(
            f"{path}: {frames} frames of {n} atoms, but energies {energy.shape} and forces "
            f"{forces.shape}"
        )
    return {
        "numbers": numbers.astype(np.int64),
        "pos": pos.astype(np.float64),
        "energy": energy * scale,
        "forces": forces.astype(np.float64) * scale,
    }
