"""One data set has one meaning: the same structures in every format give equal structures."""

import json
import zlib

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedPlane, FixScaled
from ase.db import connect
from ase.db.row import atoms2dict
from ase.io import write
from ase.io.jsonio import encode

from atomsweep.cli.data import main
from atomsweep.data.formats.known import open_files
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.structure import structure_fault

CELL = np.array([[6.0, 0, 0], [2.0, 5.0, 0], [0, 0.5, 12.0]])
CONSTRAINTS = {
    "none": ([], []),
    "FixAtoms": ([FixAtoms([0, 1])], [0, 1]),
    "FixCartesian in all directions": ([FixCartesian([0, 3])], [0, 3]),
    "FixCartesian one by one": ([FixCartesian(one) for one in (1, 2)], [1, 2]),
    "FixCartesian in two": ([FixCartesian([2], [True, True, False])], []),
    "both": ([FixAtoms([0]), FixCartesian([1], [True, False, True])], [0]),
}
NOT_IN_TEXT = {  # ASE writes these into no extended XYZ
    "FixScaled in all directions": ([FixScaled([2, 3])], [2, 3]),
    "FixScaled in one": ([FixScaled([2], [False, True, False])], []),
    "three planes": ([FixedPlane([1], axis) for axis in np.eye(3)], [1]),
    "a bond": ([FixBondLengths([[0, 1]]), FixAtoms([3])], [3]),
}
NOT_KEPT = ("FixCartesian in two", "both", "FixScaled in one", "a bond")
PERIODIC = [(True, True, True), (True, True, False), (False, False, True), (False, False, False)]


def images(constraints):
    """One frame for each way to be periodic, with forces on fixed atoms too."""
    made = []
    for seed, pbc in enumerate(PERIODIC):
        rng = np.random.default_rng(seed)
        atoms = Atoms("CuCuOH", positions=rng.normal(size=(4, 3)), cell=CELL, pbc=pbc)
        atoms.set_tags([0, 1, 2, 2])
        atoms.constraints = constraints
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(rng.normal()), forces=rng.normal(size=(4, 3))
        )
        atoms.info.update(sid=seed // 2, fid=seed)
        made.append(atoms)
    return made


def as_extxyz(path, frames):
    write(path, frames, format="extxyz")


def as_traj(path, frames):
    write(path, frames, format="traj")


def as_db(path, frames):
    with connect(path) as database:
        for atoms in frames:
            database.write(atoms, data=dict(atoms.info))


def as_aselmdb(path, frames):
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26)
    with env.begin(write=True) as transaction:
        for number, atoms in enumerate(frames, start=1):
            row = {**atoms2dict(atoms), "data": dict(atoms.info)}
            transaction.put(str(number).encode(), zlib.compress(encode(row).encode()))
        transaction.put(b"nextid", zlib.compress(json.dumps(len(frames) + 1).encode()))
    env.close()


WRITERS = {".extxyz": as_extxyz, ".traj": as_traj, ".db": as_db, ".aselmdb": as_aselmdb}


def read(path):
    reader, found = open_files(str(path), ("energy", "forces"))
    frames = list(reader.frames(found.files[0], 0, 0, None))
    assert [frame.fault for frame in frames] == [""] * len(PERIODIC)
    return frames


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", [*CONSTRAINTS, *NOT_IN_TEXT])
def test_every_format_gives_the_same_structures(tmp_path, suffix, kind):
    if suffix == ".extxyz" and kind in NOT_IN_TEXT:
        pytest.skip("ASE writes such constraints into no extended XYZ")
    constraints, fixed = {**CONSTRAINTS, **NOT_IN_TEXT}[kind]
    originals = images(constraints)
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, originals)
    rounding = 1e-8 if suffix == ".extxyz" else 0  # digits that ASE writes
    for frame, atoms in zip(read(path), originals, strict=True):
        structure = frame.structure
        assert structure_fault(structure) is None
        assert structure.atomic_numbers.tolist() == atoms.numbers.tolist()
        assert np.abs(structure.pos - atoms.positions).max() <= rounding
        assert np.array_equal(structure.cell, CELL)
        assert structure.pbc.tolist() == atoms.pbc.tolist()
        assert structure.energy == atoms.calc.results["energy"]
        assert np.abs(structure.forces - atoms.calc.results["forces"]).max() <= rounding
        assert np.flatnonzero(structure.fixed).tolist() == fixed
        assert structure.tags.tolist() == [0, 1, 2, 2]
        assert (structure.sid, structure.fid) == (atoms.info["sid"], atoms.info["fid"])
        assert bool(frame.unkept) == (kind in NOT_KEPT)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_constraint_that_is_not_kept_is_named_once_for_all_frames(
    tmp_path, suffix, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, images(CONSTRAINTS["FixCartesian in two"][0]))
    assert main(["convert", str(path), "out.lmdb", "--workers", "1"]) == 0
    name = "move_mask" if suffix == ".extxyz" else "FixCartesian"
    told = f"{name} in one or two directions (4 frames)"
    assert capsys.readouterr().err.count(told) == 1
    assert StoreDataset(tmp_path / "out.lmdb").meta["conversion"]["unkept"] == {
        f"{name} in one or two directions": 4
    }
    assert main(["describe", str(path)]) == 0
    assert capsys.readouterr().out.count(told) == 1


@pytest.mark.parametrize("suffix", [".traj", ".db", ".aselmdb"])  # of text: test_said.py
@pytest.mark.parametrize("wrong", [True, 1 + 2j, "-1.5 eV", [1.0, 2.0], {"value": 1.0}])
def test_an_energy_that_is_no_number_is_refused_in_every_format(tmp_path, suffix, wrong):
    frames = images([])
    for atoms in frames:
        atoms.info["own_energy"] = -1.5
    frames[2].info["own_energy"] = wrong
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, frames)
    reader, found = open_files(str(path), ("energy", "forces"), energy_key="own_energy")
    read_back = list(reader.frames(found.files[0], 0, 0, None))
    assert [bool(frame.fault) for frame in read_back] == [False, False, True, False]
    assert "own_energy must be" in read_back[2].fault
    assert read_back[3].structure.energy == -1.5


@pytest.mark.parametrize("suffix", WRITERS)
def test_labels_of_other_names_are_found_in_every_format(tmp_path, suffix):
    frames = images([])
    for atoms in frames:
        results = atoms.calc.results
        results["free_energy"] = results["energy"] - 0.5
        place = atoms.arrays if suffix == ".extxyz" else atoms.info
        place["own_forces"] = 2 * results["forces"]
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, frames)
    reader, found = open_files(str(path), ("energy", "forces"), None, "free_energy", "own_forces")
    for frame, atoms in zip(reader.frames(found.files[0], 0, 0, None), frames, strict=True):
        results = atoms.calc.results
        assert frame.fault == ""
        assert frame.structure.energy == results["energy"] - 0.5
        assert np.allclose(frame.structure.forces, 2 * results["forces"], atol=1e-7)
