"""Radius graphs of structures that move little from call to call: lists with a skin."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.graph.neighbors import COINCIDENT, RIM, RadiusGraph
from atomsweep.graph.search import Pairs, find_pairs
from atomsweep.transfers import read, sent

SKIN = 0.8  # Å: L-BFGS moves an atom by 0.2 Å at most, and mostly by far less


@dataclass
class _Known:
    """Pairs of one structure within cutoff and skin, and where its atoms were then, on the host."""

    pos: Tensor  # (n, 3)
    cell: Tensor  # (3, 3)
    pbc: Tensor  # (3,)
    pairs: Pairs

    def hold(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> bool:
        """Whether every pair within the cutoff is among them."""
        same = len(pos) == len(self.pos) and torch.equal(cell, self.cell)
        return same and torch.equal(pbc, self.pbc) and not _far(pos, self.pos).any()


def _far(pos: Tensor, before: Tensor) -> Tensor:
    """(N,) atoms that have moved by half the skin, or whose position is no number."""
    return ~((pos - before).square().sum(-1) < (SKIN / 2) ** 2)


class MovingGraph:
    """Graphs of all structures of a batch, for batches of the same structures a little moved.

    Pairs within cutoff and skin (Verlet, Phys. Rev. 159 (1967) 98) are found anew only for a
    structure of which an atom has moved by half the skin; which of them are edges is told for
    all at once, on the device. Edges are those of `RadiusGraph`, sorted by target; a target's are
    in no order of distance. Structures may leave, others may enter behind those that stay.

    The host waits for the device three times in a call that finds nothing anew: who has moved, who
    has a fault, and how many edges there are.

    Args:
        graph: what an edge is.
        threads: of the CPU, that find pairs.
    """

    def __init__(self, graph: RadiusGraph, threads: int = 1) -> None:
        self.graph, self.threads = graph, threads
        self._reach = graph.cutoff + SKIN
        self._found: list[_Known] = []
        self._natoms: Tensor | None = None

    def attach(self, batch: Batch) -> dict[int, str]:
        """Give a batch `edge_index`, `cell_offsets` and `num_edges_per_structure`.

        Returns:
            What is wrong with a structure, by its place in the batch; such a structure has no
            edges.
        """
        pos, cell = batch.pos.detach().double(), batch.cell.double()
        self._look(pos, cell, batch)
        vectors = pos[self._source] - pos[self._target] + self._shifts
        dist = vectors.square().sum(-1).sqrt()
        edge = dist <= self.graph.cutoff
        count = self.graph.max_neighbors
        if count is not None and self._width > count:
            table = dist.new_full((len(pos), self._width), torch.inf)
            table[self._target, self._rank] = torch.where(edge, dist, torch.inf)
            rim = table.kthvalue(count, dim=1).values + RIM
            edge &= dist <= rim[self._target]
        structure = batch.batch[self._target]
        faults = {n: one.pairs.fault for n, one in enumerate(self._found) if one.pairs.fault}
        counts = _count(edge, structure, batch)
        near = _count(dist < COINCIDENT, structure, batch)
        wrong = torch.stack([near, (counts == 0).to(near.dtype)], dim=1)
        for number, (coincide, lonely) in enumerate(wrong.tolist()):
            if coincide:
                faults[number] = self._wrong(number, batch)
            elif lonely:
                faults.setdefault(number, f"it has no edges within {self.graph.cutoff} Å")
        if faults:
            fine = torch.tensor([number not in faults for number in range(len(cell))])
            good = sent(fine, pos.device)
            edge &= good[structure]
            counts = counts * good
        kept = edge.nonzero().flatten()
        batch.edge_index = torch.stack([self._source[kept], self._target[kept]])
        batch.cell_offsets = self._offsets[kept]
        batch.num_edges_per_structure = counts
        return dict(sorted(faults.items()))

    def _look(self, pos: Tensor, cell: Tensor, batch: Batch) -> None:
        """Find pairs anew where those of the last call do not do."""
        moved = self._moved(pos, cell, batch)
        if moved is None or moved:
            self._search(pos, cell, batch, moved)

    def _moved(self, pos: Tensor, cell: Tensor, batch: Batch) -> list[int] | None:
        """Which structures have moved far; None where these may not be those of the last call."""
        if (
            self._natoms is None
            or len(self._natoms) != len(batch.natoms)
            or len(self._pos) != len(pos)
        ):
            return None
        other = (self._natoms != batch.natoms).any()
        other = other | (self._cell != cell).any() | (self._pbc != batch.pbc).any()
        far = _count(_far(pos, self._pos), batch.batch, batch)
        others, *atoms = torch.cat([other[None].to(far.dtype), far]).tolist()
        return None if others else [number for number, count in enumerate(atoms) if count]

    def _search(self, pos: Tensor, cell: Tensor, batch: Batch, moved: list[int] | None) -> None:
        sizes, *told = read(batch.natoms, pos, cell, batch.pbc)
        natoms = sizes.tolist()
        host = list(zip(told[0].split(natoms), *told[1:], strict=True))
        known: list[_Known | None]
        if moved is not None and len(moved) <= len(natoms) // 2:
            known = [None if number in moved else one for number, one in enumerate(self._found)]
        else:
            known = self._of_those_that_stay(host)
        missing = [number for number, one in enumerate(known) if one is None]
        if missing:
            parts = pos.split(natoms)
            found = find_pairs(
                torch.cat([parts[number] for number in missing]),
                torch.stack([cell[number] for number in missing]),
                torch.stack([batch.pbc[number] for number in missing]),
                [natoms[number] for number in missing],
                self._reach,
                self.threads,
            )
            for number, pairs in zip(missing, found, strict=True):
                where, box, periodic = host[number]
                if pairs.fault is not None:
                    where = torch.full_like(where, torch.nan)  # looked at again at the next call
                known[number] = _Known(where, box, periodic, pairs)
        self._join([one for one in known if one is not None], batch, cell)

    def _of_those_that_stay(
        self, host: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> list[_Known | None]:
        """Pairs that still do, of each structure: some have left, others are new and come last."""
        known: list[_Known | None] = []
        left = self._found
        for here in host:
            place = next((p for p, one in enumerate(left) if one.hold(*here)), None)
            known.append(None if place is None else left[place])
            if place is not None:
                left = left[place + 1 :]
        return known

    def _join(self, known: list[_Known], batch: Batch, cell: Tensor) -> None:
        self._found = known
        self._natoms, self._cell, self._pbc = batch.natoms, cell, batch.pbc
        pairs = [one.pairs for one in known]
        self._pos = sent(torch.cat([one.pos for one in known]), cell.device)
        sizes = [len(one.source) for one in pairs]
        first = torch.repeat_interleave(
            batch.ptr[:-1], sent(torch.tensor(sizes), cell.device), output_size=sum(sizes)
        )
        self._source = torch.cat([one.source for one in pairs]) + first
        self._target = torch.cat([one.target for one in pairs]) + first
        offsets = torch.cat([one.offsets for one in pairs])
        self._offsets = offsets.to(torch.int16)
        structure = batch.batch[self._target]
        self._shifts = torch.einsum("pi,pij->pj", offsets.double(), cell[structure])
        degree = torch.zeros_like(batch.batch).index_add_(
            0, self._target, torch.ones_like(self._target)
        )
        begin = degree.cumsum(0) - degree
        self._rank = torch.arange(len(self._target), device=cell.device) - begin[self._target]
        self._width = int(degree.max()) if len(degree) else 0

    def _wrong(self, number: int, batch: Batch) -> str:
        """What `RadiusGraph` says of a structure with two atoms on one spot."""
        sizes = [len(one.pos) for one in self._found[: number + 1]]
        pos = batch.pos.detach()[sum(sizes[:-1]) : sum(sizes)]
        try:
            self.graph(*(part.numpy() for part in read(pos, batch.cell[number], batch.pbc[number])))
        except ValueError as error:
            return str(error)
        return "two of its atoms lie on the same spot"


def _count(chosen: Tensor, structure: Tensor, batch: Batch) -> Tensor:
    """How many of each structure's atoms or pairs are chosen. Shape: (P,), (P,) -> (B,)."""
    return torch.zeros_like(batch.natoms).index_add_(0, structure, chosen.to(batch.natoms.dtype))
