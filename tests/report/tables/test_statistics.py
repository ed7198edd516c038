import math

import pytest
from scipy import stats

from atomsweep.report.tables.statistics import interval


def test_interval_agrees_with_scipy():
    values = [0.0512, 0.0498, 0.0531, 0.0507]
    mean, half_width = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high), rel=1e-10)


def test_interval_covers_the_true_mean_in_95_of_100_samples():
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [abs(mean) <= half for mean, half in map(interval, draws.tolist())]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert interval([0.05])[0] == 0.05
    assert math.isnan(interval([0.05])[1])
    assert all(math.isnan(x) for x in interval([]))


def test_equal_values_have_no_spread():
    for value in (0.1, 0.8208123, 1e-9, 3e8):
        assert interval([value] * 3) == (value, 0.0)
