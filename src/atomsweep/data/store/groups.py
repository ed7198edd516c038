"""What must not be divided between training and validation: systems, adsorbates, catalysts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from math import gcd

import numpy as np

from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import Array, DataError, Structure

SPLIT_BY = ("auto", "sid", "frame", "adsorbate", "catalyst")
"""`auto` is by system, or by frame where all frames are of one."""

log = logging.getLogger(__name__)


def held_out_frames(
    store: StoreDataset,
    fraction: float,
    split_by: str,
    seed: int,
    name: str,
    mapped: Mapping[int, str] | None = None,
) -> Array:
    """(len,) which frames are `val_id` when a fraction of the groups is held out.

    `mapped` names the group of each system; without it the structures tell (`group_names`).

    Raises:
        DataError: there are too few groups; `name` is what the message calls the data set.
    """
    if split_by == "auto":
        split_by = "sid" if np.ptp(store.sids) else "frame"
    if mapped is None:
        groups = group_names(store, split_by)
    else:
        groups = np.array([mapped[sid] for sid in store.sids.tolist()])
    names = np.unique(groups)
    count = max(1, round(fraction * len(names)))
    if len(names) < 2:
        what = "system" if split_by == "sid" else split_by
        raise DataError(
            f"{name} holds {len(names)} {what} and cannot hold out any; give "
            "data.val_id=<files>, data.split_by=frame or data.val_fraction=0"
        )
    if split_by == "frame":
        _say_once(name)
    order = np.random.default_rng([seed]).permutation(len(names))
    return np.isin(groups, names[order[:count]])


@cache
def _say_once(name: str) -> None:
    log.warning(
        "%s is split by frame: train and val_id hold frames of the same systems, and errors are "
        "smaller than on new ones; data.val_id=<files> holds out what you choose",
        name,
    )


def group_names(store: StoreDataset, split_by: str) -> Array:
    """(len,) name of the group of each structure.

    An adsorbate is the composition of the atoms of tag 2; a catalyst that of the others in lowest
    terms (Cu36Pt12 is Cu3Pt), so that its facets and terminations stay together.
    """
    if split_by == "sid":
        return store.sids
    if split_by == "frame":
        return np.arange(len(store))
    names: dict[int, str] = {}  # of a system: the composition is that of all its frames
    for index, sid in enumerate(store.sids.tolist()):
        if sid not in names:
            names[sid] = _group(store[index], split_by)
    return np.array([names[sid] for sid in store.sids.tolist()])


def _group(structure: Structure, split_by: str) -> str:
    adsorbate = structure.tags == 2
    chosen = structure.atomic_numbers[adsorbate if split_by == "adsorbate" else ~adsorbate]
    numbers, counts = np.unique(chosen, return_counts=True)
    divisor = gcd(*counts.tolist()) if split_by == "catalyst" else 1
    return " ".join(f"{z}:{n // divisor}" for z, n in zip(numbers, counts, strict=True))
