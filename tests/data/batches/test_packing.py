"""Micro-batches that are packed by what they hold."""

import numpy as np
import pytest

from atomsweep.data.batches.sampler import EpochSampler, PackedSampler, first_fit


def sizes(num=60):
    edges = np.random.default_rng(1).integers(5, 60, num)
    return edges // 4 + 1, edges


LIMITS = np.array([6, 40, 120])


def test_each_goes_into_the_first_that_has_room():
    one = np.array([[5], [4], [3], [6], [1], [5]])
    assert [b.tolist() for b in first_fit(one, np.array([9]))] == [[0, 1], [2, 3], [4, 5]]
    assert [b.tolist() for b in first_fit(one, np.array([10]))] == [[0, 1, 4], [2, 3], [5]]


def test_no_batch_holds_more_than_its_limits_and_each_structure_is_in_one():
    every = np.stack([np.ones(60, dtype=np.int64), *sizes()], axis=1)
    sampler, whole = PackedSampler(sizes(), LIMITS, 20, 3), EpochSampler(60, 20, 3)
    for step in range(9):
        parts = sampler.parts(step)
        for part in parts:
            assert (every[part.indices].sum(0) <= LIMITS).all()
            assert (np.diff(part.places) > 0).all()
        places = np.concatenate([part.places for part in parts])
        assert sorted(places) == list(range(20))
        indices = np.concatenate([part.indices for part in parts])
        assert np.array_equal(indices[np.argsort(places)], whole.indices(step))


def test_batches_depend_on_seed_and_step_alone():
    one, other = (PackedSampler(sizes(), LIMITS, 20, 3) for _ in range(2))
    for step in (7, 0, 4):
        for a, b in zip(one.parts(step), other.parts(step), strict=True):
            assert np.array_equal(a.indices, b.indices)
    places = [part.places.tolist() for part in one.parts(0)]
    assert places != [
        part.places.tolist() for part in PackedSampler(sizes(), LIMITS, 20, 4).parts(0)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 20])
def test_ranks_share_a_step_and_none_has_nothing(ranks):
    roomy = np.array([20, 10_000, 10_000])
    for limits in (LIMITS, roomy):
        made = [
            PackedSampler(sizes(), limits, 20, 3, rank, ranks).parts(2) for rank in range(ranks)
        ]
        assert all(made)
        places = [place for parts in made for part in parts for place in part.places.tolist()]
        assert sorted(places) == list(range(20))


def test_a_structure_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        PackedSampler(sizes(), np.array([6, 40, 30]), 20, 3)
    with pytest.raises(ValueError, match="21 ranks"):
        PackedSampler(sizes(), LIMITS, 20, 3, 0, 21)
