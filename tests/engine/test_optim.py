import re

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atomsweep.build import UserError
from atomsweep.engine.optim import Cosine, Milestones, Recipe
from atomsweep.engine.sharding import load_optimizer
from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from tests.contracts.compose import compose_with_choices


def test_the_papers_schedule_halves_at_each_50_k_from_250_k_on():
    schedule = Milestones([0.5, 0.6, 0.7, 0.8, 0.9], 0.5)
    factors = [schedule(step / 500_000) for step in (0, 249_999, 250_000, 300_000, 499_999)]
    assert factors == [1.0, 1.0, 0.5, 0.25, 0.5**5]


@pytest.mark.parametrize("steps", [7, 10, 30, 49, 1000, 500_000])
def test_a_milestone_counts_from_its_own_step_on_in_spite_of_rounding(steps):
    schedule = Milestones([0.3, 0.6, 0.7], 0.5)
    for milestone, factor in ((0.3, 0.5), (0.6, 0.25), (0.7, 0.125)):
        exact = milestone * steps
        if abs(exact - round(exact)) < 1e-9:
            assert schedule(round(exact) / steps) == factor
            assert schedule((round(exact) - 1) / steps) == 2 * factor


def test_the_public_warm_up_rises_from_its_factor_to_one():
    schedule = Milestones([0.25], 0.1, warmup=0.15, warmup_factor=0.2)
    assert schedule(0.0) == pytest.approx(0.2)
    assert schedule(0.075) == pytest.approx(0.6)
    assert schedule(0.15) == 1.0
    assert schedule(0.3) == pytest.approx(0.1)


def test_the_cosine_starts_at_one_and_ends_at_its_minimum():
    schedule = Cosine(warmup=0.0, min_factor=0.01)
    assert schedule(0.0) == 1.0
    assert schedule(0.5) == pytest.approx(0.505)
    assert schedule(1.0) == pytest.approx(0.01)


@pytest.mark.parametrize("milestones", [[0.6, 0.5], [1.5], [-0.1]])
def test_milestones_that_are_no_ascending_fractions_are_refused(milestones):
    with pytest.raises(ValueError, match="ascending fractions"):
        Milestones(milestones, 0.5)


def test_the_average_follows_the_weights_by_its_decay():
    recipe = Recipe(torch.optim.SGD, Cosine(), batch_size=1, ema_decay=0.9)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = recipe.average(model)
    average.update_parameters(model)  # the first update copies
    nn.init.constant_(model.weight, 2.0)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.9 * 1.0 + 0.1 * 2.0)


def test_the_average_is_torchs_to_the_bit_continued_or_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    ours = Recipe(torch.optim.SGD, Cosine(), batch_size=1, ema_decay=0.9).average(model)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(6):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.add_(torch.randn_like(tensor))
        if step == 3:  # a process that continues
            state = ours.state_dict()
            ours = Recipe(torch.optim.SGD, Cosine(), batch_size=1, ema_decay=0.9).average(model)
            ours.load_state_dict(state)
        ours.update_parameters(model)
        theirs.update_parameters(model)
        for name, expected in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], expected), name


@pytest.mark.parametrize("there", [True, None])
def test_how_an_optimiser_computes_belongs_to_the_device_and_not_to_the_checkpoint(there):
    """A run that began on a GPU, whose Adam is fused, goes on elsewhere, or the other way."""
    weights = [nn.Parameter(torch.randn(3, 2))]
    began = torch.optim.Adam(weights, lr=0.1, fused=there)
    weights[0].grad = torch.ones(3, 2)
    began.step()
    here = torch.optim.Adam(weights, lr=0.1, fused=None if there else True)
    load_optimizer(here, began.state_dict())
    assert here.param_groups[0]["fused"] is (None if there else True)
    expected = weights[0].detach().clone()
    began.step()
    after = weights[0].detach().clone()
    weights[0].data = expected
    here.step()
    torch.testing.assert_close(weights[0].detach(), after)


