"""Outputs and gradients that are held against each other: what rounding explains, and what not."""

import math

import pytest
import torch

from atomsweep.engine.agreement import apart, spread, waves


def test_an_energy_is_held_against_its_spread_and_not_its_reference():
    """Such are total energies of one molecule, of which forces know the spread alone."""
    energies = -1.76e4 + 0.26 * torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert apart([energies + 1.0], [energies], 1e-5, spread) > 1.0
    rounded = energies * (1 + torch.finfo(torch.float32).eps)
    assert apart([rounded], [energies], 1e-5, spread) < 0.05
    assert apart([energies + 1.0], [energies], 1e-5) < 1e-4  # of its norm it is nothing


def test_energies_that_are_equal_may_round():
    energies = torch.full((4,), -3.0e5)
    assert apart([energies * (1 + 2e-7)], [energies], 1e-5, spread) < 0.05
    assert spread(torch.zeros(3)) == 0.0


def test_gradients_of_energies_weigh_as_much_as_those_of_forces():
    energies = torch.tensor([-1.76e4, -1.76e4 + 0.3])
    forces = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    of_energies, of_forces = waves([energies, forces], 1e-5)
    assert of_energies.abs().max() > of_forces.abs().max()


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
    distance = apart(found, expected, 0.0)
    assert distance == told or (math.isinf(told) and distance > 1e20)


def test_of_nothing_finite_nothing_is_known():
    nothing = torch.tensor([math.nan, 1.0])
    assert math.isnan(apart([torch.ones(2)], [nothing], 1e-5))
