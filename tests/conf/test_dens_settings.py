"""Settings of DeNS as in the papers and the released code (arXiv:2403.09549, Tables 7 to 9)."""

import pytest
import torch
from omegaconf import OmegaConf

from atomsweep.build import build
from tests.contracts.compose import compose


def plain(overrides, group):
    return OmegaConf.to_container(compose(overrides)[group], resolve=True)


def built(group, option, *overrides):
    return build(plain([f"{group}={option}", *overrides], group), group)


# p_DeNS, σ, r, λ_DeNS; 0.25 and linear decay on MD17
PRESETS = {
    "v1_multiscale": (0.5, 0.5, 1.0, 10),  # σ_high and λ are inferred
    "v2_fixed": (0.5, 0.1, 0.5, 10),
    "v3": (0.5, 0.025, 0.5, 10),
    "oc20": (0.5, 0.1, 0.5, 10),
    "oc20_all_md": (0.125, 0.1, 0.25, 15),
    "oc20_escn": (0.5, 0.15, 0.5, 10),
    "oc22": (0.5, 0.15, 0.5, 25),
    "md17": (0.25, 0.05, 0.25, 5),
    "md17_low": (0.125, 0.025, 0.25, 5),
}


@pytest.mark.parametrize("name", PRESETS)
def test_denoising_has_the_published_numbers(name):
    dens = built("dens", name)
    assert (dens.prob, dens.sigma_high, dens.ratio, dens.coefficient) == PRESETS[name]
    molecules = name.startswith("md17")
    assert dens.decay == ("linear" if molecules else "none")
    assert dens.reduction == ("separate" if molecules else "joint")
    assert dens.force_scale == pytest.approx(1 / 0.0433641 if molecules else 1.0, rel=1e-6)
    scales = (0.01, 50) if name == "v1_multiscale" else (None, 1)
    assert (dens.sigma_low, dens.num_sigmas) == scales
    limits = (2.5, 0.75) if name == "v3" else (None, None)
    assert (dens.max_force, dens.max_ratio) == limits
    assert dens.coin == "structure"
    assert dens.encode_fixed == name.startswith("oc20")
    assert dens.dynamics == (name != "oc20_all_md")
    assert dens.graph == "rebuild"


