"""Edge vectors of a batch, and the way back of every edge."""

import math

import torch
from torch import Tensor
from torch_geometric.data import Batch

from atomsweep.tracing import is_traced


def edge_vectors(batch: Batch) -> Tensor:
    """Vectors from centre to neighbour, `pos[source] - pos[target] + cell_offsets @ cell`, in Å.

    Differentiable in `batch.pos` and `batch.cell`.

    Shape: (E, 3).
    """
    source, target = batch.edge_index
    shift = torch.einsum(
        "ei,eij->ej", batch.cell_offsets.to(batch.cell.dtype), batch.cell[batch.batch[target]]
    )  # (E, 3)
    return batch.pos[source] - batch.pos[target] + shift


def _readable(values: Tensor) -> bool:
    return values.device.type == "cpu" and bool(values.numel()) and not is_traced()


OFFSET_BITS = 10  # cell offsets of -512 ... 511 for each axis
MOST_ATOMS = math.isqrt(1 << (63 - 3 * OFFSET_BITS))  # 92 681: two of them and offsets in 63 bits


def reverse_edges(
    edge_index: Tensor, cell_offsets: Tensor, num_atoms: int
) -> tuple[Tensor, Tensor]:
    """For every edge j→i the edge i→j of the same pair of images, where the graph has it.

    A limit on neighbours keeps some edges in one direction only. Nothing waits for a GPU.

    Args:
        edge_index: source and target.
        cell_offsets: of the source, in cells.
        num_atoms: of the batch.

    Returns:
        Index of the reverse edge (any edge where there is none), and whether there is one.

    Shape: (2, E), (E, 3) -> (E,), (E,).

    Raises:
        ValueError: more than `MOST_ATOMS`; an atom is hundreds of cells away from a neighbour (the
            latter is checked on the CPU only).
    """
    half = 1 << (OFFSET_BITS - 1)
    offsets = cell_offsets.long()
    if _readable(offsets) and int(offsets.abs().max()) >= half:
        raise ValueError(
            f"cell_offsets must lie within ±{half - 1} cells, got {int(offsets.abs().max())}; "
            "wrap the positions into the cell"
        )

    if num_atoms > MOST_ATOMS:
        raise ValueError(f"at most {MOST_ATOMS} atoms can be told apart by edges, got {num_atoms}")

    def keys(source: Tensor, target: Tensor, shift: Tensor) -> Tensor:
        key = source * num_atoms + target
        for axis in range(3):
            key = (key << OFFSET_BITS) + shift[:, axis] + half
        return key  # (E,), one number for each edge

    source, target = edge_index
    ordered, order = keys(source, target, offsets).sort()
    wanted = keys(target, source, -offsets)
    place = torch.searchsorted(ordered, wanted).clamp(max=max(len(wanted) - 1, 0))
    return order[place], ordered[place] == wanted


def pairs_of_edges(
    edge_index: Tensor, cell_offsets: Tensor, num_atoms: int
) -> tuple[Tensor, Tensor]:
    """Each distance of a graph once: an edge and the one back are a pair.

    Where a limit on neighbours keeps only one direction, that edge is a pair of its own. The number
    of pairs hangs on values, so on a GPU this waits.

    Args:
        edge_index: source and target.
        cell_offsets: of the source, in cells.
        num_atoms: of the batch.

    Returns:
        The first edge of each pair, ascending, and the pair of each edge.

    Shape: (2, E), (E, 3) -> (P,), (E,) int64, P between E / 2 and E.

    Raises:
        ValueError: as `reverse_edges`.
    """
    reverse, exists = reverse_edges(edge_index, cell_offsets, num_atoms)
    edge = torch.arange(len(reverse), device=reverse.device)
    is_first = ~exists | (edge < reverse)
    number = is_first.cumsum(0) - 1
    return edge[is_first], torch.where(is_first, number, number[reverse])
