import json
import re
import shutil

import pytest
import torch
import yaml

import atomsweep
from atomsweep.build import PLUGINS, UserError, _part, build, plugins
from atomsweep.tracking.identity import identity, science
from tests.places import CONF, REPOSITORY

RECIPE = {
    "_target_": "atomsweep.engine.optim.Recipe",
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
    "schedule": {"_target_": "atomsweep.engine.optim.Cosine", "warmup": 0.1},
    "batch_size": 8,
}


def test_a_node_becomes_its_object_with_its_parts():
    recipe = build(RECIPE, "optim")
    assert recipe.batch_size == 8
    assert recipe.schedule(0.1) == 1.0
    assert recipe.optimizer.keywords == {"lr": 1e-3}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_sise": 8}, "optim.batch_sise is unknown .*; did you mean optim.batch_size"),
        ({"batch_size": "eight"}, "optim.batch_size must be int, got 'eight'"),
        ({"batch_size": 8.5}, "optim.batch_size must be int, got 8.5"),
        ({"batch_size": True}, "optim.batch_size must be int, got True"),
        ({"batch_size": 0}, "at least 1"),
        ({"schedule": {"_target_": "os.system", "command": "true"}}, "optim.schedule._target_"),
        ({"schedule": {"_target_": "atomsweep.nn.no.such.Thing"}}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        build(RECIPE | change, "optim")
    assert "\n" not in str(error.value)


SHELL = {"_target_": "atomsweep.tracking.environment._git", "_args_": [["."], "status"]}
HOSTILE = {
    "arguments by place": {"_target_": "torch.nn.Identity", "_args_": [SHELL]},
    "arguments by place of a part": {"_target_": "torch.nn.ReLU", "_args_": [SHELL]},
    "a function in a list": [{"_target_": "torch.nn.ReLU"}, SHELL],
    "a list in a list": {"a": [[{"b": SHELL}]]},
    "a command": {"_target_": "atomsweep.cli.main.main", "arguments": ["retry", "x"]},
    "the old command": {"_target_": "atomsweep.__main__.main", "arguments": ["retry", "x"]},
    "a function of a room of parts": {"_target_": "atomsweep.nn.mlp.make_mlp"},
    "a partial function": {"_target_": "atomsweep.launch.control.cancel", "_partial_": True},
    "a writer": {"_target_": "atomsweep.data.store.writer.StoreWriter", "path": "x"},
    "a module inside a part": {"_target_": "atomsweep.nn.basis.torch.nn.Identity"},
    "what a part has imported": {"_target_": "atomsweep.models.base.torch.hub.load"},
    "a container of torch": {"_target_": "torch.nn.Sequential"},
    "a function of torch": {"_target_": "torch.nn.init.zeros_"},
    "code of torch": {"_target_": "torch.nn.modules.module.Module"},
    "a mode": {"_target_": "torch.nn.ReLU", "_mode_": "call"},
    "recursion": {"_target_": "torch.nn.ReLU", "_recursive_": False},
    "conversion": {"_target_": "torch.nn.ReLU", "_convert_": "none"},
    "a partial that is no boolean": {"_target_": "torch.nn.ReLU", "_partial_": "yes"},
    "a key without a target": {"_args_": [1]},
    "a target that is no name": {"_target_": ["os.system"]},
}


@pytest.mark.parametrize("node", HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_is_a_program_is_refused_before_anything_is_called(node, monkeypatch):
    called = []
    monkeypatch.setattr("subprocess.run", lambda *a, **k: called.append(a))
    with pytest.raises(UserError) as error:
        build({"part": node}, "task")
    assert "\n" not in str(error.value)
    assert called == []


def test_every_target_of_conf_is_a_part():
    found = {}
    for path in CONF.rglob("*.yaml"):
        for name in re.findall(r"_target_: *([\w.]+)", path.read_text()):
            found.setdefault(name, path)
    parts = {n for n in found if not n.startswith("hydra_plugins.")}  # Hydra's own to build
    assert len(parts) > 40
    for name in parts:
        _part(name, str(found[name]))


def test_no_part_runs_what_it_is_given_when_it_is_built_from_a_run_of_elsewhere(tmp_path):
    """A run directory that was copied here, its task a program."""
    run = next((REPOSITORY / "tests" / "kept" / "version_1" / "runs").glob("*swish*"))
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["task"] = {"_target_": "torch.nn.Identity", "_args_": [SHELL]}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="is not the config that run .* was made of"):
        atomsweep.load(copy)
    about = json.loads((copy / "run.json").read_text())  # whoever sends it can make it fit
    about["identity"] = identity(science(config, about["data"]["fingerprint"]))
    (copy / "run.json").write_text(json.dumps(about))
    state = torch.load(copy / "checkpoints" / "best.pt", weights_only=True)
    torch.save({**state, "identity": about["identity"]}, copy / "checkpoints" / "best.pt")
    with pytest.raises(UserError, match=r"task\._args_ is no key of a config"):
        atomsweep.load(copy)


def test_a_missing_argument_is_named():
    node = {key: value for key, value in RECIPE.items() if key != "batch_size"}
    with pytest.raises(UserError, match="optim.batch_size is missing"):
        build(node, "optim")


def test_an_integer_passes_for_a_float_and_null_for_an_optional():
    recipe = build(RECIPE | {"clip_norm": 10, "ema_decay": None}, "optim")
    assert recipe.clip_norm == 10
    assert recipe.ema_decay is None


def test_nothing_is_built_from_null():
    assert build(None, "augmentation") is None


@pytest.fixture
def somelab(tmp_path, monkeypatch):
    """A package outside, which can be imported and which nobody has said to trust."""
    (tmp_path / "somelab").mkdir()
    (tmp_path / "somelab" / "__init__.py").write_text(
        "import os\nclass Part:\n    def __init__(self, size: int) -> None: self.size = size\n"
    )
    (tmp_path / "somelab" / "broken.py").write_text("import nothing_like_it\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(PLUGINS, raising=False)


@pytest.mark.usefixtures("somelab")
def test_a_package_outside_is_built_from_only_if_the_environment_names_it(monkeypatch):
    node = {"_target_": "somelab.Part", "size": 3}
    with pytest.raises(
        UserError, match=r"model._target_ must name a part.* ATOMSWEEP_PLUGINS=somelab"
    ):
        build(node, "model")
    monkeypatch.setenv(PLUGINS, "somelab")
    assert build(node, "model").size == 3
    with pytest.raises(UserError, match="model.size must be int"):
        build(node | {"size": "big"}, "model")
    with pytest.raises(UserError, match="does not exist"):
        build({"_target_": "somelab.os.system", "command": "true"}, "model")
    with pytest.raises(UserError, match="cannot be imported: .*nothing_like_it"):
        build({"_target_": "somelab.broken.Part"}, "model")


@pytest.mark.usefixtures("somelab")
@pytest.mark.parametrize("name", ["no_such_lab", "os", "a.b"])
def test_a_plugin_that_is_no_package_is_named(monkeypatch, name):
    monkeypatch.setenv(PLUGINS, f"somelab, {name}")
    with pytest.raises(UserError, match=f"ATOMSWEEP_PLUGINS names {name}, which is no package"):
        plugins()
