"""Intervals that may be looked at after every seed, and still err no more often than they say.

A launch that trains "until decided" looks at a comparison after `first` pairs, then after each
further pair, with no end fixed beforehand. Student's interval at 95 % errs in 5 % of the looks, not
of the sequences: looking after 3, 4, … 16 pairs it is wrong somewhere in about 21 %. Here the error
is spent (Lan and DeMets, Biometrika 70 (1983) 659), α (1 − (first − 1)/n) of it by n pairs. So α is
the chance to be wrong at any look, however many follow and whatever decides when to stop, and more
seeds may be allowed at any time. The boundaries are those of the t statistics themselves, not of a
normal approximation, which would be wrong at three seeds.

How they are found. Of normal differences without effect, r_n = Σd / √(n Σd²), a function of t_n, is
a Markov chain that knows nothing of the variance: the direction of (d_1 … d_n) is independent of
its length, so with q = d_{n+1}/√(Σd²), where √n q is t distributed with n degrees of freedom,

    r_{n+1} = (√n r_n + q) / √((n + 1)(1 + q²)).

Its law inside the boundaries is carried from look to look on a grid, and each boundary is where
what lies outside of it is what may be spent there.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CELLS = 200  # of the grid over |r|
HALVINGS = 50  # of the interval in which a boundary is looked for


class Boundaries:
    """Critical values of t for looks after `first`, `first` + 1, … pairs.

    Args:
        alpha: chance that t crosses at any look where there is no effect, both sides together.
        first: pairs at the first look, at least 2.
    """

    def __init__(self, alpha: float, first: int) -> None:
        if not 0 < alpha < 1 or first < 2:
            raise ValueError(f"looks need 0 < alpha < 1 and first >= 2, got {alpha} and {first}")
        self.alpha, self.first = alpha, first
        self._critical: list[float] = []
        self._places: Array  # |r| in the middle of each cell inside the last boundary
        self._weights: Array  # chance to be in the cell, having crossed no boundary

    def critical(self, n: int) -> float:
        """The t beyond which a look after n pairs has crossed; infinite before the first."""
        if n < self.first:
            return math.inf
        while len(self._critical) <= n - self.first:
            self._look(self.first + len(self._critical))
        return self._critical[n - self.first]

    def spent(self, n: int) -> float:
        """Chance to have crossed after n pairs."""
        return self.alpha * (1 - (self.first - 1) / n)

    def _look(self, n: int) -> None:
        """Find the boundary of the next look, and the law of |r| inside of it."""
        start = n == self.first
        due = self.spent(n) - (0.0 if start else self.spent(n - 1))

        def beyond(edges: Array) -> Array:
            """Chance that |r_n| lies beyond each edge, no boundary having been crossed before."""
            if start:
                return _of_first(edges, n)
            return self._weights @ _of_next(self._places, edges, n)

        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if beyond(np.array([middle]))[0] > due else (low, middle)
        edges = np.linspace(0.0, high, CELLS + 1)
        weights = -np.diff(beyond(edges))
        self._places, self._weights = (edges[1:] + edges[:-1]) / 2, weights
        self._critical.append(high * math.sqrt((n - 1) / max(1 - high**2, 1e-300)))


def _of_first(edges: Array, n: int) -> Array:
    """P(|r_n| > edge) without effect. Shape: (K,) -> (K,)."""
    from scipy.special import stdtr

    inside = np.maximum(1 - edges**2, 1e-300)
    return np.asarray(2 * stdtr(n - 1, -edges * np.sqrt((n - 1) / inside)))


def _of_next(places: Array, edges: Array, n: int) -> Array:
    """P(|r_n| > edge | r_{n-1} = place). Shape: (P,), (K,) -> (P, K).

    |r_n| > b where (s + q)² > B (1 + q²) with s = √(n−1) r and B = n b²: between the roots of a
    quadratic in q if B > 1, outside of them if B < 1.
    """
    from scipy.special import stdtr

    s = math.sqrt(n - 1) * places[:, None]
    bound = n * edges[None, :] ** 2
    lead = 1 - bound
    lead = np.where(np.abs(lead) < 1e-9, 1e-9, lead)
    root = np.sqrt(np.maximum(bound * (1 + s**2 - bound), 0.0))
    ends = np.sort(np.stack([(-s - root) / lead, (-s + root) / lead]), axis=0)
    between = stdtr(n - 1, math.sqrt(n - 1) * ends[1]) - stdtr(n - 1, math.sqrt(n - 1) * ends[0])
    return np.asarray(np.where(lead < 0, between, 1 - between))


boundaries = lru_cache(maxsize=64)(Boundaries)
"""The same, found once for each alpha and first look."""
