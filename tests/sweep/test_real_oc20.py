"""`sweeps/forcenet/real_oc20_mini.yaml`: systems are held apart, and nothing is chosen on them."""

import numpy as np
import pytest

from atomsweep.build import UserError, data_source
from atomsweep.launch.compose import cell_of
from atomsweep.sweep.file import read_sweep
from atomsweep.sweep.grid import grid
from tests.contracts.compose import CONF, compose_with_choices
from tests.data.formats.relaxations import SIDS, arrays

FILE = CONF.parent / "sweeps/forcenet/real_oc20_mini.yaml"


def cells(**typed):
    typed = {key.replace("__", "."): [f"{key.replace('__', '.')}={v}"] for key, v in typed.items()}
    wanted = grid(typed, read_sweep(FILE), "forcenet/real_oc20_mini").cells
    return [cell_of(*compose_with_choices(o), o, label) for o, label in wanted]


def held_apart(cell):
    source = data_source(cell.config)
    split = {name: source.split(name) for name in source.splits()}
    return {name: {one.sid for one in dataset} for name, dataset in split.items()}


def test_each_seed_holds_other_systems_apart_the_same_for_every_model(tmp_path, monkeypatch):
    np.savez(tmp_path / "oc20_relaxations.npz", **arrays())
    monkeypatch.setenv("ATOMSWEEP_DATA", str(tmp_path))
    found = {}
    for cell in cells():
        systems = held_apart(cell)
        assert set(systems) == {"train", "val_id"}
        assert systems["train"] | systems["val_id"] == set(SIDS)
        assert not systems["train"] & systems["val_id"]
        found.setdefault(cell.config["seed"], set()).add(frozenset(systems["val_id"]))
    assert {len(one) for one in found.values()} == {1}
    assert len(set.union(*found.values())) > 1


def test_nothing_is_chosen_on_what_is_held_apart(tmp_path, monkeypatch):
    np.savez(tmp_path / "oc20_relaxations.npz", **arrays())
    monkeypatch.setenv("ATOMSWEEP_DATA", str(tmp_path))
    for cell in cells(engine__steps=70):
        assert cell.config["engine"]["eval_every"] == cell.config["engine"]["steps"] == 70


def test_the_file_may_be_typed_and_is_asked_for_where_it_is_not_there(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **arrays())
    monkeypatch.setenv("ATOMSWEEP_DATA", str(tmp_path))
    path = str(tmp_path / "mine.npz")
    typed = cells(data="flat_npz", data__path=path)
    assert {cell.config["data"]["path"] for cell in typed} == {path}
    with pytest.raises(UserError, match=r"oc20_relaxations\.npz"):
        cells()
