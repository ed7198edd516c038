import pytest
import torch
from omegaconf import OmegaConf

from atomsweep.build import build
from tests.contracts.compose import compose, num_parameters
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry
from tests.models.equiformer_reference import Reference

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
    chosen = [f"model={option}", f"model.num_elements={rows}"]
    assert num_parameters(*chosen, "model.dens=false") == plain
    assert num_parameters(*chosen, "model.dens=true") == dens


@pytest.mark.parametrize(
    "more",
    [["model.dens=true"], ["model.attention=false", "model.layer_norm=false"]],
    ids=["dens", "segnn-like"],
)
def test_network_is_that_of_the_formulas_over_e3nn(more):
    config = compose([*TINY, *more]).model
    torch.manual_seed(0)
    model = build(OmegaConf.to_container(config, resolve=True), "model").double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains start at 1 and biases at 0
            parameter += 0.1 * torch.randn_like(parameter)
    batch = make_batch([random_atoms(1, (1, 2, 2)), random_atoms(2, (1, 1, 3))], 3.2)
    batch.dens_forces = batch.forces
    batch.dens_mask = torch.arange(len(batch.pos)) % 2 == 0
    energy, forces, noise = Reference(model, config)(batch)
    found = model(batch)
    torch.testing.assert_close(found.energy, energy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.forces, forces, rtol=1e-9, atol=1e-9)
    assert forces.abs().min() > 1e-3
    if config.dens:
        torch.testing.assert_close(found.noise, noise, rtol=1e-9, atol=1e-9)
