"""Relaxations as flat arrays in an .npz: all atoms of all frames one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from atomsweep.data.frames import Frame, Labels, Reader, check_labels, set_ids, set_tags
from atomsweep.data.npz import read_npz
from atomsweep.data.structure import Array, DataError, Structure

_SYSTEMS = ("sys_sid", "sys_numbers", "sys_fixed", "sys_tags", "sys_offset", "sys_cell")
_FRAMES = ("pos", "sid", "fid")


@dataclass(frozen=True)
class FlatNPZReader(Reader):
    """Frames of systems whose atoms, cell, tags and fixed flags do not change.

    Of each of M systems: `sys_sid (M,)`, `sys_cell (M,3,3)` Å, `sys_offset (M+1,)` where its atoms
    begin in `sys_numbers`, `sys_tags`, `sys_fixed` (one entry for each atom). Of each of S frames:
    `sid (S,)` of its system, `fid (S,)`, `energy (S,)` eV, and its atoms' rows in `pos`, `forces`
    (all frames' atoms, 3), Å and eV/Å, in the order of the frames. Periodic in three directions.

    Attributes:
        labels: what every frame must carry.
    """

    own = True
    suffixes = (".npz",)
    labels: Labels = ("energy", "forces")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """All frames of a file, its arrays read whole and checked against each other first."""
        return islice(_frames(file, self.labels), start, stop)


def _frames(file: Path, labels: Labels) -> Iterator[Frame]:
    arrays = read_npz(file, (*_SYSTEMS, *_FRAMES, *labels))
    offset, place = arrays["sys_offset"], _places(file, arrays)
    sizes = np.diff(offset)[place]  # (S,) atoms of each frame
    ends = np.cumsum(sizes)
    for name in ("pos", *(label for label in labels if label == "forces")):
        if arrays[name].shape != (int(sizes.sum()), 3):
            raise DataError(
                f"{file}: its frames have {int(sizes.sum())} atoms, but {name} has shape "
                f"{arrays[name].shape}"
            )
    for index, (system, end) in enumerate(zip(place.tolist(), ends.tolist(), strict=True)):
        atoms = slice(int(offset[system]), int(offset[system + 1]))
        rows = slice(end - int(sizes[index]), end)
        structure = Structure(
            atomic_numbers=arrays["sys_numbers"][atoms].astype(np.int64),
            pos=arrays["pos"][rows].astype(np.float64),
            cell=arrays["sys_cell"][system].astype(np.float64),
            pbc=np.ones(3, dtype=bool),
            tags=arrays["sys_tags"][atoms].astype(np.int64),
            fixed=arrays["sys_fixed"][atoms].astype(bool),
            forces=arrays["forces"][rows].astype(np.float64) if "forces" in labels else None,
            energy=float(arrays["energy"][index]) if "energy" in labels else None,
        )
        frame = Frame(index, structure, set_tags(structure))
        yield set_ids(frame, arrays["sid"][index], arrays["fid"][index], index)


def _places(file: Path, arrays: dict[str, Array]) -> Array:
    """(S,) place of each frame's system, after the arrays were found to fit together."""
    for name in arrays:
        if arrays[name].ndim == 0 or arrays[name].dtype.kind not in "biuf":
            raise DataError(f"{file}: {name} must be an array of numbers")
    for name in ("sys_sid", "sid"):
        if len(arrays[name]) == 0:
            raise DataError(f"{file}: {name} is empty")
    systems, frames, offset = len(arrays["sys_sid"]), len(arrays["sid"]), arrays["sys_offset"]
    atoms = int(offset[-1]) if offset.shape == (systems + 1,) else -1
    expected: dict[str, tuple[int, ...]] = {
        "sys_offset": (systems + 1,),
        "sys_cell": (systems, 3, 3),
        **dict.fromkeys(("sys_numbers", "sys_tags", "sys_fixed"), (atoms,)),
        **{name: (frames,) for name in ("fid", "energy") if name in arrays},
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise DataError(f"{file}: {name} must have shape {shape}, got {arrays[name].shape}")
    for name in ("sys_sid", "sys_offset", "sys_numbers", "sys_tags", "sid", "fid"):
        if arrays[name].dtype.kind not in "iu":
            raise DataError(
                f"{file}: {name} must hold whole numbers, it holds {arrays[name].dtype}"
            )
    if offset[0] != 0 or (np.diff(offset) < 1).any():
        raise DataError(f"{file}: sys_offset must begin with 0 and grow, system by system")
    order = np.argsort(arrays["sys_sid"], kind="stable")
    known = arrays["sys_sid"][order]
    if (double := known[1:] == known[:-1]).any():
        raise DataError(f"{file}: system {known[1:][double][0]} is there twice")
    found = np.searchsorted(known, arrays["sid"]).clip(max=systems - 1)
    if (unknown := known[found] != arrays["sid"]).any():
        index = int(np.argmax(unknown))
        raise DataError(
            f"{file}: frame {index} is of system {arrays['sid'][index]}, not in sys_sid"
        )
    return order[found]
