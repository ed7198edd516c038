import json
import re

import pytest

from atomsweep import classes
from atomsweep.tracking import identity as module
from atomsweep.tracking.files import read_yaml
from atomsweep.tracking.identity import former_identities, identity, science
from tests.places import CONF

CONFIG = {
    "model": {
        "_target_": "atomsweep.models.forcenet.ForceNet",
        "hidden_channels": 512,
        "basis": {"_target_": "atomsweep.nn.basis.SphericalBasis", "_partial_": True, "l_max": 3},
    },
    "basis": {"_target_": "atomsweep.nn.basis.SphericalBasis", "_partial_": True, "l_max": 3},
    "act": {"_target_": "torch.nn.SiLU", "_partial_": True},
    "augmentation": None,
    "dens": None,
    "task": {"_target_": "atomsweep.tasks.s2f.S2F", "fixed_weight": 0.05},
    "data": {"root": "datasets", "seed": 0},
    "optim": {"optimizer": {"lr": 5e-4}, "schedule": {"milestones": [0.5, 0.6]}, "clip_norm": None},
    "engine": {
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "steps": 1600,
        "epochs": None,
        "eval_every": 200,
        "eval_batch_size": 32,
        "metric": "val_id/forces_mae",
        "checkpoint_every": 100,
        "log_every": 20,
    },
    "tracking": {"uri": "sqlite:///runs/mlflow.db"},
    "cluster": {"parallel": None},
    "seed": 0,
    "root": "runs",
    "sweep": None,
}


def of(config=CONFIG, fingerprint="f0", **changes):
    return identity(science(_with(config, changes), fingerprint))


def _with(config, changes):
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        *groups, last = key.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {}) if node.get(group) is None else node[group]
        node[last] = value
    return config


def test_identity_is_twelve_hex_digits_that_never_change():
    # A change of this value makes every existing run a stranger: raise IDENTITY_VERSION knowingly
    assert of() == "9c6bc1cfe6c0"
    assert identity(science(CONFIG, "f0"), version=1) == "7442d9599fa3"
    assert former_identities(science(CONFIG, "f0")) == ("7442d9599fa3",)


def test_a_class_that_moves_or_is_renamed_keeps_the_identity(monkeypatch):
    now = "atomsweep.tasks.forces.ForcesOnly"
    monkeypatch.setattr(classes, "FORMER", {now: ("atomsweep.tasks.s2f.S2F", "atomsweep.b.Forces")})
    monkeypatch.setattr(classes, "_PRESENT", dict.fromkeys(classes.FORMER[now], now))
    for path in (now, "atomsweep.tasks.s2f.S2F", "atomsweep.b.Forces"):
        moved = science(_with(CONFIG, {"task___target_": path}), "f0")
        assert classes.present_path(path) == now
        assert identity(moved) == of()
        assert former_identities(moved) == ("7442d9599fa3",)
    assert of(task___target_="atomsweep.tasks.s2ef.S2EF") != of()


def test_names_of_our_parts_are_unique_and_those_of_conf_are_named():
    names = [path.rpartition(".")[2] for path in classes.NAMED]
    assert len(set(names)) == len(names) == 30
    found = set()
    for path in CONF.rglob("*.yaml"):
        if path.parent.name not in ("data", "cluster"):  # these are not hashed
            found |= set(re.findall(r"_target_: *(atomsweep\.\S+)", path.read_text()))
    assert {classes.first_path(target) for target in found} == classes.NAMED


def test_a_copy_of_a_class_in_another_file_is_another_one():
    copied = "atomsweep.models.forcenet_mine.ForceNet"
    assert of(model___target_=copied) != of()
    assert of(model___target_="mylab.ForceNet") != of(model___target_=copied)


def test_no_class_is_its_own_former_self():
    for present, formers in classes.FORMER.items():
        assert present not in formers


