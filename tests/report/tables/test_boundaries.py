"""Looking after every seed: errors over the whole sequence, by simulation, and what it costs."""

import math

import numpy as np
import pytest
from scipy import stats

from atomsweep.report.tables.boundaries import CELLS, Boundaries, boundaries
from atomsweep.report.tables.statistics import interval, seeds_to_decide, t_quantile
from atomsweep.report.tables.verdict_grids import _comparison_note
from atomsweep.report.tables.verdicts import (
    EQUAL,
    FAILS,
    HOLDS,
    UNDECIDED,
    Comparison,
    compare,
)
from atomsweep.sweep.looks import Looks

FIRST, MOST = 3, 16
SEQUENCES = 20_000


def t_of(draws):
    """|t| after 1, 2, … values of each sequence; 0 where there is no spread yet. Shape: (S, n)."""
    n = np.arange(1, draws.shape[1] + 1)
    total, squares = draws.cumsum(1), (draws**2).cumsum(1)
    variance = (squares - total**2 / n)[:, 1:] / (n[1:] - 1)
    return np.pad(np.abs(total[:, 1:] / n[1:]) / np.sqrt(variance / n[1:]), ((0, 0), (1, 0)))


def criticals(alpha=0.05, first=FIRST, most=MOST):
    return np.array([boundaries(alpha, first).critical(n) for n in range(1, most + 1)])


@pytest.fixture(scope="module")
def null():
    return np.random.default_rng(20).normal(size=(SEQUENCES, MOST))


def test_sequences_without_effect_are_called_different_in_no_more_than_one_of_twenty(null):
    crossed = t_of(null) > criticals()
    share = crossed.any(1).mean()
    spent = boundaries(0.05, FIRST).spent(MOST)  # the rest is kept for seeds beyond
    assert share == pytest.approx(spent, abs=4 * math.sqrt(spent / SEQUENCES))
    assert share <= 0.05
    naive = np.array([np.inf] * 2 + [t_quantile(0.975, n - 1) for n in range(FIRST, MOST + 1)])
    assert (t_of(null) > naive).any(1).mean() > 0.15  # the simulation can tell


@pytest.mark.parametrize(("alpha", "first"), [(0.05, 3), (0.05, 2), (0.2, 5), (0.05 / 6, 3)])
def test_each_look_spends_what_it_may(null, alpha, first):
    edge = criticals(alpha, first)
    crossed = t_of(null) > edge
    at = np.where(crossed.any(1), crossed.argmax(1) + 1, 0)
    for n in (first, first + 1, first + 2, MOST):
        due = boundaries(alpha, first).spent(n)
        got = ((at > 0) & (at <= n)).mean()
        assert got == pytest.approx(due, abs=4.5 * math.sqrt(due / SEQUENCES)), n


def test_the_error_holds_for_ever_and_the_grid_is_fine_enough(monkeypatch):
    draws = np.random.default_rng(3).normal(size=(4000, 40))
    crossed = (t_of(draws) > criticals(most=40)).any(1).mean()
    assert crossed <= 0.05 + 3 * math.sqrt(0.05 / 4000)
    coarse = [boundaries(0.05, 3).critical(n) for n in (4, 6)]
    monkeypatch.setattr("atomsweep.report.tables.boundaries.CELLS", 2 * CELLS)
    fine = Boundaries(0.05, 3)
    assert [fine.critical(n) for n in (4, 6)] == pytest.approx(coarse, rel=1e-3)


def test_the_first_look_is_students_at_what_it_may_spend():
    assert boundaries(0.05, 3).critical(3) == pytest.approx(stats.t.ppf(1 - 0.05 / 6, 2), rel=1e-6)
    assert boundaries(0.05, 3).critical(2) == math.inf
    assert interval([1.0, 2.0], first=3)[1] != interval([1.0, 2.0])[1]  # none: NaN
    values = [0.1, 0.3, 0.25, 0.2]
    wide, plain = interval(values, first=3)[1], interval(values)[1]
    assert wide / plain == pytest.approx(boundaries(0.05, 3).critical(4) / stats.t.ppf(0.975, 3))
    with pytest.raises(ValueError, match="0 < alpha < 1"):
        Boundaries(1.0, 3)
    with pytest.raises(ValueError, match="first >= 2"):
        Boundaries(0.05, 1)


