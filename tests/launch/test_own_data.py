"""Which task the labels of one's own data are for."""

import pytest

from atomsweep.build import UserError
from atomsweep.launch.own_data import with_task
from atomsweep.launch.typed import vocabulary
from tests.data.store.test_dataset import random_structure, write


@pytest.fixture(scope="module")
def known():
    return vocabulary()


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (["data=extxyz", "data.path=x"], True),
        (["data=ase_db", "model=schnet"], True),
        (["data=extxyz", "data.labels=[forces]"], False),
        (["data=flat_npz", "data.reader.labels=[forces,energy]"], True),
        (["data=extxyz", "task=s2f"], False),
        (["data=extxyz", "model=gns"], False),
        (["data=extxyz", "experiment=forcenet"], False),
        (["data=mini_oc"], False),
        (["data=oc20_s2ef"], False),
        (["data=extxyz,ase_db", "data.path=x"], True),
        (["data=extxyz", "model=schnet,gns"], True),  # which is refused, with what would do it
        (["data=mini_oc,oc20_s2ef"], False),
    ],
)
def test_energies_and_forces_of_ones_own_are_both_learned(words, whole, known):
    assert with_task(words, known) == [*words, *["task=s2ef"] * whole]


def test_own_data_beside_others_need_a_task_that_is_named(known):
    with pytest.raises(UserError, match="names files of your own beside .* name the task of all"):
        with_task(["data=extxyz,mini_oc"], known)
    words = ["data=extxyz,mini_oc", "task=s2f"]
    assert with_task(words, known) == words


def test_options_of_the_present_folder_say_of_themselves_what_is_learned(tmp_path, monkeypatch):
    """A model of forces alone, and data of one's own, under whatever name."""
    for group, option, base in (("model", "mine", "gns"), ("data", "ours", "ase_db")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        path = tmp_path / "conf" / group / f"{option}.yaml"
        path.write_text(f"defaults:\n  - {base}\n  - _self_\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known = vocabulary()
    assert with_task(["data=ours"], known)[1:] == ["task=s2ef"]
    assert with_task(["data=ours", "model=mine"], known)[2:] == []
    assert with_task(["data=nowhere"], known)[1:] == []


@pytest.mark.parametrize("lacking", ["energy", "forces", None])
def test_a_store_of_energies_and_forces_is_learned_whole(tmp_path, known, lacking):
    structures = [random_structure(seed) for seed in range(3)]
    for structure in structures if lacking else ():
        setattr(structure, lacking, None)
    write(tmp_path / "mine.lmdb", structures)
    words = ["data=store", f"data.path={tmp_path / 'mine.lmdb'}"]
    assert with_task(words, known) == [*words, *["task=s2ef"] * (lacking is None)]
    assert with_task(["data=store", "data.path=nowhere.lmdb"], known)[2:] == []
    assert with_task([*words, "data.relaxed_energy=true"], known)[3:] == []
    write(tmp_path / "whole.lmdb", [random_structure(seed) for seed in range(3)])
    both = ["data=store", f"data.path=[{tmp_path / 'whole.lmdb'}, '{tmp_path / 'mine.lmdb'}']"]
    if lacking is None:
        assert with_task(both, known) == [*both, "task=s2ef"]
    else:
        with pytest.raises(UserError, match="name the task of all"):
            with_task(both, known)
