"""Outputs and gradients that are held against each other: what rounding explains, and what not."""

import math

import pytest
import torch

from atomsweep.engine.agreement import OF_REDUCED, SHARE, apart, nudged, spread, waves


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_tensor_may_be_off_by_a_share_of_its_size_and_by_what_rounding_does_to_it():
    expected = [random(30), 1e-3 * random(30)]
    again = [expected[0], expected[1] + 1e-4 * random(30)]
    assert apart([expected[0], 1.2 * expected[1]], expected, again, SHARE) < 1.0
    assert apart([1.2 * expected[0], expected[1]], expected, again, SHARE) > 3.0
    assert apart([expected[0], 2.0 * expected[1]], expected, again, SHARE) > 1.0
    assert apart([1.04 * one for one in expected], expected, expected, SHARE) < 1.0
    assert apart([1.04 * one for one in expected], expected, expected, 1e-6) > 1e3


def test_what_is_a_thousandth_of_the_largest_is_held_to_its_own_size():
    expected = [random(30), 1e-5 * random(30)]
    assert apart([expected[0], 0.0 * expected[1]], expected, expected, SHARE) == pytest.approx(20)
    rounding = [random(30), 1e-9 * random(30)]  # that is nothing but rounding of the largest
    assert apart([rounding[0], 0.0 * rounding[1]], rounding, rounding, SHARE) < 1.0


def test_an_energy_is_held_against_its_spread_and_a_little_of_its_mean():
    energies = -5.0 + 0.1 * random(8)
    assert apart([energies + 0.1], [energies], [energies], SHARE, size=spread) > 1.0
    assert apart([energies * (1 + 1e-5)], [energies], [energies], SHARE, size=spread) < 0.05
    alone = energies[:1]  # has no spread
    assert apart([alone * (1 + 1e-5)], [alone], [alone], SHARE, size=spread) < 0.05
    assert apart([alone * 1.01], [alone], [alone], SHARE, size=spread) > 1.0
    assert spread(torch.zeros(3)) == 0.0


@pytest.mark.parametrize("count", [1, 2, 4, 32])
def test_rounding_is_no_difference_however_few_numbers_there_are(count):
    """Of one number that rounding moves by 0.3 of its size a fifth was told to be another one."""
    numbers, told = torch.Generator().manual_seed(count), 0
    for _ in range(600):
        right = [torch.randn(n, generator=numbers) for n in (64, count, 64, 64)]
        eager, found = (
            [x + 0.3 * x.square().mean().sqrt() * torch.randn(len(x), generator=numbers) for x in y]
            for y in (right, right)
        )
        told += apart(found, eager, right, SHARE, OF_REDUCED) > 1.0
    assert told < 6  # 1 %


@pytest.mark.parametrize("rounding", [1e-6, 0.01, 0.1])
@pytest.mark.parametrize("wrong", [1.5, -1.0, 0.0])
def test_a_single_number_that_is_wrong_is_told_beside_tensors_that_round_as_it_does(
    wrong, rounding
):
    right = [random(64), torch.tensor([0.7]), random(60), random(40)]
    again = [x * (1.0 + rounding * (-1.0) ** torch.arange(len(x))) for x in right]
    found = [right[0], wrong * right[1], *right[2:]]
    assert apart(found, right, again, SHARE, OF_REDUCED) > 1.0
    assert apart(right, right, again, SHARE, OF_REDUCED) == 0.0


def test_a_tensor_that_is_nothing_but_rounding_hides_no_number_beside_it():
    """As the gradient of a bias before a batch norm."""
    nothing = 1e-9 * random(64)
    right = [random(64), nothing, torch.tensor([0.7]), random(40)]
    again = [right[0], -nothing, *right[2:]]
    found = [right[0], nothing, -right[2], right[3]]
    assert apart(found, right, again, SHARE) > 1.0


def test_small_tensors_that_round_much_hide_no_number_beside_them():
    """As gradients that cancel: their rounding is of what was added up, not of what is left."""
    small = [1e-6 * random(40) for _ in range(3)]
    right = [*small, torch.tensor([0.7]), random(64)]
    again = [*(x * (1.0 + 0.4 * (-1.0) ** torch.arange(len(x))) for x in small), *right[3:]]
    assert apart([*small, 2.0 * right[3], right[4]], right, again, SHARE) > 1.0


def test_gradients_of_energies_weigh_as_much_as_those_of_forces():
    of_energies, of_forces = waves([torch.tensor([-1.0, -0.7]), 10.0 * random(40, 3)])
    assert of_energies.abs().max() > of_forces.abs().max()


def test_a_nudged_weight_is_a_leaf_one_rounding_away():
    weight = random(5, 7).requires_grad_()
    near = nudged(weight)
    assert near.is_leaf
    assert near.requires_grad
    assert 0 < float((near / weight - 1).detach().abs().max()) <= 2 * torch.finfo(weight.dtype).eps
    fixed = random(3)
    assert nudged(fixed) is fixed


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        ([None], [torch.ones(2)], math.inf),
        ([torch.ones(2)], [None], math.inf),
        ([None], [None], 0.0),
        ([torch.tensor([math.nan])], [torch.ones(1)], math.inf),
        ([torch.ones(2), torch.ones(1)], [torch.ones(2), torch.tensor([math.nan])], 0.0),
        ([torch.zeros(2)], [torch.ones(2)], 1.0),
        ([torch.ones(2)], [torch.zeros(2)], math.inf),
        ([torch.empty(0)], [torch.empty(0)], 0.0),
    ],
)
def test_what_is_missing_or_no_number_is_as_far_apart_as_can_be(found, expected, told):
    distance = apart(found, expected, expected, 1.0)
    assert distance == told or (math.isinf(told) and distance > 1e20)


def test_of_nothing_finite_nothing_is_known():
    nothing = torch.tensor([math.nan, 1.0])
    assert math.isnan(apart([torch.ones(2)], [nothing], [nothing], SHARE))
