"""Numbers of the report against NumPy and SciPy, on drawn values."""

import numpy as np
import pytest
from scipy import stats

from atomsweep.report.tables.compute import Curve, mean_curve, saving
from atomsweep.report.tables.pareto import pareto
from atomsweep.report.tables.statistics import paired_interval, seeds_to_decide
from atomsweep.report.tables.verdicts import compare

SEEDS = range(7)


@pytest.fixture
def draws():
    return np.random.default_rng(8)


def test_paired_intervals_and_verdicts_agree_with_scipy(draws):
    verdicts = set()
    for shift in (-0.4, -0.12, 0.0, 0.12, 0.4):
        right = draws.normal(1.0, 0.3, 7)  # seeds differ more than the two sides of one seed
        left = right + draws.normal(shift, 0.1, 7)
        sides = [dict(zip(SEEDS, side.tolist(), strict=True)) for side in (left, right)]
        low, high = stats.ttest_rel(left, right).confidence_interval(0.95)
        mean, half, n = paired_interval(*sides)
        assert (mean - half, mean + half, n) == pytest.approx((low, high, 7))
        expected = "holds" if high < 0 else "fails" if low >= 0 else "undecided"
        verdict, certain = compare(*sides, "<", tries=4)[3:5]
        assert verdict == expected
        assert certain == (stats.ttest_rel(left, right, alternative="greater").pvalue < 0.05 / 8)
        verdicts.add(verdict)
    assert verdicts == {"holds", "fails", "undecided"}


def test_only_seeds_that_both_have_are_paired():
    mean, half, n = paired_interval({0: 1.0, 1: 2.0, 5: 90.0}, {0: 0.5, 1: 1.0, 7: -90.0})
    reach = stats.t.ppf(0.975, 1) * np.std([0.5, 1.0], ddof=1) / np.sqrt(2)
    assert (mean, half, n) == pytest.approx((0.75, reach, 2))


@pytest.mark.parametrize(("distance", "spread"), [(0.1, 0.1), (0.05, 0.2), (0.3, 0.1)])
def test_seeds_to_decide_is_the_smallest_number_that_a_t_test_needs(distance, spread):
    def reach(n):
        return (stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * spread / np.sqrt(n)

    smallest = next(n for n in range(2, 1001) if reach(n) <= distance)
    assert seeds_to_decide(distance, spread) == smallest


def test_curves_at_a_budget_are_numpys_interpolation_in_log_time(draws):
    times = np.sort(draws.uniform(1, 1000, 12))
    values = draws.uniform(0.1, 1.0, 12)
    curve = Curve.of(times, values)
    best = np.minimum.accumulate(values)
    inside = np.exp(draws.uniform(np.log(times[0]), np.log(times[-1]), 50))
    told = [curve.at(t) for t in inside]
    assert told == pytest.approx(np.interp(np.log(inside), np.log(times), best).tolist())
    assert np.isnan([curve.at(times[0] * 0.999), curve.at(times[-1] * 1.001)]).all()


def test_a_mean_curve_spans_what_every_seed_has_measured(draws):
    curves = {s: Curve.of([1 + s, 50, 100 + s], draws.uniform(0.1, 1, 3)) for s in range(3)}
    times, values = mean_curve(curves)
    assert (times[0], times[-1]) == pytest.approx((3, 100))
    logs = [np.interp(np.log(times), np.log(c.times), c.values) for c in curves.values()]
    assert values == pytest.approx(np.mean(logs, axis=0).tolist())


def test_savings_are_ratios_of_interpolated_times(draws):
    times = np.geomspace(1, 100, 9)
    one, other, ratios = {}, {}, []
    for seed in range(4):
        fast = np.sort(draws.uniform(0.05, 1.0, 9))[::-1]
        slow = np.linspace(1.2, 0.5, 9)
        fast[0], fast[-1] = 1.1, 0.04
        one[seed], other[seed] = Curve.of(times, fast), Curve.of(times, slow)
        needed = np.exp(np.interp(-0.5, -fast, np.log(times)))
        ratios.append(np.log(100 / needed))
    found = saving("fast", "slow", one, other)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(ratios), scale=stats.sem(ratios))
    expected = np.exp([np.mean(ratios), low, high]).tolist()
    assert [found.factor, found.low, found.high] == pytest.approx(expected)


def test_the_front_of_many_points_is_that_of_a_sweep_over_cost(draws):
    cost, error = draws.uniform(0, 1, (2, 60)).round(1)  # with ties
    points = {
        f"{i}": (float(c), float(e)) for i, (c, e) in enumerate(zip(cost, error, strict=True))
    }
    best, front = np.inf, set()
    for place in sorted(set(points.values())):  # by cost, then by error
        if place[1] < best:
            best = place[1]
            front.add(place)
    assert {points[label] for label in pareto(points)} == front
