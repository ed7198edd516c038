"""Three records for each folder that the published archives unpack to: OC20, OC22, MD17.

Beside them relaxations as flat arrays, for `sweeps/forcenet/real_oc20_mini.yaml`.
"""

import numpy as np

from tests.data.formats.pyg_records import (
    as_pyg_2,
    is2re_fields,
    s2ef_fields,
    write_lmdb,
    write_oc20_layout,
)
from tests.data.formats.relaxations import arrays

MOLECULES = (
    "aspirin",
    "benzene2017",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "salicylic",
    "toluene",
    "uracil",
)
OC20_IS2RE = "is2res_train_val_test_lmdbs/data/is2re/all"
OC22 = "s2ef_total_train_val_test_lmdbs/data/oc22/s2ef-total"
OC22_IS2RE = "is2res_total_train_val_test_lmdbs/data/oc22/is2re-total"


def write_published_layout(root):
    """Files of every data set of the papers, under `root`, with next to nothing in them."""
    write_oc20_layout(root)
    oc20 = [f"s2ef/{name}/train" for name in ("200k", "20M", "md")]
    for folder in (*oc20, *(f"{OC22}/{s}" for s in SPLITS_OC22)):
        records = [as_pyg_2(s2ef_fields(seed)) for seed in range(3)]
        write_lmdb(root / folder / "data.0000.lmdb", records)
    for split in ("train", "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"):
        _write_is2re(root / OC20_IS2RE / split / "data.lmdb")
    for split in ("val_id", "val_ood"):
        _write_is2re(root / OC22_IS2RE / split / "data.0000.lmdb")
    np.savez(root / "oc22_linfit_coeffs.npz", coeff=np.arange(100.0))
    np.savez(root / "oc20_relaxations.npz", **arrays())
    (root / "md17").mkdir()
    numbers = [6] * 9 + [8] * 4 + [1] * 8
    for seed, molecule in enumerate(MOLECULES):  # each its own, or two runs would be one
        pos = np.random.default_rng(seed).standard_normal((1001, len(numbers), 3))
        np.savez(root / f"md17/md17_{molecule}.npz", E=pos[:, 0, 0], F=pos, R=pos, z=numbers)
    return root


SPLITS_OC22 = ("train", "val_id", "val_ood")


def _write_is2re(path):
    write_lmdb(path, [as_pyg_2(is2re_fields(seed)) for seed in range(3)], length=False)