# epochs, lr, lowest lr, warm-up epochs and factor, batch, weight decay, clipping, EMA
RECIPES = {
    "dens_oc20": (12, 2e-4, 2e-6, 0.1, 0.2, 64, 1e-3, 100.0, 0.999),
    "dens_oc20_20": (20, 4e-4, 4e-6, 0.1, 0.2, 128, 1e-3, 100.0, 0.999),  # inferred
    "dens_oc20_30": (30, 4e-4, 4e-6, 0.1, 0.2, 128, 1e-3, 100.0, 0.999),
    "dens_oc20_all_md": (2, 4e-4, 4e-6, 0.01, 0.2, 512, 1e-3, 100.0, 0.999),
    "dens_oc20_all_md_1": (1, 4e-4, 4e-6, 0.01, 0.2, 512, 1e-3, 100.0, 0.999),
    "dens_oc22": (6, 2e-4, 2e-6, 0.1, 0.2, 128, 1e-3, 50.0, 0.999),
    "dens_md17": (1500, 5e-4, 1e-6, 10, 0.002, 8, 1e-6, None, None),
    "dens_md17_l3": (2000, 2e-4, 1e-6, 10, 0.005, 5, 1e-6, None, None),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_published_numbers(name):
    epochs, lr, lowest, warmup, factor, batch, decay, clip, ema = RECIPES[name]
    recipe = built("optim", name)
    optimizer = recipe.new_optimizer(torch.nn.Linear(2, 2))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == lr
    assert optimizer.defaults["weight_decay"] == decay
    assert lr * recipe.schedule(1.0) == pytest.approx(lowest)
    assert recipe.schedule.warmup * epochs == pytest.approx(warmup, rel=1e-5)
    assert recipe.schedule(0.0) == pytest.approx(factor)
    assert (recipe.batch_size, recipe.clip_norm, recipe.ema_decay) == (batch, clip, ema)
    assert not recipe.decay_all  # the released codes spare biases and norms


def test_escn_has_its_released_recipe():
    recipe = built("optim", "dens_escn")
    optimizer = recipe.new_optimizer(torch.nn.Linear(2, 2))
    assert optimizer.defaults["amsgrad"]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (8e-4, 0.01)
    factors = [recipe.schedule(epoch / 20) for epoch in (0.01, 11.6, 11.7, 15.0, 18.3)]
    assert factors == pytest.approx([1, 1, 0.3, 0.09, 0.027])
    assert (recipe.batch_size, recipe.clip_norm, recipe.ema_decay) == (96, 100.0, 0.999)


# λ_E, λ_F, mean and spread of energies, spread of forces
TASKS = {
    "s2ef_oc20": (2, 100, -0.7554450631141663, 2.887317180633545, 2.887317180633545),
    "s2ef_oc22": (4, 100, 0.0, 25.119809935106424, 0.14759646356105804),
}


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_normalised_with_the_published_statistics(name):
    task = built("task", name)
    assert (*task.coefficients.values(), *task.normalizer.given) == TASKS[name]
    assert not task.normalizer.needs_fit


def test_md17_normalises_forces_with_the_spread_of_the_training_energies():
    task = built("task", "s2ef_md17")
    assert task.coefficients == {"energy": 1, "forces": 80}
    assert task.normalizer.given == (None, None, "energy")


# p_DeNS, σ, λ_E, λ_F of DeNS (Table 9); λ_F of L3 without it; learning rates of L2 and L3
MOLECULES = {
    "aspirin": (0.25, 0.05, 1, 80, 100, 5e-4, 2e-4),
    "benzene": (0.25, 0.05, 1, 80, 80, 1e-4, 1e-4),
    "benzene2017": (0.25, 0.05, 1, 80, 80, 1e-4, 1e-4),
    "ethanol": (0.25, 0.05, 1, 80, 80, 5e-4, 2e-4),
    "malonaldehyde": (0.25, 0.05, 1, 100, 100, 5e-4, 2e-4),
    "naphthalene": (0.25, 0.05, 2, 20, 100, 5e-4, 2e-4),
    "salicylic": (0.125, 0.025, 1, 80, 100, 5e-4, 2e-4),
    "toluene": (0.125, 0.025, 1, 80, 100, 5e-4, 2e-4),
    "uracil": (0.25, 0.05, 1, 20, 100, 5e-4, 2e-4),
}


@pytest.mark.parametrize("molecule", MOLECULES)
def test_a_molecule_of_md17_brings_its_settings(molecule):
    prob, sigma, energy, forces, forces_l3, lr, lr_l3 = MOLECULES[molecule]
    choices = ["data=md17", f"data.molecule={molecule}", "dens=md17", "optim=dens_md17"]
    dens = plain(choices, "dens")
    assert (dens["prob"], dens["sigma_high"]) == (prob, sigma)
    task, optim = plain([*choices, "task=s2ef_md17"], "task"), plain(choices, "optim")
    assert (task["energy_coefficient"], task["forces_coefficient"]) == (energy, forces)
    assert optim["optimizer"]["lr"] == lr
    assert lr * optim["schedule"]["warmup_factor"] == pytest.approx(1e-6)
    assert lr * optim["schedule"]["min_factor"] == pytest.approx(1e-6)
    choices = [*choices[:2], "task=s2ef_md17_l3", "optim=dens_md17_l3"]
    task = plain(choices, "task")
    assert (task["energy_coefficient"], task["forces_coefficient"]) == (1, forces_l3)
    assert plain(choices, "optim")["optimizer"]["lr"] == lr_l3


def test_without_a_molecule_the_settings_are_those_of_most():
    dens = plain(["dens=md17"], "dens")
    assert (dens["prob"], dens["sigma_high"]) == (0.25, 0.05)
    assert plain(["optim=dens_md17"], "optim")["optimizer"]["lr"] == 5e-4
