"""Neighbour lists of a data set, kept on disk beside it."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from atomsweep.data.dataset import StructureDataset
from atomsweep.data.store.flat import FlatEdges, FlatStructures
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.tracking.files import write_atomic
from atomsweep.tracking.lock import exclusive

NEIGHBORS_VERSION = 1  # raise when the same graph would give other edges or another layout

log = logging.getLogger(__name__)


def cached_edges(
    dataset: StructureDataset, flat: FlatStructures, graph: RadiusGraph, names: list[str]
) -> FlatEdges:
    """Neighbour lists of a data set, read from beside it or built and left there.

    Of several processes that need the same lists one builds them and the others wait. A data set
    without a fingerprint or without a writable place is built in memory each time.
    """
    if not dataset.fingerprint or dataset.cache_dir is None:
        return FlatEdges.build(flat, graph, names)
    digest = hashlib.sha256(
        f"{NEIGHBORS_VERSION}|{dataset.fingerprint}|{graph.cutoff!r}|{graph.max_neighbors}".encode()
    )
    for array in (flat.natoms, flat.sid, flat.fid):
        digest.update(array.tobytes())
    path = dataset.cache_dir / "neighbors" / f"{digest.hexdigest()[:16]}.npz"
    if (found := _load(path, flat)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock"), math.inf):
            if (found := _load(path, flat)) is None:
                found = FlatEdges.build(flat, graph, names)
                _save(path, found)
            return found
    except OSError as error:
        log.info("neighbour lists are not cached, %s is not writable: %s", path.parent, error)
        return FlatEdges.build(flat, graph, names)


def _load(path: Path, flat: FlatStructures) -> FlatEdges | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            edges = FlatEdges(**{f.name: data[f.name] for f in fields(FlatEdges)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("rebuilding the neighbour lists, %s is damaged: %s", path, error)
        return None
    if not edges.fits(flat):
        log.warning("rebuilding the neighbour lists, %s belongs to other structures", path)
        return None
    return edges


def _save(path: Path, edges: FlatEdges) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{f.name: getattr(edges, f.name) for f in fields(FlatEdges)})
    try:
        write_atomic(path, buffer.getvalue(), durable=False)
    except OSError as error:
        log.warning("neighbour lists are not cached, cannot write %s: %s", path, error)