def test_weight_decay_can_spare_biases_and_norms():
    class DegreeNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3, 4))

    model = nn.ModuleDict(
        {"linear": nn.Linear(2, 3), "layer": nn.LayerNorm(3), "norm": DegreeNorm()}
    )
    recipe = Recipe(
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5), Cosine(), 1, decay_all=False
    )
    optimizer = recipe.new_optimizer(model)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert found == {
        "linear.weight": 0.5,
        "linear.bias": 0.0,
        "layer.weight": 0.0,
        "layer.bias": 0.0,
        "norm.gain": 0.0,
    }
    plain = Recipe(torch.optim.AdamW, Cosine(), 1).new_optimizer(model)
    assert len(plain.param_groups) == 1


@pytest.mark.parametrize("model", ["forcenet_small", "gns", "gala"])
def test_an_average_of_weights_is_refused_where_a_norm_keeps_statistics(mini_oc_tiny, model):
    choices = [f"data.root={mini_oc_tiny.directory.parent}", "data=mini_oc_tiny", "size=small"]
    overrides = [*choices, f"model={model}", "optim.ema_decay=0.9"]
    if model == "gala":
        overrides += ["task=s2ef", "augmentation=none"]
    cell = cell_of(*compose_with_choices(overrides), overrides)
    with pytest.raises(UserError, match="keeps statistics that other weights made; set optim.ema"):
        preflight(cell.config)
    without = [o for o in overrides if "ema" not in o]
    assert preflight(cell_of(*compose_with_choices(without), without).config) > 0


def test_an_average_of_weights_is_taken_of_a_model_without_such_a_norm(mini_oc_tiny):
    overrides = [f"data.root={mini_oc_tiny.directory.parent}", "data=mini_oc_tiny", "size=small"]
    overrides += ["model=schnet", "optim.ema_decay=0.9"]
    assert preflight(cell_of(*compose_with_choices(overrides), overrides).config) > 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optim.optimizer.lr=-1", "optim.optimizer: Invalid learning rate: -1"),
        ("optim.optimizer.lr=nan", "optim.optimizer.lr must be a finite number, got nan"),
        ("optim.schedule.warmup=1.5", "optim.schedule.warmup must be a fraction in"),
        ("optim.schedule.warmup=-0.1", "optim.schedule.warmup must be a fraction in"),
        ("+optim.schedule.min_factor=-2", "optim.schedule.min_factor must not be negative"),
        ("+optim.schedule.warmup_factor=-1", "optim.schedule.warmup_factor must not be"),
        ("optim.clip_norm=inf", "optim.clip_norm must be a finite number"),
        ("engine.epochs=nan", "engine.epochs must be a finite number"),
        ("engine.epochs=-1", "a run has one budget, a positive"),
    ],
)
def test_values_out_of_range_are_refused_before_data_are_made(tmp_path, word, told):
    """The root of the data is empty, and stays so."""
    overrides = ["data=mini_oc_tiny", f"data.root={tmp_path}", word]
    overrides += ["engine.steps=null"] if "epochs" in word else []
    with pytest.raises(UserError, match=re.escape(told)):
        preflight(cell_of(*compose_with_choices(overrides), overrides).config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["warmup", "warmup_factor", "min_factor"])
def test_a_cosine_that_would_be_negative_is_refused(key):
    with pytest.raises(ValueError, match=f"optim.schedule.{key} must"):
        Cosine(**{key: -0.1})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=schnet", "model.cutoff=-1"], "model.cutoff must be positive, got -1"),
        (["model=schnet", "model.max_neighbors=0"], "model.max_neighbors must be positive"),
        (
            ["model=escn", "size=small", "augmentation=none", "model.channels=0"],
            "model.channels must be at least 1, got 0",
        ),
        (["model=forcenet_small", "basis.num_freqs=-1"], "num_freqs must be at least 1"),
        (
            ["model=escn", "size=small", "augmentation=none", "model.num_layers=0"],
            "num_layers must",
        ),
        (["data.train_systems=-1"], "data.train_systems must be at least 1, got -1"),
        (["data.vacuum=0"], "data.vacuum must be above 0, got 0"),
    ],
)
def test_sizes_that_nothing_has_are_refused_before_data_are_made(tmp_path, words, told):
    overrides = ["data=mini_oc_tiny", f"data.root={tmp_path}", *words]
    with pytest.raises(UserError, match=re.escape(told)):
        preflight(cell_of(*compose_with_choices(overrides), overrides).config)
    assert list(tmp_path.iterdir()) == []
