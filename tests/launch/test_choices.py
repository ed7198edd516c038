"""Files of options that are kept give the configs, and the refusals, of Hydra's own loader."""

import re
from pathlib import Path

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atomsweep.launch.choices import Choices
from atomsweep.launch.typed import CONFIG, make_loader
from tests.contracts.params import first


@pytest.fixture(scope="module")
def choices():
    return Choices(make_loader())


def by_hydra(overrides):
    whole = make_loader().load_configuration(CONFIG, overrides, RunMode.RUN)
    chosen = {k: v for k, v in whole.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    return {key: whole._get_node(key) for key in whole if key != "hydra"}, chosen


def plain(nodes):
    return OmegaConf.to_yaml(OmegaConf.create(dict(nodes)))


def of(config):
    return {key: config._get_node(key) for key in config}


def test_the_same_choices_twice_are_equal_and_share_nothing(choices):
    first, chosen = choices(["experiment=forcenet"])
    expected, of_hydra = by_hydra(["experiment=forcenet"])
    assert plain(of(first)) == plain(expected)
    assert chosen == of_hydra
    OmegaConf.set_struct(first, False)
    for key in list(first):
        first[key] = {"changed": 1}
    again, _ = choices(["experiment=forcenet"])
    assert plain(of(again)) == plain(expected)


@pytest.mark.parametrize(
    "wrong",
    first(
        4,
        [
            ["basis=cosine"],
            ["nothing=1"],
            ["model=gns", "model.nothing=1"],
            ["~basis", "~basis.nothing"],
            ["~model=gns"],
            ["basis=sph,sine"],
            ["basis=3"],
            ["+basis=sine"],
            ["basis@elsewhere=sine"],
            ["+basis@elsewhere=sine", "+seed=1"],
            ["hydra.nothing=1"],
            ["hydra/launcher=nothing"],
        ],
    ),
    ids=" ".join,
)
def test_what_hydra_refuses_is_refused_in_its_words(choices, wrong):
    with pytest.raises((HydraException, ValueError)) as of_hydra:
        by_hydra(wrong)
    with pytest.raises(type(of_hydra.value), match=re.escape(str(of_hydra.value))):
        choices(wrong)
    assert choices(["basis=sine"])[1]["basis"] == "sine"  # the next is as any other


def test_options_of_another_folder_and_settings_of_hydra(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /basis: sine\n  - override /hydra/launcher: basic\n"
        "seed: 7\nhydra: {verbose: true}\n"
    )
    there = f"hydra.searchpath=[{tmp_path}]"
    expected, chosen = by_hydra([there, "experiment=mine"])
    assert (chosen["basis"], expected["seed"]) == ("sine", 7)
    for choices, words in [
        (Choices(make_loader(), [there]), ["experiment=mine"]),
        (Choices(make_loader()), [there, "experiment=mine"]),
    ]:
        config, found = choices(words)
        assert plain(of(config)) == plain(expected)
        found = {key: v for key, v in found.items() if not key.startswith("hydra/")}
        assert found == chosen


def test_a_file_is_read_once(choices, monkeypatch):
    choices(["basis=sph", "act=relu"])
    choices(["basis=sine", "act=tanh"])
    read = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: read.append(file) or load(file))
    choices(["basis=sph", "act=tanh"])
    assert read == []
    choices(["basis=gauss", "act=tanh"])
    assert [Path(file.name).stem for file in read] == ["gauss"]