@pytest.mark.parametrize(("effect", "power", "seeds"), [(1.0, 0.70, 12), (2.0, 0.999, 5.7)])
def test_power_and_how_soon(effect, power, seeds):
    """Effects of one and two spreads are found, after a third or two thirds of the seeds."""
    draws = np.random.default_rng(4).normal(effect, size=(4000, MOST))
    crossed = t_of(draws) > criticals()
    assert crossed.any(1).mean() > power
    assert np.where(crossed.any(1), crossed.argmax(1) + 1, MOST).mean() < seeds
    wrong = crossed & (draws.cumsum(1) < 0)
    assert wrong.any(1).mean() < 0.005


def test_boundaries_reach_a_verdict_sooner_than_mixtures():
    """The t statistic's Gaussian mixture (Lai 1976; a Bayes factor) is valid too, and slower."""
    n = np.arange(1, MOST + 1)
    for effect in (1.0, 2.0, 3.0):
        t = t_of(np.random.default_rng(5).normal(effect, size=(4000, MOST)))
        ours = t > criticals()
        for width in (1.0, 4.0, 10.0):
            grown = 1 + n * width
            odds = (1 + t**2 / np.maximum(n - 1, 1)) / (1 + t**2 / (np.maximum(n - 1, 1) * grown))
            mixture = (odds ** (n / 2) / np.sqrt(grown) > 20) & (n >= FIRST)
            ends = [np.where(x.any(1), x.argmax(1) + 1, MOST).mean() for x in (ours, mixture)]
            assert ends[0] < ends[1]


def hopeless(draws):
    """Looks at which the largest effect that the pairs allow would not be found by the last one."""
    n = np.arange(FIRST, MOST + 1)
    mean = draws.cumsum(1)[:, FIRST - 1 :] / n
    squares = (draws**2).cumsum(1)[:, FIRST - 1 :]
    spread = np.sqrt((squares - n * mean**2) / (n - 1))
    seen = (criticals()[FIRST - 1 :] + stats.t.ppf(0.8, n - 1)) / np.sqrt(n)
    found = np.abs(mean) / spread + stats.t.ppf(0.95, n - 1) / np.sqrt(n) < seen.min()
    return np.pad(found, ((0, 0), (FIRST - 1, 0)))


def test_giving_up_where_more_seeds_would_hardly_decide_costs_little_power():
    """And saves more than half of the seeds where there is no effect."""
    for effect, lost, seeds in ((0.0, 0.01, 7.5), (0.7, 0.03, 10.5), (1.0, 0.03, 10.5)):
        draws = np.random.default_rng(7).normal(effect, size=(4000, MOST))
        crossed, given_up = t_of(draws) > criticals(), hopeless(draws)
        ends = crossed | given_up
        end = np.where(ends.any(1), ends.argmax(1), MOST - 1)
        decided = crossed[np.arange(len(draws)), end]
        assert crossed.any(1).mean() - decided.mean() < lost
        assert end.mean() + 1 < seeds
    for row, expected in zip(draws[:20], given_up, strict=False):
        for n in range(FIRST, MOST + 1):
            found = compare(*sides(list(row[:n])), "<", looks=LOOKS)
            gives_up = found.fewest is None or found.fewest > MOST
            assert gives_up == (expected[n - 1] and found.verdict == UNDECIDED)


@pytest.mark.slow
def test_giving_up_costs_equals_little_too():
    """Sides whose true effect is none, with a tolerance of a spread and a quarter more."""
    for tolerance, lost in ((1.0, 0.06), (1.25, 0.06)):
        decided = [0, 0]
        for draws in np.random.default_rng(11).normal(size=(150, MOST)):
            for place, gives_up in enumerate((False, True)):
                for n in range(FIRST, MOST + 1):
                    found = compare(*sides(list(draws[:n])), "<", tolerance, 1, LOOKS, tolerance)
                    if found.verdict != UNDECIDED:
                        decided[place] += found.verdict == EQUAL
                        break
                    if gives_up and (found.fewest is None or found.fewest > MOST):
                        break
        assert decided[0] > 40
        assert decided[0] - decided[1] <= lost * 150


LOOKS = Looks(first=FIRST, most=MOST)


def sides(differences):
    return dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)


