"""Whether frames are what their unit says: many are left out, or forces are of another unit."""

from __future__ import annotations

import numpy as np

from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import DataError

MOST_LEFT_OUT = 0.2  # of all frames
FEW = 4  # frames: nothing is to be learned from them
USUAL = 0.2  # of `max_force`: the median force of data in eV/Å lies far below 10 of 50
SAMPLE = 200  # frames that are looked at
REMEDY = (
    "if they are not in eV/Å, set the energy_unit of the data (kcal/mol, hartree); if they are, "
    "data.max_force=<larger>, or null, keeps them"
)


def check_forces(store: StoreDataset, left_out: int, max_force: float | None, name: str) -> None:
    """Refuse training frames whose numbers no file in eV has; `max_force=null` asks for no check.

    A file of ethanol in kcal/mol loses a tenth of its frames to a limit in eV/Å, and the rest would
    be learned as if nothing were wrong.

    Args:
        store: the frames that are kept.
        left_out: number of those that are not, for a force component above `max_force`.
        max_force: eV/Å.
        name: of the data set, for the message.

    Raises:
        DataError: more than a fifth is left out, or half of all forces are larger than a fifth of
            `max_force`.
    """
    if max_force is None:
        return
    frames = len(store) + left_out
    if left_out > max(FEW, MOST_LEFT_OUT * frames):
        raise DataError(
            f"{name}: {left_out} of {frames} frames have a force above {max_force:g} eV/Å and "
            f"would be left out; {REMEDY}"
        )
    if not store.has_forces or not len(store):
        return
    looked_at = np.unique(np.linspace(0, len(store) - 1, SAMPLE).astype(int))
    chosen = [store[index] for index in looked_at.tolist()]
    forces = [s.forces[~s.fixed] for s in chosen if s.forces is not None]
    sizes = np.linalg.norm(np.concatenate(forces), axis=1) if forces else np.zeros(0)
    if sizes.size and (middle := float(np.median(sizes))) > USUAL * max_force:
        raise DataError(
            f"{name}: half of all forces are above {middle:.0f} eV/Å, which is odd for a data set "
            f"in eV; {REMEDY}"
        )
