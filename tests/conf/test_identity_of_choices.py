"""What can be typed and what it does to the identity of a run, on the composed config."""

import pytest

from atomsweep.launch.compose import cell_of
from tests.contracts.compose import compose_with_choices


def identity(*overrides):
    return cell_of(*compose_with_choices(list(overrides)), overrides).identity


@pytest.fixture(scope="module")
def plain():
    return identity()


@pytest.mark.parametrize(
    "override",
    [
        "root=/elsewhere",
        "data.root=/elsewhere",
        "data.workers=3",
        "tracking=none",
        "tracking.uri=http://host:5000",
        "cluster.parallel=7",
        "cluster.ranks=4",
        "cluster=slurm_cpu",
        "engine.workers=3",
        "engine.device=cuda",
        "engine.threads=8",
        "engine.eval_batch_size=1",
        "engine.checkpoint_every=1",
        "engine.log_every=1",
        "sweep=name",
        "plan=true",
        "rerun=all",
        "scale=paper",
        "engine.steps=1.5e3",
        "basis=sph",
        "+model.an_option_to_come=null",
    ],
)
def test_how_a_run_is_made_leaves_its_identity(plain, override):
    assert identity(override) == plain


@pytest.mark.parametrize(
    "override",
    [
        "model=gns",
        "model.hidden_channels=32",
        "basis=sine",
        "act=relu",
        "ablation=no_self_message",
        "augmentation=none",
        "task.fixed_weight=1",
        "optim=forcenet",
        "optim.batch_size=9",
        "engine.steps=3001",
        "engine.precision=bf16",
        "data=mini_oc_tiny",
        "data.seed=1",
        "seed=1",
        "+model.an_option_to_come=1",
    ],
)
def test_what_changes_the_science_changes_the_identity(plain, override):
    assert identity(override) != plain


def test_an_experiment_is_the_choices_that_it_makes():
    choices = ["model=forcenet", "basis=sph", "act=swish", "augmentation=rotate_z"]
    choices += ["optim=forcenet", "engine=gpu"]
    values = ["engine.steps=500000", "engine.eval_every=10000", "engine.log_every=100"]
    assert identity("experiment=forcenet") == identity(*choices, *values)


def science(*overrides):
    return cell_of(*compose_with_choices(list(overrides)), overrides).science


def test_switches_that_came_later_are_no_part_of_a_run_that_does_not_use_them():
    """Runs of before have no such key; theirs is the identity of the default."""
    model = ["model=dimenet_pp"]
    plain = science(*model)["model"]
    assert not {"detached_angles", "lin_up_bias"} & set(plain)
    both = science(*model, "model.detached_angles=true", "model.lin_up_bias=true")["model"]
    assert both == {**plain, "detached_angles": True, "lin_up_bias": True}
    dens = ["model=equiformer_v2_small", "task=s2ef", "augmentation=none"]
    assert "dynamics" not in science(*dens, "dens=oc20")["dens"]
    assert science(*dens, "dens=oc20_all_md")["dens"]["dynamics"] is False
