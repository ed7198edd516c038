"""Radius graphs of structures that move little from call to call: lists with a skin."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.graph.neighbors import COINCIDENT, RIM, RadiusGraph

SKIN = 0.8  # Å: L-BFGS moves an atom by 0.2 Å at most, and mostly by far less


@dataclass
class _Pairs:
    """Pairs of one structure within cutoff and skin, found where its atoms were at `pos`."""

    pos: Tensor  # (n, 3)
    cell: Tensor  # (3, 3)
    pbc: Tensor  # (3,)
    source: Tensor  # (P,), within the structure
    target: Tensor  # (P,), ascending
    offsets: Tensor  # (P, 3)
    fault: str | None = None

    def hold(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> bool:
        """Whether every pair within the cutoff is among them."""
        same = len(pos) == len(self.pos) and torch.equal(cell, self.cell)
        return same and torch.equal(pbc, self.pbc) and not _far(pos, self.pos).any()


def _far(pos: Tensor, before: Tensor) -> Tensor:
    """(N,) atoms that have moved by half the skin, or whose position is no number."""
    return ~((pos - before).square().sum(-1) < (SKIN / 2) ** 2)


class MovingGraph:
    """Graphs of all structures of a batch, for batches of the same structures a little moved.

    Pairs within cutoff and skin (Verlet, Phys. Rev. 159 (1967) 98) are found anew, by vesin, only
    for a structure of which an atom has moved by half the skin; which of them are edges is told for
    all at once, on the device. Edges are those of `RadiusGraph`, sorted by target; a target's are
    in no order of distance. Structures may leave, others may enter behind those that stay.

    Args:
        graph: what an edge is.
        threads: of the CPU, that find pairs.
    """

    def __init__(self, graph: RadiusGraph, threads: int = 1) -> None:
        self.graph, self.threads = graph, threads
        self._wide = RadiusGraph(graph.cutoff + SKIN, None)
        self._found: list[_Pairs] = []
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
        faults = {n: one.fault for n, one in enumerate(self._found) if one.fault is not None}
        for number in structure[dist < COINCIDENT].unique().tolist():
            faults[number] = self._wrong(number, batch)
        if faults:
            good = torch.ones(len(cell), dtype=torch.bool, device=pos.device)
            good[list(faults)] = False
            edge &= good[structure]
        batch.edge_index = torch.stack([self._source[edge], self._target[edge]])
        batch.cell_offsets = self._offsets[edge]
        counts = torch.bincount(structure[edge], minlength=len(cell))
        batch.num_edges_per_structure = counts
        for number in (counts == 0).nonzero().flatten().tolist():
            faults.setdefault(number, f"it has no edges within {self.graph.cutoff} Å")
        return dict(sorted(faults.items()))

    def _look(self, pos: Tensor, cell: Tensor, batch: Batch) -> None:
        """Find pairs anew where those of the last call do not do."""
        moved: list[int] | None = None  # places, where the structures may be those of the last call
        if (
            self._natoms is not None
            and torch.equal(self._natoms, batch.natoms)
            and torch.equal(self._cell, cell)
            and torch.equal(self._pbc, batch.pbc)
        ):
            moved = batch.batch[_far(pos, self._pos)].unique().tolist()
            if not moved:
                return
        spans = list(pairwise(batch.ptr.tolist()))
        pairs: list[_Pairs | None]
        if moved is not None and len(moved) <= len(spans) // 2:
            pairs = list(self._found)
            for number in moved:
                pairs[number] = None
        else:
            pairs = self._of_those_that_stay(pos, cell, batch, spans)
        missing = [number for number, one in enumerate(pairs) if one is None]

        def find(number: int) -> _Pairs:
            start, end = spans[number]
            return self._pairs(pos[start:end], cell[number], batch.pbc[number])

        if self.threads > 1 and len(missing) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                made = list(pool.map(find, missing))
        else:
            made = [find(number) for number in missing]
        for number, one in zip(missing, made, strict=True):
            pairs[number] = one
        self._join([one for one in pairs if one is not None], batch, cell)

    def _of_those_that_stay(
        self, pos: Tensor, cell: Tensor, batch: Batch, spans: Sequence[tuple[int, int]]
    ) -> list[_Pairs | None]:
        """Pairs that still do, of each structure: some have left, others are new and come last."""
        pairs: list[_Pairs | None] = []
        left = self._found
        for number, (start, end) in enumerate(spans):
            here = pos[start:end], cell[number], batch.pbc[number]
            place = next((p for p, one in enumerate(left) if one.hold(*here)), None)
            pairs.append(None if place is None else left[place])
            if place is not None:
                left = left[place + 1 :]
        return pairs

    def _pairs(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> _Pairs:
        device = pos.device
        try:
            index, offsets = self._wide(pos.cpu().numpy(), cell.cpu().numpy(), pbc.cpu().numpy())
            fault = None
        except ValueError as error:
            index, offsets, fault = (
                np.zeros((2, 0), np.int64),
                np.zeros((0, 3), np.int32),
                str(error),
            )
            pos = torch.full_like(pos, torch.nan)  # looked at again at the next call
        source, target = torch.from_numpy(index).to(device)
        return _Pairs(pos, cell, pbc, source, target, torch.from_numpy(offsets).to(device), fault)

    def _join(self, found: list[_Pairs], batch: Batch, cell: Tensor) -> None:
        self._found = found
        self._natoms, self._cell, self._pbc = batch.natoms, cell, batch.pbc
        self._pos = torch.cat([one.pos for one in found])
        sizes = torch.tensor([len(one.source) for one in found], device=cell.device)
        first = torch.repeat_interleave(batch.ptr[:-1].to(cell.device), sizes)
        self._source = torch.cat([one.source for one in found]) + first
        self._target = torch.cat([one.target for one in found]) + first
        offsets = torch.cat([one.offsets for one in found])
        self._offsets = offsets.to(torch.int16)
        structure = batch.batch[self._target]
        self._shifts = torch.einsum("pi,pij->pj", offsets.double(), cell[structure])
        degree = torch.bincount(self._target, minlength=len(self._pos))
        begin = degree.cumsum(0) - degree
        self._rank = torch.arange(len(self._target), device=cell.device) - begin[self._target]
        self._width = int(degree.max()) if len(degree) else 0

    def _wrong(self, number: int, batch: Batch) -> str:
        """What `RadiusGraph` says of a structure with two atoms on one spot."""
        start, end = batch.ptr[number : number + 2].tolist()
        one = (batch.pos[start:end], batch.cell[number], batch.pbc[number])
        try:
            self.graph(*(tensor.detach().cpu().numpy() for tensor in one))
        except ValueError as error:
            return str(error)
        return "two of its atoms lie on the same spot"
