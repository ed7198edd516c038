"""Statistics of the labels of a split, for a normaliser: taken once and kept. No torch."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.batches.reading import read_flat
from atomsweep.data.cache import UNKEPT, derived_place
from atomsweep.data.dataset import OnError, StructureDataset, Subset
from atomsweep.data.normalizer import LabelStatistics
from atomsweep.data.store.build_once import build_once
from atomsweep.processes import ProcessLost, in_order
from atomsweep.tracking.files import write_atomic

VERSION = 1  # raise when the same frames would give other statistics
PART = 16_384  # frames; also what a kill costs each process
LARGE = 4  # parts; of more, other processes read some
_SUMS, _RESULT = "sums.npz", "labels.json"

log = logging.getLogger(__name__)


def label_statistics(
    dataset: StructureDataset,
    on_error: OnError = "raise",
    unsupported: frozenset[int] = frozenset(),
    progress: bool = True,
) -> dict[str, Any]:
    """`LabelStatistics.result` of a split: read from where they are kept, or taken and kept there.

    Of several processes that need them one takes them, on all CPUs, and the others wait; one that
    is killed leaves what it has summed to the next.

    Args:
        dataset: the split.
        on_error: "skip" leaves out structures that cannot be used.
        unsupported: atomic numbers; a structure that has one cannot be used.
        progress: show how far it is.

    Raises:
        DataError: a structure is unusable and `on_error` is "raise"; names it.
    """
    left_out = sorted(unsupported) if on_error == "skip" else []
    place = derived_place(dataset, "statistics", f"labels {VERSION} {PART} {left_out}")

    def taken(folder: Path | None) -> dict[str, Any]:
        return _sums(dataset, on_error, unsupported, progress, folder).result()

    if place is None:
        return taken(None)

    def build(partial: Path) -> None:
        write_atomic(partial / _RESULT, json.dumps(taken(partial), indent=1))
        (partial / _SUMS).unlink(missing_ok=True)

    for _ in range(2):
        try:
            build_once(place, build, f"the label statistics of {dataset.name}")
        except OSError as error:
            if error.errno not in UNKEPT:
                raise
            log.warning("label statistics are not kept: %s", error)
            break
        try:
            found: dict[str, Any] = json.loads((place / _RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            log.warning("taking the label statistics again, %s is damaged: %s", place, error)
            shutil.rmtree(place)
        else:
            return found
    return taken(None)


def _sums(
    dataset: StructureDataset,
    on_error: OnError,
    unsupported: frozenset[int],
    progress: bool,
    folder: Path | None,
) -> LabelStatistics:
    """Sums over all parts, always added in their order; what is done is left in `folder`."""
    parts = _Parts(dataset, on_error, unsupported)
    done, total = _left(folder)
    large = len(parts) > LARGE
    if large:
        log.info("label statistics of %s: reading %d structures once", dataset.name, len(dataset))
    what = f"label statistics of {dataset.name}"
    workers = len(os.sched_getaffinity(0)) if large else 1
    try:
        with Progress(what, "part", len(parts), done, progress and large) as bar:
            for sums in in_order(_of_part, parts, workers, done):
                total.merge(sums)
                bar.update(1)
                if folder is not None and large:
                    _keep(folder, bar.done, total)
    except ProcessLost as error:
        raise OSError(f"the labels cannot be read: {error}") from error
    return total


@dataclass(frozen=True)
class _Parts(Sequence[tuple[Any, ...]]):
    """Arguments of `_of_part` for each part."""

    dataset: StructureDataset
    on_error: OnError
    unsupported: frozenset[int]

    def __len__(self) -> int:
        return -(-len(self.dataset) // PART)

    def __getitem__(self, index: Any) -> Any:
        start = index * PART
        return self.dataset.run(start, start + PART), self.on_error, self.unsupported


def _of_part(part: Subset, on_error: OnError, unsupported: frozenset[int]) -> LabelStatistics:
    sums = LabelStatistics()
    flat, _, _, _ = read_flat(part, np.arange(len(part)), None, on_error, unsupported)
    part.release()
    if flat.energy is not None:
        sums.add_energies(flat.energy, flat.atomic_numbers, flat.natoms)
    if flat.forces is not None:
        sums.add_forces(flat.forces, flat.fixed)
    return sums


def _keep(folder: Path, done: int, sums: LabelStatistics) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = sums.state()
    np.savez(buffer, done=done, **arrays)
    write_atomic(folder / _SUMS, buffer.getvalue(), durable=False)


def _left(folder: Path | None) -> tuple[int, LabelStatistics]:
    """Parts that one that was killed has summed, and their sums."""
    if folder is not None and (folder / _SUMS).exists():
        try:
            with np.load(folder / _SUMS, allow_pickle=False) as state:
                return int(state["done"]), LabelStatistics.of_state(state)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("beginning anew, %s is damaged: %s", folder / _SUMS, error)
    return 0, LabelStatistics()
