"""The embedded data set `mini_oc`: OC20's structure on a classical potential, made on first use.

Adsorbates on metal slabs, relaxed with ASE on effective medium theory: tags, fixed bottom layers,
periodic cells with vacuum, frames with adsorption energies and forces, four validation splits by
held-out adsorbates and catalysts. It is not DFT chemistry, and numbers on it are not the papers'.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from atomsweep.data.dataset import (
    OnError,
    RelaxedEnergies,
    StructureDataset,
    check_on_error,
    usable,
)
from atomsweep.data.generated.mini_oc_recipe import ANOMALIES, KINDS, RATTLED_FID, SPLITS, Recipe
from atomsweep.data.source import DataSource, Provenance, check_split
from atomsweep.data.store.build_once import build_once
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import Array

if TYPE_CHECKING:
    from atomsweep.data.generated.emt import EMTOracle

SYSTEMS = "systems.jsonl"
NOTE = (
    "OC20's structure (slabs, tags, fixed atoms, splits) on a classical potential, effective "
    "medium theory: a smooth many-body surface, NOT DFT chemistry. Labels are our own; numbers on "
    "it are not comparable with those of any paper on OC20."
)

log = logging.getLogger(__name__)


class MiniOC(DataSource):
    """Source of the embedded data set; builds it under `root` on first use.

    The same arguments give the same data on any number of workers. Args are those of `Recipe`
    (what the data are), and:

    Args:
        root: directory for data sets; this one lies in `<root>/mini_oc-<fingerprint>/`.
        name: how reports call it.
        workers: processes that build; None takes one for each available CPU.
        on_error: "skip" drops unusable records of a damaged store instead of stopping.
    """

    kinds = MappingProxyType({KINDS[0]: 0, KINDS[1]: RATTLED_FID})
    small = True

    def __init__(
        self,
        root: str,
        seed: int,
        train_systems: int,
        val_systems: int,
        frames_per_system: int,
        rattled_share: float,
        rattle_std: Sequence[float],
        min_xy: float,
        min_depth: float,
        vacuum: float,
        heldout_bulks: int,
        train_adsorbates: Sequence[str],
        ood_adsorbates: Sequence[str],
        fmax: float,
        max_steps: int,
        name: str = "mini_oc",
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        low, high = rattle_std
        self.recipe = Recipe(
            seed=seed,
            train_systems=train_systems,
            val_systems=val_systems,
            frames_per_system=frames_per_system,
            rattled_share=float(rattled_share),
            rattle_std=(float(low), float(high)),
            min_xy=float(min_xy),
            min_depth=float(min_depth),
            vacuum=float(vacuum),
            heldout_bulks=heldout_bulks,
            train_adsorbates=tuple(train_adsorbates),
            ood_adsorbates=tuple(ood_adsorbates),
            fmax=float(fmax),
            max_steps=max_steps,
        )
        self.name = name
        self.workers = workers
        self.on_error = check_on_error(on_error)
        self.skipped = {}
        self.directory = Path(root) / f"mini_oc-{self._recipe_hash()}"

    def fingerprint(self) -> str:
        """Hash of the recipe and of the generator's version."""
        return self._recipe_hash()

    def _recipe_hash(self) -> str:
        text = json.dumps(self.recipe.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def prepare(self, progress: bool = True) -> None:
        """Build the data set unless it is there.

        Raises:
            OSError: the disk is full or not writable; names the path. What was built stays for the
                next attempt.
        """

        def build(partial: Path) -> None:
            from atomsweep.data.generated.mini_oc_run import build_data_set

            build_data_set(
                self.recipe, partial, self._recipe_hash(), self.provenance, self.workers, progress
            )

        build_once(self.directory, build, f"the data set {self.name}")

    def splits(self) -> tuple[str, ...]:
        """`train` and OC20's four validation splits."""
        return SPLITS

    def split(self, name: str) -> StructureDataset:
        """Frames of a split."""
        check_split(name, SPLITS, self.name)
        return self._open(name, f"{name}.lmdb")

    def relaxations(self, name: str) -> StructureDataset:
        """Both ends of every relaxation of a split: even indices initial, odd ones relaxed."""
        check_split(name, SPLITS, self.name)
        return self._open(f"{name}_relaxations", f"{name}_relaxations.lmdb")

    def _open(self, key: str, file: str) -> StructureDataset:
        self.prepare()
        dataset, faults = usable(StoreDataset(self.directory / file), self.on_error)
        if faults:
            self.skipped[key] = faults
        return dataset

    def systems(self) -> list[dict[str, Any]]:
        """One record for each system, as OC20's mapping: bulk, adsorbate, facet, anomaly, ..."""
        self.prepare()
        text = (self.directory / SYSTEMS).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def oracle(self) -> EMTOracle:
        """The potential that made the labels, for tasks that need true force calls."""
        from atomsweep.data.generated.emt import EMTOracle

        return EMTOracle()

    @property
    def provenance(self) -> Provenance:
        """Made here; see `NOTE`."""
        return Provenance("generated by atomsweep.data.mini_oc", "CC0-1.0", NOTE)

    def describe(self) -> dict[str, Any]:
        """Counts by split and kind, adsorbates, anomalies and provenance."""
        systems = self.systems()
        splits = {}
        for split in SPLITS:
            store = StoreDataset(self.directory / f"{split}.lmdb")
            mine = [s for s in systems if s["split"] == split]
            rattled = int(np.count_nonzero(frame_kinds(store.fids)))
            anomalies = Counter(ANOMALIES[s["anomaly"]] for s in mine)
            splits[split] = {
                "systems": len(mine),
                "frames": len(store),
                "rattled_frames": rattled,
                "atoms_mean": round(float(store.natoms.mean()), 1),
                "adsorbates": sorted({s["ads_symbols"] for s in mine}),
                "bulks": len({s["bulk_symbols"] for s in mine}),
                "anomalies": dict(anomalies),
                "converged": sum(s["converged"] for s in mine),
            }
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "splits": splits,
            "skipped": {key: len(faults) for key, faults in self.skipped.items()},
            "provenance": self.provenance.as_dict(),
        }


