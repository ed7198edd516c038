import pytest

from tests.contracts.compose import num_parameters
from tests.contracts.model_contract import ModelContract, Symmetry

TINY = [
    "model=escn_small",
    "model.channels=8",
    "model.hidden_channels=8",
    "model.edge_channels=8",
    "model.num_basis=16",
    "model.cutoff=4.0",
    "model.max_neighbors=null",
]


class TestESCN(ModelContract):
    overrides = TINY
    rotation = Symmetry.EXACT
    smooth_cutoff = False  # messages have no envelope

    def test_rotated_structure_has_rotated_forces(self, model):
        pytest.skip("up to the aliasing of grid and samples, measured in test_equivariance.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "plain", "dens"),
    [
        ("escn", 51_837_952, 51_872_128),
        ("escn_l4", 36_109_312, 36_143_232),
        ("escn_large", 200_227_840, 200_280_800),
    ],
)
def test_published_sizes(option, plain, dens):
    assert num_parameters(f"model={option}", "model.dens=false") == plain
    assert num_parameters(f"model={option}", "model.dens=true") == dens
