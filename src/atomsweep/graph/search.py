"""Pairs of atoms within a distance, for some structures at once, searched where their atoms are."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atomsweep.graph.neighbors import RadiusGraph, full_rank, position_fault
from atomsweep.transfers import read, sent


class Pairs(NamedTuple):
    """Pairs of one structure, each in both directions; P is their number.

    Attributes:
        source: (P,) int64, atom of the structure, of which an image is the neighbour.
        target: (P,) int64, ascending.
        offsets: (P, 3) int32, cells between the image and `source`.
        fault: why there are none, or None.
    """

    source: Tensor
    target: Tensor
    offsets: Tensor
    fault: str | None = None


def find_pairs(
    pos: Tensor, cell: Tensor, pbc: Tensor, natoms: Sequence[int], cutoff: float, threads: int = 1
) -> list[Pairs]:
    """All pairs of each structure within a distance, for relaxations and calculators.

    On a CUDA device NVIDIA's ALCHEMI Toolkit-Ops searches all structures there at once, where it is
    installed (`atomsweep[neighbors]`). Else vesin does on the CPU, one structure after another.

    Args:
        pos: Å, of all structures; atoms may lie outside the cell.
        cell: Å, rows are lattice vectors.
        pbc: periodic directions.
        natoms: of each structure.
        cutoff: Å.
        threads: of the CPU.

    Shape: (N, 3), (B, 3, 3), (B, 3), (B,).
    """
    if pos.device.type == "cuda" and device_search() is not None:
        return pairs_on_device(pos, cell, pbc, natoms, cutoff)
    graph = RadiusGraph(cutoff, None)
    host_pos, cells, periodic = (part.numpy() for part in read(pos, cell, pbc))
    host = np.split(host_pos, np.cumsum(natoms)[:-1])

    def find(number: int) -> Pairs:
        try:
            index, offsets = graph(host[number], cells[number], periodic[number])
        except ValueError as error:
            return _none(pos.device, str(error))
        source, target = sent(torch.from_numpy(index), pos.device)
        return Pairs(source, target, sent(torch.from_numpy(offsets), pos.device))

    if threads > 1 and len(host) > 1:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(find, range(len(host))))
    return [find(number) for number in range(len(host))]


@cache
def device_search() -> Callable[..., Any] | None:
    """`neighbor_list` of NVIDIA's ALCHEMI Toolkit-Ops, or None where it is not installed."""
    try:
        from nvalchemiops.torch.neighbors import neighbor_list
    except ImportError:
        return None
    found: Callable[..., Any] = neighbor_list
    return found


def pairs_on_device(
    pos: Tensor, cell: Tensor, pbc: Tensor, natoms: Sequence[int], cutoff: float
) -> list[Pairs]:
    """`find_pairs` by the library; it can search on a CPU too."""
    from nvalchemiops.torch.neighbors import NeighborOverflowError

    search = device_search()
    assert search is not None
    device, sizes = pos.device, torch.tensor(natoms)
    host_pos, *host = read(pos, cell, pbc)
    faults = [position_fault(part.numpy()) for part in host_pos.split(list(natoms))]
    good = torch.tensor([fault is None for fault in faults])
    kept = sent(torch.repeat_interleave(good, sizes), device)
    pos = torch.where(kept[:, None], pos, 0.0)
    numbers = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    cells = [full_rank(c, p) for c, p in zip(*(part.numpy() for part in host), strict=True)]
    full = sent(torch.from_numpy(np.stack(cells)).to(pos.dtype), device)
    there, first_atom = sent(numbers.int(), device), sent(ptr.int(), device)
    room = None  # neighbours of an atom; the library starts with what condensed matter has
    while True:
        try:
            (target, source), first, offsets = search(
                pos,
                cutoff,
                cell=full,
                pbc=pbc,
                batch_idx=there,
                batch_ptr=first_atom,
                return_neighbor_list=True,
                max_neighbors=room,
            )
            break
        except NeighborOverflowError as error:
            room = error.num_neighbors
    ends = first[first_atom].tolist()  # pairs before each structure
    starts = ptr.tolist()
    return [
        Pairs(source[a:b].long() - start, target[a:b].long() - start, offsets[a:b])
        if fault is None
        else _none(device, fault)
        for (a, b), start, fault in zip(pairwise(ends), starts[:-1], faults, strict=True)
    ]


def _none(device: torch.device, fault: str) -> Pairs:
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    return Pairs(empty, empty, torch.zeros(0, 3, dtype=torch.int32, device=device), fault)
