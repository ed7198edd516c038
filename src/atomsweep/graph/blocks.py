"""Edges of each atom in blocks of fixed size, so that sums over them are matrix products."""

import torch
from torch import Tensor

BLOCK = 16  # edges; an atom's last block is filled up with zeros


class EdgeBlocks:
    """Puts the edges of each atom into blocks of its own, as many as it needs.

    There is room for E / BLOCK + N blocks, which is always enough, so no shape depends on values
    and nothing waits for a GPU. Blocks that stay empty belong to atom 0 and hold zeros.

    Args:
        index: (E,), the atom of each edge, in any order.
        num_atoms: N.

    Attributes:
        atom: (K,), the atom of each block.
    """

    def __init__(self, index: Tensor, num_atoms: int) -> None:
        count = len(index)
        self.num_blocks = count // BLOCK + num_atoms
        order = torch.argsort(index, stable=True)
        degree = index.new_zeros(num_atoms).index_add(0, index, torch.ones_like(index))
        blocks = (degree + BLOCK - 1) // BLOCK
        sorted_index = index[order]
        rank = torch.arange(count, device=index.device) - (degree.cumsum(0) - degree)[sorted_index]
        place = (blocks.cumsum(0) - blocks)[sorted_index] * BLOCK + rank
        self.place = torch.empty_like(index).index_copy(0, order, place)  # (E,)
        self.atom = index.new_zeros(self.num_blocks).index_copy(0, self.place // BLOCK, index)

    def fill(self, values: Tensor) -> Tensor:
        """Rows of the edges into their blocks. Shape: (E, C) -> (K, BLOCK, C)."""
        empty = values.new_zeros(self.num_blocks * BLOCK, values.shape[-1])
        return empty.index_copy(0, self.place, values).view(self.num_blocks, BLOCK, -1)

    def read(self, blocks: Tensor) -> Tensor:
        """Rows of the edges out of their blocks. Shape: (K, BLOCK, C) -> (E, C)."""
        return blocks.flatten(0, 1).index_select(0, self.place)
