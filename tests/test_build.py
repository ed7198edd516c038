import pytest

from atomsweep.build import UserError, build

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
