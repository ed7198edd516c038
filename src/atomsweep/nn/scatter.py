"""Sums over edges of an atom or atoms of a structure."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Add the rows that share an index; a segment without rows is 0.

    Rows are added in their order on the CPU, so the result is reproducible there; on a GPU it is
    under `torch.use_deterministic_algorithms(True)`.

    Args:
        values: rows to add.
        index: segment of each row, e.g. the target atom of each edge.
        num_segments: number of rows of the result.

    Shape: (E, C), (E,) -> (num_segments, C).
    """
    return values.new_zeros(num_segments, values.shape[-1]).index_add_(0, index, values)


def segment_softmax(logits: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Softmax over the rows that share an index, for each column.

    Args:
        logits: one row for each edge.
        index: segment of each row.
        num_segments: number of segments.

    Shape: (E, C), (E,) -> (E, C).
    """
    rows = index[:, None].expand_as(logits)
    with torch.no_grad():
        highest = logits.new_zeros(num_segments, logits.shape[1])
        highest = highest.scatter_reduce(0, rows, logits, "amax", include_self=False)
    weight = torch.exp(logits - highest.index_select(0, index))
    total = segment_sum(weight, index, num_segments)
    return weight / total.index_select(0, index)
