"""Activations, cutoff weight, sums over segments, linear layer over pairs, MLPs."""

import math

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from atomsweep.nn.activations import ShiftedSoftplus
from atomsweep.nn.cutoff import cosine_cutoff
from atomsweep.nn.mlp import PairLinear, make_mlp, xavier_uniform
from atomsweep.nn.scatter import segment_sum
from tests.contracts.compose import compose


@pytest.mark.parametrize(
    ("act", "at_minus_one", "at_two"),
    [
        ("swish", -1 / (1 + math.e), 2 / (1 + math.exp(-2))),
        ("relu", 0.0, 2.0),
        ("leaky_relu", -0.05, 2.0),
        ("tanh", math.tanh(-1), math.tanh(2)),
        ("softplus", math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))),
        (
            "shifted_softplus",
            math.log(1 + math.exp(-1)) - math.log(2),
            math.log(1 + math.exp(2)) - math.log(2),
        ),
    ],
)
def test_every_activation_has_its_values(act, at_minus_one, at_two):
    factory = instantiate(compose([f"act={act}"]).act)
    values = factory()(torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(values, torch.tensor([at_minus_one, at_two]))
    assert factory() is not factory()


def test_shifted_softplus_passes_through_the_origin():
    assert ShiftedSoftplus()(torch.zeros(1)).abs() < 1e-7


def test_cosine_cutoff_falls_from_one_to_zero_at_the_cutoff():
    weight = cosine_cutoff(torch.tensor([0.0, 3.0, 6.0], dtype=torch.float64), cutoff=6.0)
    expected = torch.tensor([1.0, math.sqrt(0.5), 0.0], dtype=torch.float64)
    torch.testing.assert_close(weight, expected)


def test_segment_sum_adds_rows_and_leaves_empty_segments_zero():
    values = torch.arange(8.0).view(4, 2)
    total = segment_sum(values, torch.tensor([2, 0, 2, 2]), 4)
    expected = torch.tensor([[2.0, 3.0], [0.0, 0.0], [10.0, 13.0], [0.0, 0.0]])
    assert torch.equal(total, expected)


def test_segment_sum_of_nothing_is_zero():
    total = segment_sum(torch.empty(0, 2), torch.empty(0, dtype=torch.long), 3)
    assert torch.equal(total, torch.zeros(3, 2))


@pytest.mark.parametrize("node_dim", [0, 3])
@pytest.mark.parametrize("with_edge_linear", [True, False])
def test_pair_linear_is_the_linear_layer_of_the_concatenation(node_dim, with_edge_linear):
    torch.manual_seed(0)
    edge_linear = nn.Linear(7, 5).double() if with_edge_linear else None
    layer = PairLinear(5 if with_edge_linear else 7, node_dim, 4).double()
    edge = torch.randn(6, 7, dtype=torch.float64)
    h = torch.randn(3, node_dim, dtype=torch.float64)
    edge_index = torch.randint(0, 3, (2, 6))
    embedded = edge if edge_linear is None else edge_linear(edge)
    joined = torch.cat([embedded, h[edge_index[0]], h[edge_index[1]]], dim=1)
    expected = joined @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(edge, h, edge_index, edge_linear), expected)


def test_mlp_has_its_layers_in_order():
    mlp = make_mlp(2, 3, 4, nn.SiLU, num_hidden=2, batch_norm=True)
    kinds = [nn.Linear, nn.BatchNorm1d, nn.SiLU]
    assert [type(layer) for layer in mlp] == [*kinds, *kinds, nn.Linear]
    assert [type(layer) for layer in make_mlp(2, 3, 4, nn.SiLU, num_hidden=0)] == [nn.Linear]


def test_xavier_bound_is_that_of_the_whole_layer():
    torch.manual_seed(0)
    layer = PairLinear(20, 40, 50)
    xavier_uniform(layer)
    bound = math.sqrt(6 / (20 + 2 * 40 + 50))
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()
