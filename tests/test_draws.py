import numpy as np
import torch
from scipy import stats

from atomsweep.draws import normal, uniform

NUMBERS = torch.arange(20_000)


def test_uniform_numbers_are_uniform_and_streams_seeds_and_counters_are_apart():
    base = uniform(1, 0, NUMBERS)
    assert stats.kstest(base.numpy(), "uniform").pvalue > 1e-3
    assert 0 < base.min() < base.max() < 1
    others = [
        uniform(2, 0, NUMBERS),
        uniform(1, 1, NUMBERS),
        uniform(1, 0, NUMBERS, torch.zeros_like(NUMBERS)),
        base.roll(1),
    ]
    for other in others:
        assert abs(np.corrcoef(base.numpy(), other.numpy())[0, 1]) < 0.03
    assert len(set(base.tolist())) == len(NUMBERS)


def test_the_numbers_are_those_of_an_independent_splitmix():
    def mixed(x):
        x %= 1 << 64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % (1 << 64)
        return x ^ (x >> 31)

    def slow(*words):
        state = 0
        for word in words:
            state = mixed(state + (word + 1) * 0x9E3779B97F4A7C15)
        return ((state >> 11) + 0.5) * 2.0**-53

    seed = (1 << 63) - 5
    got = uniform(seed, 3, torch.tensor([0, 7, -1]), torch.tensor([1, 2, 3]))
    assert got.tolist() == [slow(seed, 3, a, b) for a, b in ((0, 1), (7, 2), (-1, 3))]


def test_normal_numbers_are_normal():
    assert stats.kstest(normal(5, 3, NUMBERS).numpy(), "norm").pvalue > 1e-3


def test_a_number_depends_on_its_counters_alone():
    parts = [normal(5, 3, part) for part in NUMBERS[:100].split(7)]
    assert torch.equal(torch.cat(parts), normal(5, 3, NUMBERS[:100]))
