import pytest
import torch

from atomsweep.nn.mlp import EDGE_SPREAD
from tests.contracts.compose import build_model, compose, num_parameters
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry


class TestGNS(ModelContract):
    overrides = ["model=gns", "model.hidden_channels=16", "model.num_layers=2"]
    rotation = Symmetry.LEARNED
    smooth_cutoff = False  # its messages have no cutoff weight


class TestGNSMean(TestGNS):
    overrides = [*TestGNS.overrides, "model.aggregation=mean"]


def test_initialisation_is_the_papers_unless_told_otherwise():
    """App. C: all parameters Xavier uniform; `port` is torch's own, within 1 / sqrt(fan in)."""
    small = ["model=gns", "model.hidden_channels=24", "model.num_layers=2"]
    paper, port = build_model(small), build_model([*small, "model.init=port"])
    layers = [(name, m) for name, m in paper.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 2 * 3 + 2
    for name, layer in layers:
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.85 * bound < float(layer.weight.detach().abs().max()) <= bound, name
        assert not layer.bias.any()
        own = port.get_submodule(name)
        assert float(own.weight.detach().abs().max()) <= own.in_features**-0.5
        assert own.bias.any()
    bound = (6 / sum(paper.embedding.weight.shape)) ** 0.5
    assert float(paper.embedding.weight.detach().abs().max()) <= bound
    assert float(port.embedding.weight.detach().abs().max()) > 1  # normal


def test_mean_is_the_sum_over_the_number_of_neighbours():
    from atomsweep.models.gns import _Block

    torch.manual_seed(0)
    block, other = (_Block(7, 8, torch.nn.ReLU, mean).eval() for mean in (True, False))
    other.load_state_dict(block.state_dict())
    h, edge = torch.randn(4, 8), torch.randn(5, 7)
    edge_index = torch.tensor([[1, 2, 3, 0, 2], [0, 0, 0, 1, 1]])  # 3, 2, 0, 0 neighbours
    lin = block.node_update

    def update(total):
        return lin(total)

    message = block.edge_mlp(block.pair_linear(edge, h, edge_index))
    total = torch.zeros(4, 8).index_add_(0, edge_index[1], message)
    count = torch.tensor([3.0, 2.0, 1.0, 1.0])[:, None]
    torch.testing.assert_close(block(h, edge, edge_index), h + update(total / count))
    torch.testing.assert_close(other(h, edge, edge_index), h + update(total))


def test_published_size():
    assert num_parameters("model=gns") == 12_519_939


def test_chooses_relu_and_no_basis_unless_told_otherwise():
    chosen = compose(["model=gns"])
    assert chosen.act._target_ == "torch.nn.ReLU"
    assert "basis" not in chosen.model
    assert compose(["model=gns", "act=swish"]).model.act._target_ == "torch.nn.SiLU"


def test_edge_inputs_get_the_spread_that_is_wanted_and_nothing_else_changes():
    batch = make_batch([random_atoms(seed) for seed in range(3)], 6.0, 50, dtype=torch.float32)
    small = ["model=gns", "model.hidden_channels=24", "model.num_layers=2"]
    model = build_model([*small, "model.edge_init_scale=auto"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    entering = []
    for block in model.blocks:
        own = block.pair_linear.forward
        block.pair_linear.forward = lambda edge, *rest, own=own: (
            entering.append(edge),
            own(edge, *rest),
        )[1]
    model.initialise(batch)
    model(batch)
    for block, edge in zip(model.blocks, entering, strict=True):
        width = block.pair_linear.edge_dim
        spread = (edge @ block.pair_linear.weight[:, :width].T).var(0).mean().sqrt()
        assert float(spread.detach()) == pytest.approx(EDGE_SPREAD, rel=1e-4)
    for name, value in model.named_parameters():
        kept = slice(width, None) if name.endswith("pair_linear.weight") else slice(0, None)
        assert torch.equal(value[..., kept], before[name][..., kept]), name
    published, laptop = compose(["model=gns"]), compose(["model=gns", "size=small"])
    assert (published.model.edge_init_scale, laptop.model.edge_init_scale) == (None, "auto")
