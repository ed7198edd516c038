"""Structures and their edges as flat arrays. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from atomsweep.data.structure import Array, DataError, Structure
from atomsweep.graph.neighbors import RadiusGraph


@dataclass
class FlatStructures:
    """All atoms of S structures, one after the other.

    Attributes:
        natoms: (S,) int64.
        atomic_numbers: (N,) uint8.
        pos: (N, 3) float32, Å.
        tags: (N,) int8.
        fixed: (N,) bool.
        cell: (S, 3, 3) float64, Å.
        pbc: (S, 3) bool.
        sid: (S,) int64.
        fid: (S,) int64.
        energy: (S,) float64, eV; None where a structure has none.
        forces: (N, 3) float32, eV/Å; None where a structure has none.
    """

    natoms: Array
    atomic_numbers: Array
    pos: Array
    tags: Array
    fixed: Array
    cell: Array
    pbc: Array
    sid: Array
    fid: Array
    energy: Array | None
    forces: Array | None

    @classmethod
    def collect(cls, structures: Iterable[Structure], energy: bool, forces: bool) -> FlatStructures:
        """Concatenate structures; labels only where `energy` and `forces` ask for them."""
        items = list(structures)

        def joined(name: str, dtype: str, *shape: int) -> Array:
            parts = [getattr(s, name) for s in items]
            return np.concatenate(parts).astype(dtype) if parts else np.zeros((0, *shape), dtype)

        return cls(
            natoms=np.array([s.natoms for s in items], dtype=np.int64),
            atomic_numbers=joined("atomic_numbers", "u1"),
            pos=joined("pos", "f4", 3),
            tags=joined("tags", "i1"),
            fixed=joined("fixed", "?"),
            cell=np.array([s.cell for s in items], dtype=np.float64).reshape(-1, 3, 3),
            pbc=np.array([s.pbc for s in items], dtype=bool).reshape(-1, 3),
            sid=np.array([s.sid for s in items], dtype=np.int64),
            fid=np.array([s.fid for s in items], dtype=np.int64),
            energy=np.array([s.energy for s in items], dtype=np.float64) if energy else None,
            forces=joined("forces", "f4", 3) if forces else None,
        )

    def keep(self, mask: Array) -> FlatStructures:
        """The structures where `mask` (S,) is True."""
        per_atom = np.repeat(mask, self.natoms)
        return FlatStructures(
            natoms=self.natoms[mask],
            atomic_numbers=self.atomic_numbers[per_atom],
            pos=self.pos[per_atom],
            tags=self.tags[per_atom],
            fixed=self.fixed[per_atom],
            cell=self.cell[mask],
            pbc=self.pbc[mask],
            sid=self.sid[mask],
            fid=self.fid[mask],
            energy=self.energy[mask] if self.energy is not None else None,
            forces=self.forces[per_atom] if self.forces is not None else None,
        )


@dataclass
class FlatEdges:
    """Edges of S structures, sorted by structure and target. The target is not stored.

    Attributes:
        num_edges: (S,) int64.
        degree: (N,) int32, edges that end at each atom, so that target = repeat(arange(N), degree).
        source: (E,) int32, number of the neighbour within its structure.
        offsets: (E, 3) int16.
    """

    num_edges: Array
    degree: Array
    source: Array
    offsets: Array

    @classmethod
    def build(
        cls, flat: FlatStructures, graph: RadiusGraph, called: Callable[[int], str]
    ) -> FlatEdges:
        """Neighbour lists of all structures; `called` is what messages call one.

        Raises:
            DataError: two atoms of a structure coincide; names it.
        """
        starts = np.cumsum(flat.natoms) - flat.natoms
        num, degree, source, offsets = [], [], [np.zeros(0, "i4")], [np.zeros((0, 3), "i2")]
        for s, (start, n) in enumerate(zip(starts.tolist(), flat.natoms.tolist(), strict=True)):
            try:
                index, shift = graph(flat.pos[start : start + n], flat.cell[s], flat.pbc[s])
            except ValueError as error:
                raise DataError(f"{called(s)}: {error}") from error
            num.append(index.shape[1])
            degree.append(np.bincount(index[1], minlength=n).astype("i4"))
            source.append(index[0].astype("i4"))
            offsets.append(shift.astype("i2"))
        return cls(
            np.array(num, dtype=np.int64),
            np.concatenate(degree) if degree else np.zeros(0, "i4"),
            np.concatenate(source),
            np.concatenate(offsets),
        )

    def keep(self, mask: Array, natoms: Array) -> FlatEdges:
        """The structures where `mask` (S,) is True; `natoms` (S,) are their sizes before."""
        per_edge = np.repeat(mask, self.num_edges)
        return FlatEdges(
            self.num_edges[mask],
            self.degree[np.repeat(mask, natoms)],
            self.source[per_edge],
            self.offsets[per_edge],
        )
