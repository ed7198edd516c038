import json
import zlib

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect

from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.files import FileSource
from atomsweep.data.structure import DataError
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract


def atoms_of(seed, labels=True):
    rng = np.random.default_rng(seed)
    atoms = Atoms("CuCuO", positions=rng.normal(size=(3, 3)), cell=9 * np.eye(3), pbc=True)
    atoms.set_tags([0, 1, 2])
    atoms.set_constraint(FixAtoms([0]))
    if labels:
        forces = rng.normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
    return atoms


def sqlite(path, count=8, labels=True):
    with connect(path) as database:
        for seed in range(count):
            database.write(atoms_of(seed, labels), data={"sid": seed // 2, "fid": seed})
    return path


def packed(value):
    return zlib.compress(json.dumps(value).encode())


def array(values):
    values = np.asarray(values)
    return {"__ndarray__": [list(values.shape), values.dtype.name, values.ravel().tolist()]}


def row_of(seed, **changes):
    """A row as ase-db-backends packs it."""
    atoms = atoms_of(seed)
    row = {
        "numbers": array(atoms.numbers),
        "positions": array(atoms.positions),
        "cell": array(atoms.cell.array),
        "pbc": array(atoms.pbc),
        "tags": array(atoms.get_tags()),
        "constraints": [{"name": "FixAtoms", "kwargs": {"indices": [0]}}],
        "energy": atoms.calc.results["energy"],
        "forces": array(atoms.calc.results["forces"]),
        "key_value_pairs": {"fid": seed},
        "data": {"sid": f"random{seed // 2}"},
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def aselmdb(path, rows, deleted=(), **extra):
    path.parent.mkdir(exist_ok=True)
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26)
    with env.begin(write=True) as transaction:
        for number, row in enumerate(rows, start=1):
            if number not in deleted:
                value = row if isinstance(row, bytes) else packed(row)
                transaction.put(str(number).encode(), value)
        transaction.put(b"nextid", packed(len(rows) + 1))
        transaction.put(b"deleted_ids", packed(list(deleted)))
        for key, value in extra.items():
            transaction.put(key.encode(), packed(value))
    env.close()
    return path


class TestSqlite(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        path = sqlite(tmp_path / "a.db")
        return data_source("ase_db", tmp_path / "root", path=str(path), workers=1)


class TestAseLmdb(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        path = aselmdb(tmp_path / "a.aselmdb", [row_of(seed) for seed in range(12)])
        return data_source("ase_db", tmp_path / "root", path=str(path), workers=1)


def read(path, tmp_path, **options):
    reader = AseDb(**options)
    return FileSource(reader, str(path), str(tmp_path / "root"), val_fraction=0, workers=1)


def assert_is(structure, seed):
    atoms = atoms_of(seed)
    assert np.allclose(structure.pos, atoms.positions, atol=1e-6)
    assert np.allclose(structure.forces, atoms.calc.results["forces"], atol=1e-6)
    assert structure.energy == atoms.calc.results["energy"]
    assert np.array_equal(structure.cell, atoms.cell.array)
    assert structure.tags.tolist() == [0, 1, 2]
    assert structure.fixed.tolist() == [True, False, False]
    assert (structure.sid, structure.fid) == (seed // 2, seed)


@pytest.mark.parametrize("kind", ["db", "aselmdb"])
def test_rows_are_what_was_written(tmp_path, kind):
    if kind == "db":
        path = sqlite(tmp_path / "a.db", 12)
    else:
        path = aselmdb(tmp_path / "a.aselmdb", [row_of(seed) for seed in range(12)], metadata={})
    dataset = read(path, tmp_path).split("train")
    assert len(dataset) == 12
    for seed in range(12):
        assert_is(dataset[seed], seed)


def test_deleted_rows_are_not_there(tmp_path):
    path = aselmdb(tmp_path / "a.aselmdb", [row_of(seed) for seed in range(5)], deleted=(2, 5))
    assert [s.fid for s in map(read(path, tmp_path).split("train").__getitem__, range(3))] == [
        0,
        2,
        3,
    ]


@pytest.mark.parametrize("kind", ["db", "aselmdb"])
def test_a_missing_label_is_told(tmp_path, kind):
    if kind == "db":
        path = sqlite(tmp_path / "a.db", 2, labels=False)
    else:
        path = aselmdb(tmp_path / "a.aselmdb", [row_of(0, energy=None, forces=None)])
    told = r"frame 0 of .*the row carries no energy \(named energy\) and no forces"
    with pytest.raises(DataError, match=told):
        read(path, tmp_path).prepare()
    dataset = read(path, tmp_path, labels=()).split("train")
    assert dataset[0].energy is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (row_of(1, numbers=array([29, 29, 119])), "atomic number 119"),
        (row_of(1, forces=array(np.zeros((2, 3)))), r"forces must have shape \(3, 3\)"),
        (row_of(1, energy=float("nan")), "energy is nan"),
        (row_of(1, cell=array(np.zeros((3, 3)))), "cell has no volume"),
        (row_of(1, positions=None), "the row has no positions; there is"),
        (b"\x80\x04garbage", "key 2 of .* is no packed JSON"),
        (packed([1]), "row 2 is no record"),
        (row_of(1, energy=True), "energy must be a number, got True"),
        (row_of(1, energy="-1.5 eV"), "energy must be a number"),
        (row_of(1, energy=[1.0, 2.0]), "energy must be one number"),
        (row_of(1, forces=[[True] * 3] * 3), "forces must be numbers"),
        (row_of(1, forces=[[1.0, None, 2.0]] * 3), "forces must be numbers"),
        (row_of(1, forces=[[1.0], [2.0, 3.0]]), "forces is no regular array"),
        (row_of(1, numbers=[29, 29, 8.5]), "numbers must be whole numbers, got 8.5"),
        (row_of(1, tags=[0, 1, 1.5]), "tags must be whole numbers"),
        (row_of(1, pbc="maybe"), "pbc must be three flags"),
        (row_of(1, pbc=[True, True]), "pbc must be three flags"),
        (row_of(1, cell=[5.0, 5.0, 5.0]), "a cell of 3 numbers, expected 9"),
        (row_of(1, constraints=[{"name": "FixAtoms", "kwargs": {"indices": [7]}}]), "not there"),
        (row_of(1, constraints={"name": "FixAtoms"}), "constraints that are no list"),
        (row_of(1, constraints=[3]), "no record"),
        (row_of(1, data=[1]), "data that are no record"),
        (row_of(1, positions={"__ndarray__": [[3, 3], "float64", [1.0]]}), "cannot reshape"),
        (row_of(1, positions={"__ndarray__": 3}), "the row"),
        (row_of(1, energy=10**400), "energy must be"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = aselmdb(tmp_path / "a.aselmdb", [row_of(0), row, row_of(2)])
    with pytest.raises(DataError, match=message) as error:
        read(path, tmp_path).prepare()
    assert f"frame 1 of {path}" in str(error.value)


def test_a_row_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("atomsweep.data.formats.ase_db.MAX_ROW_BYTES", 100_000)
    bomb = zlib.compress(b" " * 1_000_000)
    path = aselmdb(tmp_path / "a.aselmdb", [row_of(0), bomb])
    with pytest.raises(DataError, match="key 2 unpacks to more than 100000 bytes"):
        read(path, tmp_path).prepare()


def test_foreign_files_and_missing_shards_are_named(tmp_path):
    (tmp_path / "text.db").write_text("hello" * 1000)
    with pytest.raises(DataError, match=r"text.db is no ASE database"):
        read(tmp_path / "text.db", tmp_path).prepare()
    env = lmdb.open(str(tmp_path / "b.aselmdb"), subdir=False, lock=False)
    env.close()
    with pytest.raises(DataError, match="b.aselmdb has no key nextid"):
        read(tmp_path / "b.aselmdb", tmp_path).prepare()
    for number in (0, 2):
        aselmdb(tmp_path / "in" / f"data.{number:04d}.aselmdb", [row_of(number)])
    with pytest.raises(DataError, match=r"data.0001.aselmdb is missing"):
        read(tmp_path / "in", tmp_path).prepare()


@pytest.mark.parametrize("kind", ["db", "aselmdb"])
@pytest.mark.parametrize("place", ["key_value_pairs", "data"])
def test_labels_are_found_in_key_value_pairs_and_data(tmp_path, kind, place):
    if kind == "db":
        path = tmp_path / "a.db"
        with connect(path) as database:
            for seed in range(2):
                atoms = atoms_of(seed)
                results = atoms.calc.results
                atoms.calc = SinglePointCalculator(atoms, forces=results["forces"])
                values = {"REF_energy": results["energy"] + 1}
                database.write(
                    atoms,
                    key_value_pairs=values if place == "key_value_pairs" else {},
                    data=values if place == "data" else {},
                )
    else:
        rows = [row_of(seed, energy=None) for seed in range(2)]
        for seed, row in enumerate(rows):
            row[place] = {"REF_energy": atoms_of(seed).calc.results["energy"] + 1}
        path = aselmdb(tmp_path / "a.aselmdb", rows)
    with pytest.raises(
        DataError, match=r"no energy .*; there is .*REF_energy.* data.reader.energy_key=REF_energy"
    ):
        read(path, tmp_path).prepare()
    dataset = read(path, tmp_path, energy_key="REF_energy").split("train")
    for seed in range(2):
        assert dataset[seed].energy == atoms_of(seed).calc.results["energy"] + 1


def test_periodic_directions_and_cells_in_other_notations_are_read(tmp_path):
    cell = {"array": array(np.diag([9.0, 8, 7])), "__ase_objtype__": "cell"}
    rows = [row_of(0, pbc="TTF"), row_of(1, pbc=[1, 0, 1], cell=cell), row_of(2, pbc=None)]
    frames = list(AseDb().frames(aselmdb(tmp_path / "a.aselmdb", rows), 0, 0, None))
    assert [one.fault for one in frames] == [""] * 3
    said = [one.structure.pbc.tolist() for one in frames]
    assert said == [[True, True, False], [True, False, True], [False] * 3]
    assert frames[1].structure.cell.diagonal().tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("nextid", "deleted", "message"),
    [
        (10**15, [], "nextid 1000000000000000, but only"),
        (True, [], "no key nextid that is a number"),
        ("4", [], "no key nextid that is a number"),
        (4, {"1": 2}, "deleted_ids that are no list"),
        (4, [[1]], "deleted_ids that are no list"),
        (4, ["1"], "deleted_ids that are no list"),
    ],
)
def test_odd_counts_of_rows_are_named(tmp_path, nextid, deleted, message):
    rows = [row_of(seed) for seed in range(3)]
    path = aselmdb(tmp_path / "a.aselmdb", rows, nextid=nextid, deleted_ids=deleted)
    with pytest.raises(DataError, match=message) as error:
        read(path, tmp_path).prepare()
    assert str(path) in str(error.value)


def test_nested_rows_are_refused_not_followed(tmp_path):
    deep = zlib.compress(b'{"numbers": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    path = aselmdb(tmp_path / "a.aselmdb", [row_of(0), deep])
    with pytest.raises(DataError, match=rf"frame 1 of {path}"):
        read(path, tmp_path).prepare()
