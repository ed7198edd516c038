"""Sums over edges of an atom or atoms of a structure."""

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
