"""Statistics over seeds: mean and its 95 % interval by Student's t. Plain arithmetic, no SciPy."""

import math
from collections.abc import Sequence


def t_cdf(t: float, dof: int) -> float:
    """P(T <= t) of Student's t with a whole number of degrees of freedom, as a finite sum.

    Abramowitz & Stegun, 26.7.3 (odd) and 26.7.4 (even).
    """
    if dof < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {dof}")
    angle = math.atan(t / math.sqrt(dof))
    cos2 = math.cos(angle) ** 2
    first, start = (math.cos(angle), 3) if dof % 2 else (1.0, 2)
    term, total = first, first if dof > 1 else 0.0
    for k in range(start, dof - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    two_sided = (angle + inside) * 2 / math.pi if dof % 2 else inside
    return 0.5 * (1 + two_sided)


def t_quantile(p: float, dof: int) -> float:
    """The t with P(T <= t) = p, for 0.5 <= p < 1, by bisection."""
    if not 0.5 <= p < 1:
        raise ValueError(f"p must be at least 0.5 and below 1, got {p}")
    low, high = 0.0, 1.0
    while t_cdf(high, dof) < p:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, dof) < p else (low, middle)
    return (low + high) / 2


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of its interval at `level`; no half-width for one value: NaN."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, t_quantile((1 + level) / 2, n - 1) * math.sqrt(variance / n)
