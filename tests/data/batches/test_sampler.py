import tracemalloc

import numpy as np
import pytest

from atomsweep.data.batches import sampler as module
from atomsweep.data.batches.sampler import BalancedSampler, EpochSampler, deal


def sizes(num=103, seed=0):
    return np.random.default_rng(seed).integers(10, 250, num)


def ranks(world_size, batch_size=24, seed=7, num=103):
    return [BalancedSampler(sizes(num), batch_size, seed, r, world_size) for r in range(world_size)]


def mine(sampler, step):
    (part,) = sampler.parts(step)
    return part.indices


def test_one_rank_is_the_plain_sampler():
    (balanced,) = ranks(1)
    plain = EpochSampler(103, 24, 7)
    assert balanced.steps_per_epoch == plain.steps_per_epoch
    for step in (0, 24, 25, 90):
        assert np.array_equal(mine(balanced, step), plain.indices(step))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_together_the_ranks_take_what_one_takes(world_size):
    plain = EpochSampler(103, 24, 7)
    for step in (0, 1, plain.steps_per_epoch, 50):
        parts = [mine(sampler, step) for sampler in ranks(world_size)]
        assert [len(part) for part in parts] == [24 // world_size] * world_size
        assert sorted(np.concatenate(parts)) == sorted(plain.indices(step))


def test_a_step_is_a_function_of_seed_step_and_rank_alone():
    one, other = ranks(3)[1], ranks(3)[1]
    expected = [mine(one, step) for step in range(20)]
    assert np.array_equal(mine(other, 17), expected[17])  # without the steps before
    assert np.array_equal(mine(other, 3), expected[3])
    assert not np.array_equal(mine(ranks(3, seed=8)[1], 17), expected[17])


def test_ranks_do_more_equal_work_than_ranks_that_take_turns():
    def spread(parts):
        loads = [work[part].sum() for part in parts]
        return max(loads) / np.mean(loads)

    work = sizes(4000)
    plain = EpochSampler(4000, 8 * 16, 7)
    samplers = [BalancedSampler(work, 8 * 16, 7, rank, 8) for rank in range(8)]
    balanced = [spread([mine(s, step) for s in samplers]) for step in range(20)]
    turns = [spread([plain.indices(step)[rank::8] for rank in range(8)]) for step in range(20)]
    assert np.mean(balanced) < 1.01
    assert np.mean(turns) > 1.1


def test_hands_differ_by_at_most_one_item():
    assert np.bincount(deal(np.ones(11), 4)).tolist() == [3, 3, 3, 2]
    assert deal(np.array([1, 9, 5, 5]), 2).tolist() == [0, 0, 1, 1]
    assert [len(mine(sampler, 0)) for sampler in ranks(3, num=5)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [(2, 2, r"rank must be in \[0, 2\), got 2"), (0, 25, "24 structures cannot be dealt to 25")],
)
def test_senseless_ranks_are_refused(rank, world_size, message):
    with pytest.raises(ValueError, match=message):
        BalancedSampler(sizes(), 24, 0, rank, world_size)


def test_the_order_of_a_set_that_fits_is_numpys():
    """Runs of before continue, and can be made again, with the same batches."""
    order = np.random.default_rng([5, 2]).permutation(1000)
    sampler = EpochSampler(1000, 10, 5)
    assert np.array_equal(np.concatenate([sampler.indices(200 + s) for s in range(100)]), order)


@pytest.mark.parametrize("num", [17, 64, 1025])  # the last walks most often, after 4**5
def test_an_order_that_is_in_no_memory_is_a_permutation_too(monkeypatch, num):
    monkeypatch.setattr(module, "SHUFFLED_WHOLE", 16)
    sampler = EpochSampler(num, 1, 5)
    epochs = [np.concatenate([sampler.indices(num * e + s) for s in range(num)]) for e in (0, 1)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(num))
    assert not np.array_equal(*epochs)
    if num > 900:  # as far from where they were as in any random order
        moved = [np.abs(order - np.arange(num)).mean() / num for order in epochs]
        assert np.allclose(moved, 1 / 3, atol=0.04)
        assert abs(np.corrcoef(*epochs)[0, 1]) < 0.1
        assert abs(np.corrcoef(epochs[0][1:], epochs[0][:-1])[0, 1]) < 0.1


def test_of_two_hundred_million_structures_a_batch_costs_no_more():
    sampler = EpochSampler(200_000_000, 4096, 0)
    tracemalloc.start()
    chosen = np.concatenate([sampler.indices(step) for step in (0, 40_000, 48_827)])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert len(set(chosen.tolist())) == 3 * 4096
    assert chosen.min() >= 0
    assert chosen.max() < 200_000_000
    assert chosen.std() == pytest.approx(200e6 / 12**0.5, rel=0.05)