class MiniOCIS2RE(MiniOC):
    """The relaxations of `MiniOC` for IS2RE: initial structures with energies of the relaxed ones.

    The same files and splits; one structure for each relaxation. Args are those of `MiniOC`.
    """

    relaxed_energy = True
    kinds = MappingProxyType({})  # each structure is the first of a relaxation

    def label_names(self) -> frozenset[str]:
        """The relaxed energy alone."""
        return frozenset(("energy",))

    def fingerprint(self) -> str:
        """Of the recipe, and of what the labels are."""
        return hashlib.sha256(f"is2re {self._recipe_hash()}".encode()).hexdigest()[:12]

    def split(self, name: str) -> StructureDataset:
        """Initial structures of a split, with the energy of the relaxed ones."""
        check_split(name, SPLITS, self.name)
        self.prepare()
        ends = StoreDataset(self.directory / f"{name}_relaxations.lmdb")
        dataset, faults = usable(RelaxedEnergies(ends, f"{self.name} {name}"), self.on_error)
        if faults:
            self.skipped[name] = faults
        return dataset

    def describe(self) -> dict[str, Any]:
        """That of `MiniOC`, with the number of structures that are learnt from."""
        found = super().describe()
        for split, about in found["splits"].items():
            about["structures"] = len(self.split(split))
        return found


def frame_kinds(fids: Array) -> Array:
    """Index into `KINDS` ("relaxation", "rattled") of each frame id.

    Shape: (S,) -> (S,).
    """
    assert KINDS[1] == "rattled"
    return (np.asarray(fids) >= RATTLED_FID).astype(np.int64)
