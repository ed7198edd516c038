"""Extended XYZ, plain or compressed, ASE trajectories, and OC20's download layout as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from atomsweep.data.dataset import OnError
from atomsweep.data.formats.extxyz_read import SUFFIXES, FrameOptions, read_frames, sidecar_of
from atomsweep.data.formats.files import FileSource, SplitBy
from atomsweep.data.formats.find import Paths
from atomsweep.data.frames import Frame, Labels, Reader, check_labels


@dataclass(frozen=True)
class ExtXYZReader(FrameOptions, Reader):
    """Frames of .extxyz, .xyz and .traj, see `ExtXYZ`."""

    version = 2  # text ids; values taken for what they say
    suffixes = SUFFIXES

    def frames(self, file: Path, number: int, start: int, stop: int | None) -> Iterator[Frame]:
        """All frames of a file."""
        return islice(read_frames(file, number, self), start, stop)

    def settings(self) -> dict[str, Any]:
        """With the unit where earlier versions had it; `LabelUnits.settings` says another.

        Hashes are of the text, so that the order counts.
        """
        told = super().settings()
        labels = told.pop("labels")
        return {**told, "scale": 1.0, "labels": labels}

    def beside(self, file: Path) -> list[Path]:
        """The sidecar with ids and reference energies."""
        sidecar = sidecar_of(file)
        return [sidecar] if sidecar is not None else []


class ExtXYZ(FileSource):
    """Frames in extended XYZ or ASE's trajectories.

    Frames carry `energy`, `forces`, `move_mask` (F = fixed) or `fixed`, one or three columns each,
    `tags`, and `sid` and `fid` in their comment line; a sidecar `N.txt[.xz]` beside
    `N.extxyz[.xz]`, as in OC20's download, gives ids and the reference energy that is subtracted. A
    file whose frames carry no `sid` is one system. Frames without tags get them by rule, see
    `describe()["tags"]`.

    Args are those of `FileSource`, and:

    Args:
        energy_key: name of the energy.
        forces_key: name of the forces.
        labels: what every frame must carry.
    """

    own = True  # see `Reader`; no config names this one's

    def __init__(
        self,
        path: Paths,
        root: str,
        val_id: Paths | None = None,
        val_ood_ads: Paths | None = None,
        val_ood_cat: Paths | None = None,
        val_ood_both: Paths | None = None,
        val_fraction: float = 0.1,
        split_by: SplitBy = "auto",
        seed: int = 0,
        energy_key: str = "energy",
        forces_key: str = "forces",
        energy_unit: str | None = None,
        labels: Labels = ("energy", "forces"),
        max_force: float | None = 50.0,
        on_error: OnError = "raise",
        name: str = "extxyz",
        licence: str = "not stated",
        workers: int | None = None,
        relaxed_energy: bool | None = None,
        force_unit: str | None = None,
    ) -> None:
        reader = ExtXYZReader(energy_key, forces_key, check_labels(labels))
        super().__init__(
            reader,
            path,
            root,
            val_id,
            val_ood_ads,
            val_ood_cat,
            val_ood_both,
            val_fraction,
            split_by,
            seed,
            max_force,
            on_error,
            name,
            licence,
            workers,
            relaxed_energy=relaxed_energy,
            energy_unit=energy_unit,
            force_unit=force_unit,
        )
