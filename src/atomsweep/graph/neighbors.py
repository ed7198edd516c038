"""Periodic radius graphs of one structure, as numpy arrays. vesin finds the pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RIM = 0.01  # Å: neighbours this little beyond the last one kept are kept too
COINCIDENT = 1e-3  # Å: closer atoms have no direction between them
WIDEST = 1e5  # Å: vesin counts its cells in 32 bits, and a wider span ends the process
MOST_CELLS = 32767  # between an atom and its neighbour: offsets are kept in 16 bits
FINEST = 2.0  # Å: vesin divides space into cells of the cutoff: more than atoms, if it is smaller


@dataclass(frozen=True)
class RadiusGraph:
    """Edges from every atom within `cutoff` to its centre, nearest `max_neighbors` of each centre.

    Neighbours are counted with their periodic images; an image of the centre itself is a neighbour,
    the centre itself is not. Of the neighbours at the rim all those within 0.01 Å of the last one
    kept are kept as well, so a centre may have a few more than `max_neighbors`: in a crystal many
    distances are equal but for rounding, and cutting among them would make the graph depend on the
    rounding, i.e. a wrapped, shifted or turned copy of a structure would have another graph.

    Attributes:
        cutoff: Å.
        max_neighbors: neighbours kept for each centre; None keeps all.
    """

    cutoff: float = 6.0
    max_neighbors: int | None = 50

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ValueError(f"cutoff must be positive, got {self.cutoff} Å")
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise ValueError(f"max_neighbors must be at least 1 or None, got {self.max_neighbors}")

    def __call__(
        self, pos: ArrayLike, cell: ArrayLike, pbc: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Edges of one structure, sorted by target, then distance, then source.

        Args:
            pos: Å; atoms may lie outside the cell.
            cell: Å, rows are lattice vectors; zero along directions that are not periodic is fine.
            pbc: periodic directions.

        Returns:
            edge_index (2, E), [0] source = neighbour, [1] target = centre, and cell_offsets (E, 3)
            such that the edge is `pos[source] - pos[target] + cell_offsets @ cell`.

        Raises:
            ValueError: shapes do not fit, positions are not finite or span more than `WIDEST` or
                `MOST_CELLS`, or two atoms lie on the same spot.

        Shape: pos (N, 3), cell (3, 3), pbc (3,).
        """
        pos = np.ascontiguousarray(pos, dtype=np.float64)
        pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
        cell = np.asarray(cell, dtype=np.float64)
        if pos.ndim != 2 or pos.shape[1] != 3 or cell.shape != (3, 3):
            raise ValueError(
                f"expected pos (N, 3) and cell (3, 3), got {pos.shape} and {cell.shape}"
            )
        if not len(pos):
            return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32)
        if fault := position_fault(pos):
            raise ValueError(fault)
        target, source, offsets, dist = _pairs(pos, full_rank(cell, pbc), pbc, self.cutoff)
        if len(dist) and dist.min() < COINCIDENT:
            worst = int(dist.argmin())
            raise ValueError(
                f"atoms {source[worst]} and {target[worst]} are {dist[worst]:.1e} Å apart; "
                "remove the duplicate"
            )
        if len(offsets) and (far := int(np.abs(offsets).max())) > MOST_CELLS:
            raise ValueError(
                f"atoms that are neighbours lie {far} cells apart, at most {MOST_CELLS} are told; "
                "wrap the positions into the cell"
            )
        order = _order(target, dist, source)
        target, source, dist = target[order], source[order], dist[order]
        offsets = offsets.take(order, 0)
        if self.max_neighbors is not None:
            keep = _nearest(target, dist, len(pos), self.max_neighbors)
            if not keep.all():
                target, source, offsets = target[keep], source[keep], offsets[keep]
        return np.stack([source, target]), offsets


def shortest_distance(
    pos: ArrayLike, cell: ArrayLike, pbc: ArrayLike, below: float
) -> tuple[float, int, int] | None:
    """The two atoms that are nearest, an image of an atom counted as another, and how far apart, Å.

    Args:
        pos: Å; atoms may lie outside the cell.
        cell: Å, rows are lattice vectors.
        pbc: periodic directions.
        below: Å; None is returned where no two atoms are nearer, or positions cannot be searched.

    Shape: pos (N, 3), cell (3, 3), pbc (3,).
    """
    if not below > 0 or not np.size(pos):
        return None
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
    pos = np.ascontiguousarray(pos, dtype=np.float64)
    cell = full_rank(np.asarray(cell, dtype=np.float64), pbc)
    if position_fault(pos):
        return None
    i, j, _, dist = _pairs(pos, cell, pbc, below)
    if not len(dist):
        return None
    nearest = int(dist.argmin())
    return float(dist[nearest]), int(min(i[nearest], j[nearest])), int(max(i[nearest], j[nearest]))


def _order(
    target: NDArray[np.int64], dist: NDArray[np.float64], source: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(E,) edges by target, then distance, then source: as `np.lexsort`, in a third of its time.

    Distances are sorted first, in any order where two are equal; only if such are of one target do
    the sources matter. Small integers are sorted by radix.
    """
    few = max(target.max(initial=0), source.max(initial=0)) < 1 << 16
    targets, sources = (one.astype(np.uint16) if few else one for one in (target, source))
    order = np.argsort(dist)
    order = order[np.argsort(targets[order], kind="stable")]
    near, far = dist[order[:-1]], dist[order[1:]]
    if ((near == far) & (target[order[:-1]] == target[order[1:]])).any():
        order = np.argsort(sources, kind="stable")
        order = order[np.argsort(dist[order], kind="stable")]
        order = order[np.argsort(targets[order], kind="stable")]
    return order


def _nearest(
    target: NDArray[np.int64], dist: NDArray[np.float64], natoms: int, count: int
) -> NDArray[np.bool_]:
    """(E,) which edges, sorted by target and distance, are within the rim of their centre."""
    degree = np.bincount(target, minlength=natoms)
    first = np.cumsum(degree) - degree
    rim = np.full(natoms, np.inf)
    full = degree > count
    rim[full] = dist[first[full] + count - 1] + RIM
    return dist <= rim[target]


def position_fault(pos: NDArray[np.float64]) -> str | None:
    """Why neighbours cannot be searched among these positions (N, 3), or None."""
    if not np.isfinite(pos).all():
        return f"pos of atom {int(np.argmax(~np.isfinite(pos).all(1)))} is NaN or Inf"
    if (span := float(np.ptp(pos, axis=0).max())) > WIDEST:
        return (
            f"its atoms span {span:.1e} Å, and neighbours are searched within {WIDEST:.0e} Å; "
            "wrap the positions into the cell"
        )
    return None


def full_rank(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with its non-periodic rows replaced by unit vectors normal to the periodic ones.

    Without periodicity a row only has to exist; the offsets along it are zero. `cell` is left as
    it is.
    """
    if pbc.all() or not pbc.any():
        return cell if pbc.all() else np.eye(3)
    cell = cell.copy()
    complement = np.linalg.svd(cell[pbc])[2][int(pbc.sum()) :]
    cell[~pbc] = complement
    return cell


def _pairs(
    pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
    from vesin import NeighborList  # imports torch where it is installed

    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    finder = NeighborList(cutoff=max(cutoff, FINEST), full_list=True, n_threads=threads)
    i, j, offsets, dist = finder.compute(pos, cell, pbc, quantities="ijSd")
    if cutoff < FINEST:
        near = dist <= cutoff
        i, j, offsets, dist = i[near], j[near], offsets[near], dist[near]
    return i.astype(np.int64), j.astype(np.int64), offsets.astype(np.int32), dist
