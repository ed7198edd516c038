"""Relaxations of mini_oc for IS2RE: what is paired with what, and files that do not fit."""

import re
import shutil

import numpy as np
import pytest

from atomsweep.data.dataset import InMemoryDataset, RelaxedEnergies
from atomsweep.data.structure import DataError
from tests.conftest import data_source
from tests.data.store.test_dataset import random_structure, write

TINY = {"train_systems": 16, "val_systems": 4, "frames_per_system": 6}


@pytest.fixture(scope="module")
def source(mini_oc_tiny):
    return data_source("mini_oc_is2re", mini_oc_tiny.directory.parent, **TINY)


def test_an_initial_structure_has_the_relaxed_energy_of_its_own_system(source, mini_oc_tiny):
    potential = mini_oc_tiny.oracle()
    for split in source.splits():
        systems = {s["sid"] for s in source.systems() if s["split"] == split}
        ends, learnt = source.relaxations(split), source.split(split)
        assert {learnt[i].sid for i in range(len(learnt))} == systems
        assert len(learnt) == len(systems) == len(ends) / 2
        assert learnt.natoms.tolist() == [learnt[i].natoms for i in range(len(learnt))]
        for i in range(len(learnt)):
            start, end = ends[2 * i], ends[2 * i + 1]
            assert learnt[i].sid == start.sid == end.sid
            assert np.array_equal(learnt[i].pos, start.pos)
            assert not np.array_equal(start.pos, end.pos)
            assert learnt[i].energy == end.energy < start.energy
            assert learnt[i].forces is None
        drop = potential(end)[0] - potential(start)[0]  # its energies are totals
        assert learnt[i].energy == pytest.approx(start.energy + drop, abs=1e-4)


def test_no_system_is_in_two_splits_and_the_splits_are_those_of_the_frames(source, mini_oc_tiny):
    assert source.splits() == mini_oc_tiny.splits()
    of = {name: source.split(name) for name in source.splits()}
    sids = [data[i].sid for data in of.values() for i in range(len(data))]
    assert len(sids) == len(set(sids)) == len(source.systems())
    assert source.describe()["splits"]["train"]["structures"] == 16
    with pytest.raises(ValueError, match="mini_oc_is2re has the splits train, .*; got 'test'"):
        source.split("test")


def test_it_reads_the_store_of_the_frames_and_is_other_data(source, mini_oc_tiny):
    root = mini_oc_tiny.directory.parent
    assert source.directory == mini_oc_tiny.directory
    assert source.fingerprint() != mini_oc_tiny.fingerprint()
    assert source.fingerprint() == data_source("mini_oc_is2re", root / "x", **TINY).fingerprint()
    other = data_source("mini_oc_is2re", root, **{**TINY, "seed": 1})
    assert other.fingerprint() != source.fingerprint()
    assert source.label_names() == {"energy"}
    train, frames = source.split("train"), mini_oc_tiny.split("train")
    assert train.fingerprint != frames.fingerprint  # neighbour lists are kept by it
    assert train.fingerprint != source.relaxations("train").fingerprint


@pytest.fixture
def copy(tmp_path, mini_oc_tiny):
    """The data set in a place of its own, to be damaged."""
    place = tmp_path / mini_oc_tiny.directory.name
    shutil.copytree(mini_oc_tiny.directory, place)
    return place


def damaged(copy, **changes):
    return data_source("mini_oc_is2re", copy.parent, **TINY, **changes)


def test_a_missing_or_foreign_file_is_named(copy):
    (copy / "train_relaxations.lmdb").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such store.*train_relaxations\.lmdb"):
        damaged(copy).split("train")
    (copy / "val_id_relaxations.lmdb").unlink()
    (copy / "val_id_relaxations.lmdb").write_bytes(b"no store" * 1000)
    with pytest.raises(DataError, match=r"val_id_relaxations\.lmdb is not a store"):
        damaged(copy).split("val_id")


def test_a_relaxation_without_its_energy_is_named_or_skipped(copy):
    ends = [random_structure(seed) for seed in range(6)]
    for number, structure in enumerate(ends):
        structure.sid, structure.fid = number // 2, number % 2
    ends[3].energy = None
    path = copy / "train_relaxations.lmdb"
    path.unlink()
    write(path, ends)
    train = damaged(copy).split("train")
    assert train[2].energy == ends[5].energy
    with pytest.raises(DataError, match=f"2 of {re.escape(str(path))}: its relaxed end carries no"):
        train[1]
    skipping = damaged(copy, on_error="skip")
    assert [skipping.split("train")[i].sid for i in (0, 1)] == [0, 2]
    assert skipping.describe()["skipped"] == {"train": 1}


def test_files_that_hold_no_pairs_are_refused():
    frames = [random_structure(seed) for seed in range(4)]
    with pytest.raises(ValueError, match="memory holds 3 structures, not pairs"):
        RelaxedEnergies(InMemoryDataset(frames[:3]), "pairs")
    for structure, sid in zip(frames, (0, 0, 1, 2), strict=True):
        structure.sid = sid
    view = RelaxedEnergies(InMemoryDataset(frames), "pairs")
    assert view[0].energy == frames[1].energy
    with pytest.raises(DataError, match="2 of memory is of system 1 and the one after it of 2"):
        view[1]
