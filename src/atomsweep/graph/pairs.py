"""Edges that are one distance seen from both ends: there and back between the same two images."""

import torch
from torch import Tensor


def pairs_of(edge_index: Tensor, cell_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Each distance of a graph once.

    The edge from atom i to atom j at an offset, and the one from j to i at the opposite offset,
    have one length. Where a limit of neighbours keeps only one of them, it is a pair of its own.
    Reads values, so it is for the CPU.

    Args:
        edge_index: atoms of each edge.
        cell_offsets: integers.

    Returns:
        The first edge of each pair, ascending, and the pair of each edge.

    Shape: (2, E), (E, 3) -> (P,), (E,) int64, P between E / 2 and E.

    Raises:
        ValueError: so many atoms and such offsets that no 64-bit number tells pairs apart.
    """
    low, high = edge_index.amin(0), edge_index.amax(0)
    offsets = cell_offsets.long()
    reach = int(offsets.abs().max()) if len(offsets) else 0
    span, atoms = 2 * reach + 1, int(high.max()) + 1 if len(high) else 1
    if atoms**2 * span**3 >= 1 << 63:
        raise ValueError(
            f"edges of {atoms} atoms with offsets of up to {reach} cells are too many to be told "
            "apart; use smaller batches"
        )
    radix = torch.tensor([span * span, span, 1])
    image = (offsets * radix).sum(1)  # of the opposite offset: its negative
    back = (edge_index[0] > edge_index[1]) | ((edge_index[0] == edge_index[1]) & (image < 0))
    image = torch.where(back, -image, image) + (span**3) // 2
    _, pair = torch.unique((low * atoms + high) * span**3 + image, return_inverse=True)
    first = pair.new_full((int(pair.max()) + 1 if len(pair) else 0,), len(pair))
    first.scatter_reduce_(0, pair, torch.arange(len(pair)), "amin")
    order = first.argsort()
    return first[order], order.argsort()[pair]