@pytest.mark.parametrize(
    "change",
    [
        {"model__hidden_channels": 511},
        {"model__basis__l_max": 2},
        {"basis__l_max": 2},
        {"act___target_": "torch.nn.ReLU"},
        {"augmentation": {"_target_": "atomsweep.augment.RotateZ"}},
        {"dens": {"prob": 0.5}},
        {"task__fixed_weight": 0.0},
        {"optim__optimizer__lr": 4e-4},
        {"optim__schedule__milestones": [0.6, 0.5]},
        {"optim__clip_norm": 10},
        {"engine__steps": 1601},
        {"engine__eval_every": 100},
        {"engine__precision": "bf16"},
        {"engine__metric": "val_id/loss"},
        {"seed": 1},
        {"unheard_of": 1},
        {"engine__unheard_of": 1},
        {"fingerprint": "f1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_science_changes_the_identity(change):
    assert of(**change) != of()


@pytest.mark.parametrize(
    "change",
    [
        {"data__root": "/elsewhere"},
        {"data__workers": 8},
        {"engine__device": "cuda"},
        {"engine__threads": 64},
        {"engine__eval_batch_size": 1},
        {"engine__checkpoint_every": 1},
        {"engine__log_every": 1},
        {"tracking__uri": "http://localhost"},
        {"cluster__parallel": 4},
        {"root": "/scratch"},
        {"sweep": "table5"},
        {"ablation": {}},
        {"optim__ema_decay": None},
        {"engine__new": {"nothing": None}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_neutral_leaves_the_identity(change):
    assert of(**change) == of()


def test_every_neutral_key_is_neutral_and_has_a_reason():
    for key, reason in module.NEUTRAL_KEYS.items():
        assert of(**{key.replace(".", "__"): {"anything": 1}}) == of(), key
        assert reason


def test_order_of_keys_is_irrelevant():
    backwards = dict(reversed(CONFIG.items())) | {
        "engine": dict(reversed(CONFIG["engine"].items()))
    }
    assert of(backwards) == of()


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (0.0, -0.0), (1e-3, 0.001), ("1e-3", 0.001), (1e20, 10**20), ("1E3", 1000)],
)
def test_spellings_of_one_number_are_one_value(one, other):
    assert of(model__x=one) == of(model__x=other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), ("1", 1), (0.1, 0.1000001), (1, [1]), ("a", "A"), ("none", None)],
)
def test_different_values_stay_different(one, other):
    assert of(model__x=one) != of(model__x=other)


def test_non_finite_numbers_are_told_apart():
    values = [float("inf"), float("-inf"), float("nan")]
    assert len({of(model__x=value) for value in values}) == 3
    assert of(model__x=float("nan")) == of(model__x=float("nan"))


def test_yaml_text_and_composed_config_have_one_identity():
    text = "optim: {lr: 1e-3, steps: 1e5}\nseed: 0\n"
    assert of(read_yaml(text)) == of({"optim": {"lr": 0.001, "steps": 100000}, "seed": 0})


def test_option_added_later_keeps_old_identities_at_its_neutral_default():
    table = {"model.dropout": 0.0}
    old = identity(science(CONFIG, "f0", table))
    for spelling in (0, 0.0, -0.0):
        new = _with(CONFIG, {"model__dropout": spelling})
        assert identity(science(new, "f0", table)) == old == of()
    changed = _with(CONFIG, {"model__dropout": 0.1})
    assert identity(science(changed, "f0", table)) != old
    assert identity(science(_with(CONFIG, {"model__dropout": False}), "f0", table)) != old


def test_identity_of_science_read_back_from_json_is_the_same():
    kept = science(CONFIG, "f0")
    assert identity(json.loads(json.dumps(kept))) == identity(kept) == of()


def test_data_counts_only_by_its_fingerprint():
    assert science(CONFIG, "f0")["data"] == {"fingerprint": "f0"}


def test_version_is_part_of_the_identity(monkeypatch):
    monkeypatch.setattr(module, "_CLASS", dict.fromkeys(range(1, 4), classes.class_name))
    found = {identity(science(CONFIG, "f0"), version) for version in (1, 2, 3)}
    assert len(found) == 3


def test_value_that_is_no_plain_data_is_named():
    with pytest.raises(TypeError, match=r"model\.x\[1\].*got object"):
        science({"model": {"x": [1, object()]}}, "f0")


def test_empty_fingerprint_is_refused():
    with pytest.raises(ValueError, match="data_fingerprint"):
        science(CONFIG, "")
