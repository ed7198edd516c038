"""A split as arrays in files, which all ranks and cells of a machine map: one copy for all of them.

The files lie beside the data. They are made part by part, each part as it is done: one process
makes them, on all CPUs, others wait, and one that is killed leaves its parts to the next.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep.console import Progress
from atomsweep.data.batches.reading import read_flat
from atomsweep.data.cache import UNKEPT, derived_place
from atomsweep.data.dataset import OnError, StructureDataset
from atomsweep.data.store.build_once import build_once
from atomsweep.data.store.dataset import stored_num_edges
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.data.structure import Array, DataError
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.processes import ProcessLost, in_order
from atomsweep.tracking.files import write_atomic

VERSION = 1  # raise when the same graph would give other edges, or for another layout
PART = 1024  # structures; also what a kill costs each process
LARGE = 8  # parts; of more, other processes make some
NOTES = 10  # times what a note costs, until the next one
BYTES_PER_STRUCTURE, BYTES_PER_ATOM, BYTES_PER_EDGE = 95, 31, 5
_ABOUT, _PROGRESS = "arrays.json", "progress.json"
_ROWS = {"pos": 3, "forces": 3, "offsets": 3, "cell": 9, "pbc": 3}  # numbers in a row, if not one

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is made of a split, and how."""

    dataset: StructureDataset
    graph: RadiusGraph | None
    on_error: OnError
    unsupported: frozenset[int]


@dataclass
class Arrays:
    """Arrays of a split, by the names that `FlatTensors` has, and what was left out of it.

    Attributes:
        values: of all structures that are kept.
        kept: (S,) their places in the data set.
        faults: what was wrong with the others.
    """

    values: dict[str, Array]
    kept: Array
    faults: list[str] = field(default_factory=list)


def in_memory(wanted: Wanted, places: Array) -> Arrays:
    """Arrays of some structures, in the memory of this process.

    Raises:
        DataError: a structure is unusable, or has no edges though a graph is asked for; names it.
    """
    flat, edges, kept, faults = read_flat(
        wanted.dataset, places, wanted.graph, wanted.on_error, wanted.unsupported
    )
    if wanted.graph is not None:

        def called(row: int) -> str:
            ids = f"(sid {flat.sid[row]}, fid {flat.fid[row]})"
            return f"{wanted.dataset.where(int(kept[row]))} {ids}"

        if edges is None:
            edges = FlatEdges.build(flat, wanted.graph, called)
        lonely = edges.num_edges == 0
        for row in np.flatnonzero(lonely).tolist():
            fault = f"{called(row)} has no edges within {wanted.graph.cutoff} Å"
            if wanted.on_error == "raise":
                raise DataError(f"{fault}; enlarge the cutoff or set data.on_error=skip")
            faults.append(fault)
        if lonely.any():
            edges, flat = edges.keep(~lonely, flat.natoms), flat.keep(~lonely)
            kept = kept[~lonely]
    return Arrays(_named(flat, edges), kept, faults)


def _named(flat: FlatStructures, edges: FlatEdges | None) -> dict[str, Array]:
    values = {name: value for name, value in vars(flat).items() if value is not None}
    values["cell"] = flat.cell.astype("f4")
    values["first_atom"] = np.cumsum(flat.natoms) - flat.natoms
    if edges is not None:
        values |= vars(edges)
        values["first_edge"] = np.cumsum(edges.num_edges) - edges.num_edges
    return values


def mapped(wanted: Wanted, progress: bool = True) -> Arrays | None:
    """Arrays of a whole split in files; None where nothing can be kept.

    Raises:
        DataError: as `in_memory`.
    """
    graph = (wanted.graph.cutoff, wanted.graph.max_neighbors) if wanted.graph is not None else None
    settings = f"arrays {VERSION} {graph!r} {wanted.on_error} {sorted(wanted.unsupported)}"
    place = derived_place(wanted.dataset, "arrays", settings)
    if place is None:
        return None

    def build(partial: Path) -> None:
        try:
            _build(wanted, partial, progress, "i1")
        except OverflowError:  # a neighbour more than 127 cells away
            shutil.rmtree(partial)
            partial.mkdir()
            _build(wanted, partial, progress, "i2")

    for _ in range(2):
        try:
            build_once(place, build, f"the arrays of {wanted.dataset.name}")
        except OSError as error:
            if error.errno not in UNKEPT:
                raise
            log.warning("arrays are held in memory by each process: %s", error)
            shutil.rmtree(place.with_name(f"{place.name}.partial"), ignore_errors=True)
            return None
        try:
            return _opened(place)
        except (OSError, ValueError, KeyError) as error:
            log.warning("making the arrays again, %s is damaged: %s", place, error)
            shutil.rmtree(place)
    return None


