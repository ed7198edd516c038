"""Statistics over seeds: mean and its 95 % interval by Student's t."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

from atomsweep.report.tables.boundaries import boundaries

MOST_SEEDS = 1000  # an effect that needs more is as good as none


@cache
def t_quantile(p: float, dof: int) -> float:
    """The t with P(T <= t) = p of Student's t distribution with `dof` degrees of freedom."""
    from scipy.special import stdtrit  # a part of SciPy that loads fast; scipy.stats does not

    return float(stdtrit(dof, p))


@cache
def chi2_quantile(p: float, dof: int) -> float:
    """The x with P(X <= x) = p of the χ² distribution with `dof` degrees of freedom."""
    from scipy.special import chdtri

    return float(chdtri(dof, 1 - p))


def reach(n: int, level: float = 0.95, first: int | None = None) -> float:
    """Half-width of an interval in units of the standard error of n values.

    Args:
        n: values, at least 2.
        level: of the interval.
        first: values at the first of many looks, one after each further value; None for one look.
    """
    if first is not None:
        return boundaries(1 - level, first).critical(n)
    return t_quantile((1 + level) / 2, n - 1)


def interval(
    values: Sequence[float], level: float = 0.95, first: int | None = None
) -> tuple[float, float]:
    """Mean and half-width of its interval at `level`; no half-width for one value: NaN.

    Where it is looked at after every value (`first`, see `reach`) there is none before the first
    look, and afterwards the chance that any look's interval misses is 1 − `level`.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n if min(values) < max(values) else values[0]  # exactly, then
    if n < (first or 2):
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, reach(n, level, first) * math.sqrt(variance / n)


def paired_interval(
    left: Mapping[float, float],
    right: Mapping[float, float],
    level: float = 0.95,
    first: int | None = None,
) -> tuple[float, float, int]:
    """Mean of left − right over the seeds that both have, half-width of its interval, their number.

    Runs of one seed share what the seed decides (order of data, initialisation of equal parts), so
    the differences are taken seed by seed before they are averaged.

    Args:
        left: seed → value.
        right: seed → value.
        level: of the interval.
        first: pairs at the first of many looks; None for one look.
    """
    shared = [
        left[seed] - right[seed]
        for seed in left
        if seed in right and math.isfinite(left[seed] - right[seed])
    ]
    return (*interval(shared, level, first), len(shared))


def _guessed(n: int, looks: int, level: float, first: int | None) -> float:
    """`reach`, which for many looks takes a second for every forty of them: guessed beyond `looks`.

    The chance that t lies beyond the bound of look n falls as n^−1.3. Computed for looks after 3,
    4, … pairs at 95 %, the power is 1.27 from 16 to 100 pairs, 1.26 to 300 and 1.32 to 1 000.
    """
    if first is None or n <= looks:
        return reach(n, level, first)
    from scipy.special import stdtr

    last = 2 * float(stdtr(looks - 1, -reach(looks, level, first)))
    return t_quantile(1 - last * (looks / n) ** 1.3 / 2, n - 1)


def seeds_to_decide(
    distance: float,
    spread: float,
    level: float = 0.95,
    power: float = 0.8,
    first: int | None = None,
    looks: int = MOST_SEEDS,
) -> int | None:
    """Pairs that a t test needs to see an effect so far from its threshold.

    None where that is more than `MOST_SEEDS`.

    The smallest n with (t[(1+level)/2, n−1] + t[power, n−1]) · spread / √n ≤ |distance|: the usual
    shift of the t distribution, which takes the spread seen as the true one.

    Args:
        distance: of the effect from what would decide otherwise.
        spread: standard deviation of the paired differences.
        level: of the interval.
        power: chance that n pairs decide.
        first: pairs at the first of many looks; None for one look.
        looks: pairs at the last of many looks whose bound is computed; beyond it is guessed.
    """
    fewest = first or 2
    if spread == 0:
        return fewest if distance else None

    def decides(n: int) -> bool:
        bound = _guessed(n, max(looks, first or 0), level, first)
        return (bound + t_quantile(power, n - 1)) * spread <= abs(distance) * math.sqrt(n)

    low, high = fewest - 1, MOST_SEEDS  # does not decide; may
    if not decides(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