def test_verdicts_are_those_of_the_adjusted_interval():
    few = [-0.010, -0.012, -0.011]
    plain, looked = compare(*sides(few), "<"), compare(*sides(few), "<", looks=LOOKS)
    assert looked.half_width == pytest.approx(
        plain.half_width * stats.t.ppf(1 - 0.05 / 6, 2) / stats.t.ppf(0.975, 2)
    )
    assert looked.verdict == HOLDS
    wide = [-0.010, -0.018, -0.011]
    assert compare(*sides(wide), "<").verdict == HOLDS
    open_ = compare(*sides(wide), "<", looks=LOOKS)
    assert open_.verdict == UNDECIDED
    assert 1 <= open_.needed <= MOST - 3
    assert compare(*sides(few[:2]), "<", looks=LOOKS).verdict == UNDECIDED  # before the first look
    assert compare(*sides([0.01, 0.0115, 0.0105]), "<", 0.0, 20, LOOKS)[3:5] == (FAILS, False)
    assert compare(*sides([0.01, 0.0101, 0.01]), "<", 0.0, 20, LOOKS)[3:5] == (FAILS, True)


def test_seeds_beyond_the_last_look_are_guessed_too():
    assert seeds_to_decide(0.1, 1.0, first=3, looks=16) is None  # more than a thousand
    n = seeds_to_decide(0.6, 1.0, first=3, looks=16)
    assert n == pytest.approx(seeds_to_decide(0.6, 1.0, first=3, looks=80), rel=0.02)
    assert n > 50
    n = seeds_to_decide(1.2, 1.0, first=3, looks=16)
    assert (boundaries(0.05, 3).critical(n) + stats.t.ppf(0.8, n - 1)) / math.sqrt(n) <= 1.2
    assert seeds_to_decide(5.0, 0.0, first=4) == 4


def test_what_leans_to_failing_needs_what_makes_its_whole_claim_fail():
    noisy = sides([0.01, 0.02, 0.06])
    alone, of_many = (compare(*noisy, "<", 0.0, tries, LOOKS) for tries in (1, 20))
    assert alone.verdict == of_many.verdict == UNDECIDED
    assert of_many.needed > alone.needed
    to_hold = [compare(*noisy, ">", 0.0, tries, LOOKS).needed for tries in (1, 20)]
    assert to_hold == [alone.needed] * 2


def test_sides_within_the_tolerance_are_equal_for_practical_purposes():
    near = [1e-4, -1e-4, 5e-5, 0.0, -5e-5]
    assert compare(*sides(near), "<", 5e-4, equal_within=5e-4).verdict == EQUAL
    assert compare(*sides(near), "<", 5e-4).verdict == UNDECIDED  # nobody asked
    assert compare(*sides(near), "<=", 5e-4, equal_within=5e-4).verdict == HOLDS
    assert compare(*sides(near), ">", 5e-5, equal_within=5e-5).verdict == UNDECIDED  # too wide
    apart = [-2e-4, -2.1e-4, -2e-4, -1.9e-4, -2e-4]  # surely different, though by little
    assert compare(*sides(apart), "<", 5e-4, equal_within=5e-4).verdict == HOLDS
    assert compare(*sides(apart), ">", 5e-4, equal_within=5e-4).verdict == EQUAL
    assert compare(*sides(apart), ">", 5e-4, equal_within=1e-4).verdict == FAILS
    assert compare(*sides([0.0, 0.0, 0.0]), "<", 5e-4, equal_within=5e-4).verdict == EQUAL


def test_what_fails_and_is_not_certain_takes_further_seeds():
    few = sides([0.01, 0.0115, 0.0105])
    unsure, sure = compare(*few, "<", 0.0, 20, LOOKS), compare(*few, "<", 0.0, 1, LOOKS)
    assert (unsure.verdict, unsure.certain, sure.certain, sure.needed) == (FAILS, False, True, 0)
    assert 1 <= unsure.needed <= MOST - 3
    on_page = Comparison("a", "b", *unsure, paper=None, paper_holds=None)
    seeds = "seed" if unsure.needed == 1 else "seeds"
    assert _comparison_note(on_page) == f"about {unsure.needed} more {seeds} to decide"


def test_what_differs_by_the_tolerance_is_called_equal_in_no_more_than_one_of_twenty():
    """At the edge of equality, over the whole sequence; well inside of it most are found."""
    tolerance, n = 1.0, np.arange(1, MOST + 1)

    def called_equal(effect, spread):
        draws = np.random.default_rng(6).normal(effect, spread, size=(SEQUENCES, MOST))
        mean = draws.cumsum(1) / n
        squares = np.maximum((draws**2).cumsum(1) - n * mean**2, 1e-12)
        error = np.sqrt(squares / np.maximum(n - 1, 1) / n)
        equal = np.abs(mean[:, FIRST - 1 :]) + (criticals() * error)[:, FIRST - 1 :] < tolerance
        return equal.any(1).mean()

    assert called_equal(tolerance, 0.2) <= 0.05
    assert called_equal(0.2 * tolerance, 0.2) > 0.95
