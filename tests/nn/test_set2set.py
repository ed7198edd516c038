"""Set2Set beside torch_geometric's with the same weights, and its second derivatives."""

import pytest
import torch
from torch_geometric.nn import Set2Set as PublicSet2Set

from atomsweep.nn.set2set import Set2Set

INDEX = torch.tensor([0, 0, 0, 2, 2, 3])  # the second set is empty


def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(INDEX), 5, generator=generator, dtype=torch.float64)


def made(num_layers):
    torch.manual_seed(0)
    return Set2Set(5, num_layers, num_steps=4).double()


@pytest.mark.parametrize("num_layers", [1, 3])
def test_output_is_that_of_torch_geometric_with_the_same_weights(num_layers):
    ours = made(num_layers)
    public = PublicSet2Set(5, processing_steps=4, num_layers=num_layers).double()
    names = {"weight_ih": "input_linear.weight", "bias_ih": "input_linear.bias"}
    names |= {"weight_hh": "hidden_linear.weight", "bias_hh": "hidden_linear.bias"}
    weights = {
        f"lstm.{theirs}_l{layer}": ours.state_dict()[f"cells.{layer}.{mine}"]
        for theirs, mine in names.items()
        for layer in range(num_layers)
    }
    public.load_state_dict(weights)
    expected = public(rows(), INDEX, dim_size=4)
    torch.testing.assert_close(ours(rows(), INDEX, 4), expected, rtol=1e-12, atol=1e-12)


def test_order_within_a_set_does_not_matter():
    order = torch.tensor([3, 2, 5, 0, 4, 1])
    before = made(2)(rows(), INDEX, 4)
    torch.testing.assert_close(made(2)(rows()[order], INDEX[order], 4), before)


def test_first_and_second_derivatives_are_right():
    x = rows().requires_grad_()
    part = made(2)
    assert torch.autograd.gradcheck(lambda x: part(x, INDEX, 4), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: part(x, INDEX, 4), x, fast_mode=True)


def test_weights_begin_in_the_range_of_an_lstm():
    torch.manual_seed(0)
    weights = torch.cat([p.detach().flatten() for p in Set2Set(16, 2, 1).parameters()])
    assert 0.24 < weights.max() <= 0.25
    assert -0.25 <= weights.min() < -0.24
