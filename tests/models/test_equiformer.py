import pytest
import torch

from tests.contracts.compose import build_model
from tests.contracts.model_contract import ModelContract, Symmetry

TINY = [
    "model=equiformer_l2",
    "model.num_layers=2",
    "model.channels=[8,6,4]",
    "model.head_channels=[4,2,2]",
    "model.ffn_channels=[8,6,4]",
    "model.scalar_channels=16",
    "model.num_heads=2",
    "model.num_basis=8",
    "model.radial_channels=16",
    "model.cutoff=4.5",
]


class TestEquiformer(ModelContract):
    overrides = TINY
    parameter_step = 1e-8  # third derivatives are large at initial weights
    crystal_force = 1e-3  # a norm multiplies degrees that vanish by symmetry by 1 / sqrt(eps)
    rotation = Symmetry.EXACT
    conservative = True
    smooth_cutoff = False  # the radial perceptron does not vanish at the cutoff


class TestSegnnLike(ModelContract):
    parameter_step = 1e-8
    overrides = [*TINY, "model.attention=false", "model.layer_norm=false", "model.init=uniform"]
    rotation = Symmetry.EXACT
    conservative = True
    smooth_cutoff = False


@pytest.mark.parametrize(
    ("option", "rows", "plain", "dens"),
    [
        ("equiformer_l2", 100, 3_500_609, 4_005_185),  # the authors' log
        ("equiformer_l2", 64, 3_496_001, 4_000_577),  # their code: 3.50 M and 4.00 M
        ("equiformer_l3", 64, 5_500_865, 6_354_241),  # 5.50 M and 6.35 M
    ],
)
def test_published_sizes(option, rows, plain, dens):
    for flag, count in (("false", plain), ("true", dens)):
        with torch.device("meta"):
            model = build_model(
                [f"model={option}", f"model.num_elements={rows}", f"model.dens={flag}"]
            )
        assert sum(parameter.numel() for parameter in model.parameters()) == count
