"""Configs composed once for each set of choices are those that Hydra composes one by one."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from atomsweep.launch.compose import Composer, cell_of
from atomsweep.launch.typed import vocabulary
from tests.contracts.compose import hydra_composed

CELLS = [
    ["seed=0", "optim.optimizer.lr=1e-3"],
    ["seed=1", "optim.optimizer.lr=1e-2", "+optim.optimizer.eps=1e-7"],
    ["basis=sine", "seed=1"],
    ["basis=sine", "seed=2", "model.hidden_channels=32"],
    ["experiment=forcenet", "optim.batch_size=16", "engine.steps=7"],
    ["model=gns", "size=small", "ablation=none", "optim.batch_size=${engine.steps}"],
    ["~optim.clip_norm", "seed=3"],
    ["tracking=none", "act=relu", "data=mini_oc_tiny", "data.name=x"],
]


@pytest.fixture(scope="module")
def composed():
    """How often Hydra was asked, and a composer that asks it."""
    asked = []

    def compose(overrides):
        asked.append(overrides)
        return hydra_composed(overrides)

    return asked, Composer(compose, vocabulary().groups)


@pytest.mark.parametrize("overrides", CELLS, ids=" ".join)
def test_a_config_is_that_of_hydra(composed, overrides):
    _, composer = composed
    config, choices = composer(overrides)
    reference = hydra_composed(overrides)
    expected = dict(reference.hydra.runtime.choices)
    keys = [key for key in reference if key != "hydra"]
    reference = OmegaConf.masked_copy(reference, keys)
    assert OmegaConf.to_container(config) == OmegaConf.to_container(reference)
    assert choices == expected


def test_cells_of_the_same_choices_are_composed_once_and_share_nothing(composed):
    asked, composer = composed
    before = len(asked)
    cells = [
        cell_of(*composer(words), words)
        for words in ([f"seed={n}", "data=mini_oc_tiny", "act=tanh"] for n in range(5))
    ]
    assert len(asked) == before + 1
    assert [cell.config["seed"] for cell in cells] == [0, 1, 2, 3, 4]
    assert len({cell.identity for cell in cells}) == 5
    config, _ = composer(["act=tanh", "data=mini_oc_tiny"])
    assert config.seed == 0


def test_a_key_that_nothing_has_is_refused_on_a_copy_too(composed):
    _, composer = composed
    with pytest.raises(HydraException, match="Could not override 'optim.nothing'"):
        composer(["optim.nothing=1"])
