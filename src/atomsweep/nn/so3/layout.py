"""Order of the coefficients: l-primary for atoms, m-primary for edges."""

import numpy as np


def degrees(l_max: int) -> np.ndarray:
    """Degree l of each l-primary row. Shape: ((l_max + 1)²,)."""
    return np.concatenate([np.full(2 * degree + 1, degree) for degree in range(l_max + 1)])


def num_degrees(l_max: int, m_max: int) -> list[int]:
    """For m = 0 … m_max, the number of degrees l >= m."""
    return [l_max - m + 1 for m in range(m_max + 1)]


def m_primary(l_max: int, m_max: int) -> np.ndarray:
    """The l-primary row of each m-primary one; orders |m| > m_max are left out.

    m = 0 for l = 0 … l_max, then for each m > 0 first +m for l = m … l_max, then -m.

    Shape: (R,), R = (l_max + 1) + 2 sum_m (l_max - m + 1).

    Raises:
        ValueError: m_max is not in 0 … l_max.
    """
    if not 0 <= m_max <= l_max:
        raise ValueError(f"m_max must lie in 0 … l_max, got l_max={l_max} and m_max={m_max}")
    rows = [degree * (degree + 1) for degree in range(l_max + 1)]
    for m in range(1, m_max + 1):
        for sign in (1, -1):
            rows += [degree * (degree + 1) + sign * m for degree in range(m, l_max + 1)]
    return np.array(rows)


def truncation_rescale(l_max: int, m_max: int) -> np.ndarray:
    """sqrt((2l + 1) / (2 m_max + 1)) where l > m_max, else 1: keeps the size of truncated degrees.

    EquiformerV2's public code multiplies with it what is rotated back from the edge.

    Shape: ((l_max + 1)²,), l-primary.
    """
    degree = degrees(l_max)
    return np.where(degree > m_max, np.sqrt((2 * degree + 1) / (2 * m_max + 1)), 1.0)
