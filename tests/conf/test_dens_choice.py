"""`dens=` is one word: it reaches the model's own switches, and leaves them alone otherwise."""

import pytest
import torch
from omegaconf import open_dict

from atomsweep.build import UserError, build_learner
from atomsweep.launch.compose import cell_of
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


SMALL = ["model.hidden_channels=8", "model.num_layers=1", "model.decoder_channels=8"]
LEARNER = ["task=s2ef_oc20", *SMALL, "model.energy_head=true"]


def config_of(*overrides):
    return cell_of(*compose_with_choices(list(overrides)), overrides).config


def test_a_checkpoint_fits_the_model_that_its_config_builds_again():
    config = config_of(*LEARNER, "dens=oc20", "model.force_encoding=edge_projection")
    model, task = build_learner(config)
    again = build_learner(config)[0]
    again.load_state_dict(model.state_dict())
    assert float(again.normalizer.energy_std) == pytest.approx(2.887317180633545)
    assert again.supports_dens
    assert list(task.coefficients) == ["energy", "forces", "noise"]
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_a_model_that_cannot_denoise_is_refused_as_the_users_mistake():
    with pytest.raises(UserError, match="ForceNet cannot encode forces; choose dens=none"):
        build_learner(config_of(*LEARNER, "dens=oc20"))
