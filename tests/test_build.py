import pytest

from atomsweep.build import PLUGINS, UserError, build, plugins

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
        ({"batch_sise": 8}, "optim.batch_sise is unknown .*; it takes optimizer, schedule"),
        ({"batch_size": "eight"}, "optim.batch_size must be int, got 'eight'"),
        ({"batch_size": 8.5}, "optim.batch_size must be int, got 8.5"),
        ({"batch_size": True}, "optim.batch_size must be int, got True"),
        ({"batch_size": 0}, "at least 1"),
        ({"schedule": {"_target_": "os.system", "command": "true"}}, "optim.schedule._target_"),
        ({"schedule": {"_target_": "atomsweep.no.such.Thing"}}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        build(RECIPE | change, "optim")
    assert "\n" not in str(error.value)


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
    with pytest.raises(UserError, match=r"model._target_ must lie .* ATOMSWEEP_PLUGINS=somelab"):
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
