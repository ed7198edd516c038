"""ADwT, AFbT and FbT against closed forms and ASE's minimum image."""

import numpy as np
import pytest
from ase.geometry import find_mic

from atomsweep.data.structure import Structure
from atomsweep.tasks.relax import metrics


def structure(pos, cell=None, fixed=None, pbc=True):
    pos = np.asarray(pos, float)
    n = len(pos)
    return Structure(
        np.full(n, 29),
        pos,
        8.0 * np.eye(3) if cell is None else np.asarray(cell, float),
        np.full(3, pbc),
        np.ones(n, int),
        np.zeros(n, bool) if fixed is None else np.asarray(fixed),
    )


def test_adwt_counts_the_490_thresholds_from_10_to_499_thousandths():
    assert len(metrics.DISTANCES) == 490
    assert metrics.DISTANCES[[0, -1]].tolist() == [0.01, 0.499]
    assert metrics.adwt([0.0]) == 1.0
    assert metrics.adwt([0.6]) == 0.0
    assert metrics.adwt([0.1]) == pytest.approx(399 / 490)  # 0.101 … 0.499: strictly below
    assert metrics.adwt([0.1005]) == pytest.approx(399 / 490)
    assert metrics.adwt([0.0, 0.6, 0.1]) == pytest.approx((1 + 0 + 399 / 490) / 3)


def test_a_failed_system_counts_and_is_beyond_every_threshold():
    assert metrics.adwt([0.0, float("nan")]) == 0.5
    assert metrics.afbt([0.0, float("nan")]) == 0.5
    assert metrics.fbt([0.0, float("nan")]) == 0.5
    assert np.isnan(metrics.adwt([]))
    assert np.isnan(metrics.fbt([]))


def test_afbt_and_fbt_look_at_the_largest_force():
    assert metrics.afbt([0.0]) == 1.0
    assert metrics.afbt([0.4]) == 0.0
    assert metrics.afbt([0.2]) == pytest.approx(199 / 390)
    assert metrics.fbt([0.05, 0.051, 0.0, 1.0]) == 0.5
    forces = np.array([[3.0, 4.0, 0.0], [9.0, 9.0, 9.0]])
    assert metrics.largest_force(forces, np.array([False, True])) == 5.0
    assert metrics.largest_force(forces, np.array([True, True])) == 0.0


def test_the_distance_is_a_mean_over_free_atoms_to_the_nearest_image():
    before = structure([(0, 0, 0), (1, 1, 1), (2, 2, 2)], fixed=[True, False, False])
    moved = structure([(5, 5, 5), (1, 1, 1.3 + 8.0), (2 - 16, 2, 2.1)], fixed=before.fixed)
    assert metrics.mean_distance(moved, before) == pytest.approx(0.2)
    assert metrics.mean_distance(before, moved) == pytest.approx(0.2)
    everything = structure([(0, 0, 0)], fixed=[True])
    assert np.isnan(metrics.mean_distance(everything, everything))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False,) * 3])
def test_images_are_those_of_ase_in_a_cell_that_is_not_skewed(pbc):
    rng = np.random.default_rng(0)
    cell = np.diag([4.0, 5.0, 11.0])
    difference = rng.normal(scale=6.0, size=(40, 3))
    one = structure(np.zeros((1, 3)), cell)
    one.pbc = np.array(pbc)
    expected = find_mic(difference, cell, pbc)[0]
    assert np.allclose(metrics.minimum_image(difference, one), expected)


def test_without_a_cell_distances_are_plain():
    one = structure(np.zeros((1, 3)), np.zeros((3, 3)), pbc=False)
    assert np.array_equal(metrics.minimum_image(np.ones((2, 3)), one), np.ones((2, 3)))
