"""Multivectors of three dimensions: their geometric product, and what of them a rotation keeps.

A multivector has eight components: 1, e1, e2, e3, e12, e13, e23, e123, with e_i e_i = 1 and
e_i e_j = -e_j e_i. Spellings, arXiv:2110.02393, Sec. 2.
"""

import torch
from torch import Tensor

NUM_COMPONENTS = 8
NUM_INVARIANTS = 4
SMOOTH = 1e-2  # a magnitude is sqrt(x² + SMOOTH²) - SMOOTH: at x = 0 it has all its derivatives
_BLADES = (0b000, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111)  # bit i - 1 for e_i


def multivector(vector: Tensor) -> Tensor:
    """A vector as a multivector. Shape: (..., 3) -> (..., 8)."""
    return torch.nn.functional.pad(vector, (1, 4))


def geometric_product(a: Tensor, b: Tensor, table: Tensor) -> Tensor:
    """Products of every two multivectors of two lists; `table` is that of `product_table`.

    Shape: (C, J, 8), (C, K, 8), (8, 8, 8) -> (C, J, K, 8).
    """
    left = torch.einsum("cji,ilo->cjol", a, table.to(a.dtype))  # a· as a matrix
    product = left.flatten(1, 2) @ b.mT  # (C, J * 8, K)
    return product.unflatten(1, (-1, NUM_COMPONENTS)).transpose(2, 3)


def magnitude(x: Tensor) -> Tensor:
    """Length of the last axis, rounded off at zero. Shape: (..., D) -> (..., 1)."""
    return torch.sqrt(x.square().sum(-1, keepdim=True) + SMOOTH**2) - SMOOTH


def invariants(x: Tensor) -> Tensor:
    """Scalar, length of the vector, length of the bivector, trivector.

    None changes with a rotation; the trivector changes its sign with a reflection.

    Shape: (..., 8) -> (..., 4).
    """
    return torch.cat([x[..., :1], magnitude(x[..., 1:4]), magnitude(x[..., 4:7]), x[..., 7:]], -1)


def inverse_length(x: Tensor) -> Tensor:
    """One over the length of all components, rounded off at zero. Shape: (..., 8) -> (..., 1)."""
    return torch.rsqrt(x.square().sum(-1, keepdim=True) + SMOOTH**2)


def product_table() -> Tensor:
    """Component o of the product of basis elements i and l. Shape: (8, 8, 8), [i, l, o].

    A module keeps it as a buffer: sent to a GPU in each step, it would have to be waited for.
    """
    table = torch.zeros(NUM_COMPONENTS, NUM_COMPONENTS, NUM_COMPONENTS)
    for i, a in enumerate(_BLADES):
        for j, b in enumerate(_BLADES):
            swaps = sum(bin(a >> shift & b).count("1") for shift in (1, 2))
            table[i, j, _BLADES.index(a ^ b)] = (-1) ** swaps
    return table
