"""Each model has its sizes side by side, and `size=` chooses among them."""

import re

import pytest
import torch
import yaml

from atomsweep.build import UserError, build_learner
from atomsweep.launch.compose import cell_of
from atomsweep.launch.preflight import preflight
from hydra_plugins.atomsweep.sizes import of_size
from tests.contracts.compose import CONF, compose, compose_with_choices

FILES = {path.stem: path.read_text() for path in sorted((CONF / "model").glob("*.yaml"))}
OF_ONE_SIZE = {"forcenet_small": "forcenet", "escn_small": "escn", "equiformer_v2_small": None}
SIZED = sorted(FILES.keys() - OF_ONE_SIZE.keys() - {"median"})


def config(*overrides):
    return cell_of(*compose_with_choices(list(overrides)), overrides).config


def sizes_of(name):
    return [config(f"model={name}", f"size={size}") for size in ("published", "small")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZED)
def test_small_models_have_fewer_parameters_and_the_same_parts(name):
    published, small = sizes_of(name)
    assert list(published["model"]) == list(small["model"])
    assert published["model"]["_target_"] == small["model"]["_target_"]
    if name == "egnn_72k":  # small as it is, on a smaller graph
        assert preflight(small) == preflight(published)
        assert small["model"]["cutoff"] < published["model"]["cutoff"]
    else:
        assert preflight(small) < 0.05 * preflight(published)


@pytest.mark.parametrize("name", sorted(FILES.keys() - set(SIZED)))
def test_a_model_of_one_size_is_the_same_in_both_and_only_its_task_starts_otherwise(name):
    published, small = sizes_of(name)
    assert (published["task"].pop("squared_until"), small["task"].pop("squared_until")) == (
        None,
        0.3,
    )
    assert published == small


@pytest.mark.parametrize(("name", "of"), [(a, b) for a, b in OF_ONE_SIZE.items() if b is not None])
def test_a_model_named_small_is_the_small_size_of_another(name, of):
    assert config(f"model={name}")["model"] == config(f"model={of}", "size=small")["model"]


@pytest.mark.parametrize("name", FILES)
def test_every_sized_value_has_one_for_each_size_and_they_differ(name):
    sizes = [yaml.safe_load(path.read_text()) for path in CONF.glob("size/*.yaml")]
    columns = sorted(size["column"] for size in sizes)
    assert columns == list(range(len(columns)))
    for line in re.findall(r".*\$\{size:.*", FILES[name]):
        values = re.findall(r"\[[^]]*\]|[^\s,]+", re.search(r"\$\{size:([^}]*)\}", line)[1])
        assert len(values) == len(set(values)) == len(columns), line


@pytest.mark.parametrize("size", ["published", "small"])
def test_what_is_typed_stands_before_every_size(size):
    typed = ["model.channels=[8,4,2]", "model.num_layers=1"]
    model = config("model=equiformer_l2", f"size={size}", *typed)["model"]
    assert (model["channels"], model["num_layers"]) == ([8, 4, 2], 1)


def test_the_size_itself_is_no_part_of_a_config():
    assert config("model=gns", "size=small")["size"] == {}


def test_a_size_without_a_value_is_refused_with_the_values_there_are():
    with pytest.raises(UserError, match=r"no value for this size in \$\{size:7\}"):
        config("model.num_layers=${size:7}", "size=small")
    with pytest.raises(ValueError, match=r"in \$\{size:5, 3\}"):
        of_size(5, 3, _root_=compose(["size.column=2"]))


def test_a_group_is_a_folder_of_files_so_that_help_lists_each_choice_once():
    groups = [path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
    assert [inner for group in groups for inner in group.iterdir() if inner.is_dir()] == []


def test_a_plan_counts_parameters_as_papers_do_with_those_that_nothing_reads():
    """3 500 609 is what the log of Equiformer's authors prints (conf/model/equiformer_l2.yaml)."""
    with torch.device("meta"):
        model = build_learner(made := config("model=equiformer_l2"))[0]
    assert preflight(made) == 3_500_609 == sum(p.numel() for p in model.parameters())
    assert not all(p.requires_grad for p in model.parameters())
