"""What determines the embedded data set: the recipe and its constants. Starts without ASE."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

from atomsweep.tracking.schema import FRAME_KINDS

GENERATOR = 2  # raise when the same recipe would give other data
METALS = ("Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt")
FACETS = ((1, 1, 1), (1, 0, 0), (1, 1, 0), (2, 1, 1))
SPLITS = ("train", "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
SID_STRIDE = 1_000_000  # sid = place of the split in SPLITS × stride + number
RATTLED_FID = 10_000  # frames of this fid and above are rattled copies, below are relaxation frames
KINDS = FRAME_KINDS
ANOMALIES = ("none", "dissociation", "desorption", "reconstruction")
MAX_ENERGY = 10.0  # eV, OC20's own filter
MAX_FORCE = 50.0  # eV/Å

# Rough geometries (Å), binding atom first, pointing down; relaxed with EMT before use.
ADSORBATES: dict[str, tuple[str, tuple[tuple[float, float, float], ...]]] = {
    "H": ("H", ((0, 0, 0),)),
    "C": ("C", ((0, 0, 0),)),
    "N": ("N", ((0, 0, 0),)),
    "O": ("O", ((0, 0, 0),)),
    "OH": ("OH", ((0, 0, 0), (0, 0, 0.97))),
    "CH": ("CH", ((0, 0, 0), (0, 0, 1.1))),
    "NH": ("NH", ((0, 0, 0), (0, 0, 1.03))),
    "CO": ("CO", ((0, 0, 0), (0, 0, 1.15))),
    "NO": ("NO", ((0, 0, 0), (0, 0, 1.17))),
    "CN": ("CN", ((0, 0, 0), (0, 0, 1.17))),
    "O2": ("OO", ((0, 0, 0), (0, 0, 1.25))),
    "N2": ("NN", ((0, 0, 0), (0, 0, 1.12))),
    "C2": ("CC", ((0, 0, 0), (0, 0, 1.25))),
    "CO2": ("OCO", ((0, 0, 0), (0, 0, 1.17), (0, 0, 2.34))),
    "N2O": ("NNO", ((0, 0, 0), (0, 0, 1.13), (0, 0, 2.32))),
    "NO2": ("NOO", ((0, 0, 0), (1.1, 0, 0.5), (-1.1, 0, 0.5))),
    "NCO": ("NCO", ((0, 0, 0), (0, 0, 1.2), (0, 0, 2.38))),
    "CCO": ("CCO", ((0, 0, 0), (0, 0, 1.3), (0, 0, 2.47))),
    "C2N": ("CCN", ((0, 0, 0), (0, 0, 1.3), (0, 0, 2.47))),
    "O3": ("OOO", ((0, 0, 0), (1.1, 0, 0.6), (-1.1, 0, 0.6))),
    "N3": ("NNN", ((0, 0, 0), (0, 0, 1.18), (0, 0, 2.36))),
    "C3": ("CCC", ((0, 0, 0), (0, 0, 1.3), (0, 0, 2.6))),
    "HCO": ("CHO", ((0, 0, 0), (-0.9, 0, 0.5), (1.0, 0, 0.6))),
    "HCN": ("NCH", ((0, 0, 0), (0, 0, 1.16), (0, 0, 2.22))),
    "COH": ("COH", ((0, 0, 0), (0, 0, 1.3), (0.9, 0, 1.6))),
}


@dataclass(frozen=True)
class Recipe:
    """What determines the data. Lengths in Å, energies in eV.

    Attributes:
        seed: of everything random.
        train_systems: relaxations in `train`.
        val_systems: relaxations in each of the four validation splits.
        frames_per_system: frames kept of each relaxation, rattled ones included.
        rattled_share: share of them that are rattled copies of relaxation frames.
        rattle_std: smallest and largest standard deviation of the displacements of free atoms,
            drawn log-uniformly for each frame.
        min_xy: smallest length of the two lateral cell vectors.
        min_depth: smallest distance between top and bottom layer.
        vacuum: between periodic images along z.
        heldout_bulks: alloys that occur in `val_ood_cat` and `val_ood_both` only.
        train_adsorbates: adsorbates of `train`, `val_id` and `val_ood_cat`.
        ood_adsorbates: adsorbates of `val_ood_ads` and `val_ood_both`.
        fmax: relaxations end when no free atom feels more, eV/Å.
        max_steps: or after so many steps.
    """

    seed: int
    train_systems: int
    val_systems: int
    frames_per_system: int
    rattled_share: float
    rattle_std: tuple[float, float]
    min_xy: float
    min_depth: float
    vacuum: float
    heldout_bulks: int
    train_adsorbates: tuple[str, ...]
    ood_adsorbates: tuple[str, ...]
    fmax: float
    max_steps: int

    def __post_init__(self) -> None:
        for name in (*self.train_adsorbates, *self.ood_adsorbates):
            if name not in ADSORBATES:
                raise ValueError(f"unknown adsorbate {name!r}; known: {', '.join(ADSORBATES)}")
        if both := set(self.train_adsorbates) & set(self.ood_adsorbates):
            raise ValueError(f"adsorbates {sorted(both)} are both trained on and held out")
        known = {symbol for name in self.train_adsorbates for symbol in adsorbate_symbols(name)}
        if (
            new := {symbol for name in self.ood_adsorbates for symbol in adsorbate_symbols(name)}
            - known
        ):
            raise ValueError(
                f"held-out adsorbates contain elements never trained on: {sorted(new)}"
            )
        for name in ("train_systems", "val_systems", "frames_per_system", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("min_xy", "min_depth", "vacuum", "fmax"):
            if not getattr(self, name) > 0:
                raise ValueError(f"data.{name} must be above 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"data.seed must not be negative, got {self.seed}")
        if not 0.0 <= self.rattled_share <= 1.0:
            raise ValueError(f"rattled_share must be in [0, 1], got {self.rattled_share}")
        if not 0.0 < self.rattle_std[0] <= self.rattle_std[1]:
            raise ValueError(f"rattle_std must be 0 < smallest <= largest, got {self.rattle_std}")
        if not 0 < self.heldout_bulks < len(bulk_names()) - len(METALS):
            raise ValueError(
                f"heldout_bulks must be between 1 and {len(bulk_names()) - len(METALS) - 1}, "
                f"got {self.heldout_bulks}"
            )

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON, with the version of the generator."""
        return {"generator": GENERATOR, **asdict(self)}

    def sids(self, split: str) -> range:
        """System ids of a split."""
        start = SPLITS.index(split) * SID_STRIDE
        return range(start, start + (self.train_systems if split == "train" else self.val_systems))


def adsorbate_symbols(adsorbate: str) -> list[str]:
    """Element of each atom of an adsorbate."""
    return list(ADSORBATES[adsorbate][0])


def bulk_names() -> list[str]:
    """The 70 bulks: 7 metals, 42 alloys A3B (L1_2) and 21 AB (L1_0)."""
    mixed = [f"{a}3{b}" for a, b in itertools.permutations(METALS, 2)]
    return [*METALS, *mixed, *(f"{a}{b}" for a, b in itertools.combinations(METALS, 2))]
