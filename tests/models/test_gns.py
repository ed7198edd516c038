import torch

from tests.contracts.compose import build_model, compose
from tests.contracts.model_contract import ModelContract, Symmetry


class TestGNS(ModelContract):
    overrides = ["model=gns", "model.hidden_channels=16", "model.num_layers=2"]
    rotation = Symmetry.LEARNED
    smooth_cutoff = False  # its messages have no cutoff weight


def test_published_size():
    with torch.device("meta"):
        model = build_model(["model=gns"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_519_939


def test_chooses_relu_and_no_basis_unless_told_otherwise():
    chosen = compose(["model=gns"])
    assert chosen.act._target_ == "torch.nn.ReLU"
    assert "basis" not in chosen.model
    assert compose(["model=gns", "act=swish"]).model.act._target_ == "torch.nn.SiLU"
