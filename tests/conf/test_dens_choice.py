"""`dens=` is one word: it reaches the model's own switches, and leaves them alone otherwise."""

import pytest
from omegaconf import open_dict

from atomsweep.experiment import cell_of
from tests.contracts.compose import compose_with_choices


@pytest.mark.parametrize(
    ("overrides", "dens", "sigma"),
    [
        (["dens=none"], False, False),
        (["dens=v2_fixed"], True, False),
        (["dens=v2_fixed", "dens.sigma_encoding=true"], True, True),
    ],
    ids=str,
)
def test_the_model_gets_its_parts_for_denoising_when_dens_is_chosen(overrides, dens, sigma):
    cfg, choices = compose_with_choices(["task=s2ef", *overrides])
    with open_dict(cfg):
        cfg.model.update({"dens": False, "sigma_encoding": False})
    model = cell_of(cfg, choices, overrides).config["model"]
    assert (model["dens"], model["sigma_encoding"]) == (dens, sigma)


def test_a_model_without_the_switches_is_left_as_it_is():
    model = cell_of(*compose_with_choices(["task=s2ef", "dens=v2_fixed"]), []).config["model"]
    assert "dens" not in model
    assert model["force_encoding"] is None