def _opened(place: Path) -> Arrays:
    about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    values = {}
    for name, dtype in about["dtypes"].items():
        path, row = place / f"{name}.bin", _ROWS.get(name, 1) * np.dtype(dtype).itemsize
        size = path.stat().st_size
        if size != about["sizes"][name]:
            raise ValueError(f"{path.name} has {size} bytes, {about['sizes'][name]} expected")
        shape = (size // row, _ROWS[name]) if name in _ROWS else (size // row,)
        # copy on write, which torch asks for and nobody does: pages are those of all processes
        values[name] = np.memmap(path, dtype, "c", shape=shape) if size else np.zeros(shape, dtype)
    values["cell"] = values["cell"].reshape(-1, 3, 3)
    return Arrays(values, values.pop("kept"), about["faults"])


# Making them


@dataclass(frozen=True)
class _Parts(Sequence[tuple[Any, ...]]):
    """Arguments of `_part` for each part."""

    wanted: Wanted

    def __len__(self) -> int:
        return -(-len(self.wanted.dataset) // PART)

    def __getitem__(self, index: Any) -> Any:
        start, one = index * PART, self.wanted
        run = one.dataset.run(start, start + PART)
        return Wanted(run, one.graph, one.on_error, one.unsupported), start


def _part(wanted: Wanted, start: int) -> Arrays:
    part = in_memory(wanted, np.arange(len(wanted.dataset)))
    part.kept = part.kept + start
    wanted.dataset.release()
    return part


def _build(wanted: Wanted, folder: Path, progress: bool, offsets: str) -> None:
    parts = _Parts(wanted)
    files = _Files(folder, {"source": _source_type(wanted.dataset), "offsets": offsets})
    large = len(parts) > LARGE
    what = f"arrays of {wanted.dataset.name}"
    if large:
        _tell(wanted)
    workers = len(os.sched_getaffinity(0)) if large else 1
    try:
        with Progress(what, "part", len(parts), files.done, progress and large) as bar:
            for part in in_order(_part, parts, workers, files.done):
                files.append(part)
                bar.update(1)
    except ProcessLost as error:
        raise OSError(f"the structures cannot be read: {error}") from error
    files.finish()


def _tell(wanted: Wanted) -> None:
    """What takes so long, before it begins."""
    name, count = wanted.dataset.name, len(wanted.dataset)
    if wanted.graph is None or stored_num_edges(wanted.dataset, wanted.graph) is not None:
        log.info("%s: %d structures are written as arrays, once", name, count)
        return
    log.info(
        "%s: the neighbours of %d structures are found once and kept as arrays; a store made by "
        "`atomsweep data convert --neighbors %g` brings them along",
        name,
        count,
        wanted.graph.cutoff,
    )


def _source_type(dataset: StructureDataset) -> str:
    small = np.iinfo("i2").max
    blocks = range(0, len(dataset), 1 << 20)
    most = max((int(dataset.natoms[i : i + (1 << 20)].max()) for i in blocks), default=0)
    return "i2" if most <= small else "i4"


class _Files:
    """Files that grow by one part after another; one that was killed goes on after what it noted.

    Only what is on disk is noted, so that a power cut leaves no zeros; this takes less than a tenth
    of the time.
    """

    def __init__(self, folder: Path, narrow: dict[str, str]) -> None:
        self.folder, self.narrow = folder, narrow
        self.done = 0
        self.dtypes: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.faults: list[str] = []
        self._next_note = -math.inf  # monotonic seconds
        try:
            left = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            left = None
        if left is not None and left["narrow"] == narrow and self._holds(left["sizes"]):
            self.__dict__.update(left)
        for name, size in self.sizes.items():
            os.truncate(self._path(name), size)

    def _holds(self, sizes: dict[str, int]) -> bool:
        """Whether no file is shorter than noted: after a power cut one may be, or be gone."""
        paths = {self._path(name): size for name, size in sizes.items()}
        return all(path.exists() and path.stat().st_size >= n for path, n in paths.items())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def append(self, part: Arrays) -> None:
        values = {**part.values, "kept": part.kept}
        for name, unit in (("first_atom", "pos"), ("first_edge", "source")):
            if name in values:
                values[name] = values[name] + self._rows(unit)
        for name, dtype in self.narrow.items():
            if name in values:
                narrow = values[name].astype(dtype)
                if not np.array_equal(narrow, values[name]):
                    raise OverflowError(name)
                values[name] = narrow
        for name, value in values.items():
            self.dtypes[name] = value.dtype.str
            with self._path(name).open("ab" if name in self.sizes else "wb") as file:
                file.write(value.tobytes())
            self.sizes[name] = self.sizes.get(name, 0) + value.nbytes
        self.faults += part.faults
        self.done += 1
        started = time.monotonic()
        if started >= self._next_note:
            self._sync()
            write_atomic(self.folder / _PROGRESS, json.dumps(self._state()))
            now = time.monotonic()
            self._next_note = now + NOTES * (now - started)

    def _sync(self) -> None:
        for name in self.sizes:
            with self._path(name).open("rb") as file:
                os.fsync(file.fileno())

    def _rows(self, name: str) -> int:
        row = _ROWS.get(name, 1) * np.dtype(self.dtypes.get(name, "u1")).itemsize
        return self.sizes.get(name, 0) // row

    def _state(self) -> dict[str, Any]:
        names = ("narrow", "done", "dtypes", "sizes", "faults")
        return {name: getattr(self, name) for name in names}

    def finish(self) -> None:
        """What is there is all, and on disk."""
        self._sync()
        about = {"dtypes": self.dtypes, "sizes": self.sizes, "faults": self.faults}
        write_atomic(self.folder / _ABOUT, json.dumps(about, indent=1))
        (self.folder / _PROGRESS).unlink(missing_ok=True)
