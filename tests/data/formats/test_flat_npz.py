"""Relaxations in flat arrays, and splits by OC20's mapping on them."""

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest

from atomsweep.data.formats.unpickle import RefusedPickle
from atomsweep.data.npz import read_npz
from atomsweep.data.store.groups import group_names
from atomsweep.data.structure import DataError
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract
from tests.data.formats.relaxations import SIDS, SIZES, arrays


def written(path, **changes):
    np.savez(path, **{k: v for k, v in {**arrays(), **changes}.items() if v is not None})
    return str(path)


class TestFlatNPZ(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        path = written(tmp_path / "relaxations.npz")
        return data_source("flat_npz", tmp_path / "root", path=path, val_fraction=0.25)


def test_every_frame_is_what_the_arrays_say(tmp_path):
    path = written(tmp_path / "a.npz")
    dataset = data_source("flat_npz", tmp_path / "root", path=path, val_fraction=0).split("train")
    held = arrays()
    begin = 0
    for index in range(len(dataset)):
        structure, system = dataset[index], SIDS.index(held["sid"][index])
        rows = slice(begin, begin + SIZES[system])
        atoms = slice(held["sys_offset"][system], held["sys_offset"][system + 1])
        assert np.array_equal(structure.pos, held["pos"][rows])
        assert np.array_equal(structure.forces, held["forces"][rows])
        assert structure.energy == held["energy"][index]
        assert (structure.sid, structure.fid) == (held["sid"][index], held["fid"][index])
        assert np.array_equal(structure.atomic_numbers, held["sys_numbers"][atoms])
        assert np.array_equal(structure.tags, held["sys_tags"][atoms])
        assert np.array_equal(structure.fixed, held["sys_fixed"][atoms].astype(bool))
        assert np.array_equal(structure.cell, held["sys_cell"][system])
        assert structure.pbc.all()
        begin = rows.stop


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"pos": np.zeros((7, 3))},
            r"a\.npz: its frames have 60 atoms, but pos has shape \(7, 3\)",
        ),
        ({"sys_cell": np.zeros((3, 3, 3))}, r"sys_cell must have shape \(4, 3, 3\)"),
        ({"sys_offset": np.array([0, 3, 3, 9, 12])}, "sys_offset must begin with 0 and grow"),
        ({"sys_offset": np.array([0, 3, 5])}, r"sys_offset must have shape \(5,\)"),
        ({"sys_sid": np.array([70, 70, 50, 90])}, "system 70 is there twice"),
        ({"sys_sid": np.array([70, 31, 50, 90])}, "frame .* is of system 30, not in sys_sid"),
        ({"forces": None}, "no array forces"),
        ({"energy": np.array([{}] * 20)}, "Python objects"),
        ({"energy": np.full(20, np.nan)}, "frame 0 of .*a.npz: energy is nan"),
        ({"sys_numbers": np.full(12, 119, dtype="u1")}, "atomic number 119"),
        ({"sys_cell": np.zeros((4, 3, 3))}, "no volume"),
        ({"fid": np.full(20, 0.5)}, "a.npz: fid must hold whole numbers"),
        ({"sys_offset": np.arange(5) * 3.0}, "a.npz: sys_offset must hold whole numbers"),
        ({"sid": np.int64(3)}, "a.npz: sid must be an array of numbers"),
        ({"energy": np.full(20, "x")}, "a.npz: energy must be an array of numbers"),
        ({"sys_sid": np.zeros(0, int)}, "a.npz: sys_sid is empty"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, changes, sentence):
    path = written(tmp_path / "a.npz", **changes)
    with pytest.raises(DataError, match=sentence):
        data_source("flat_npz", tmp_path / "root", path=path, val_fraction=0).prepare(
            progress=False
        )


def test_a_force_only_set_needs_no_energies(tmp_path):
    path = written(tmp_path / "a.npz", energy=None)
    reader = {
        "reader": {
            "_target_": "atomsweep.data.formats.flat_npz.FlatNPZReader",
            "labels": ["forces"],
        }
    }
    source = data_source("flat_npz", tmp_path / "root", path=path, **reader)
    assert source.split("train")[0].energy is None
    assert source.split("train").has_forces


# The mapping


def mapping(path, **records):
    known = {
        "random70": {"ads_id": 4, "bulk_id": 11, "ads_symbols": "*O"},
        "random30": {"ads_id": 5, "bulk_id": 12, "ads_symbols": "*C"},
        "random50": {"ads_id": 4, "bulk_id": 13, "ads_symbols": "*H"},
        "random90": {"ads_id": 5, "bulk_id": 11, "ads_symbols": "*C"},
    }
    path.write_bytes(pickle.dumps({**known, **records}))
    return str(path)


def source_by(tmp_path, split_by, **changes):
    path = written(tmp_path / "a.npz")
    changes = {"mapping": mapping(tmp_path / "map.pkl"), "val_fraction": 0.3, **changes}
    return data_source("flat_npz", tmp_path / "root", path=path, split_by=split_by, **changes)


@pytest.mark.parametrize(
    ("split_by", "together"), [("adsorbate", ({70, 50}, {30, 90})), ("catalyst", ({70, 90},))]
)
def test_the_mapping_says_what_stays_together(tmp_path, split_by, together):
    for seed in range(4):
        source = source_by(tmp_path, split_by, seed=seed)
        parts = [
            {source.split(name)[i].sid for i in range(len(source.split(name)))}
            for name in ("train", "val_id")
        ]
        assert not parts[0] & parts[1]
        for group in together:
            assert group <= parts[0] or group <= parts[1]
        assert source.describe()["groups_by"] == "map.pkl"


def test_without_a_mapping_composition_says_it(tmp_path):
    source = source_by(tmp_path, "adsorbate", mapping=None)
    assert source.describe()["groups_by"] == "structure"
    names = group_names(source._store("train"), "adsorbate")
    assert len(set(names.tolist())) == 3  # O, C and H, whatever the mapping's numbers


def test_the_mapping_is_part_of_the_fingerprint_where_it_decides(tmp_path):
    plain = source_by(tmp_path, "adsorbate", mapping=None).fingerprint()
    assert source_by(tmp_path, "adsorbate").fingerprint() != plain
    by_system = source_by(tmp_path, "sid", mapping=None).fingerprint()
    assert source_by(tmp_path, "sid").fingerprint() == by_system


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ({"random70": {"ads_id": 1}}, DataError, "system 30 is not in the mapping .*map_bad.pkl"),
        ({f"random{s}": {"bulk_id": 1} for s in SIDS}, DataError, "has no ads_id or ads_symbols"),
        ([1, 2], DataError, "holds a list, expected records by system id"),
        ({"water": 1}, DataError, "expected a record under random<id>"),
        (collections.Counter(a=1), DataError, "map_bad.pkl: the mapping"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_named(tmp_path, content, error, sentence):
    path = tmp_path / "map_bad.pkl"
    path.write_bytes(pickle.dumps(content))
    source = source_by(tmp_path, "adsorbate", mapping=str(path))
    with pytest.raises(error, match=sentence):
        source.split("train")


def test_a_mapping_that_would_run_code_is_refused_and_does_not(tmp_path):
    witness = tmp_path / "witness"

    class Malicious:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"random70": Malicious()}))
    with pytest.raises(DataError, match="evil.pkl: the mapping"):
        source_by(tmp_path, "catalyst", mapping=str(path)).split("train")
    assert not witness.exists()
    assert issubclass(RefusedPickle, DataError)


# The real ones


@pytest.mark.long
def test_the_42_real_relaxations_are_read_as_numpy_reads_them(real_data, tmp_path):
    path = real_data / "oc20_42_relaxations.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    held = np.load(path)
    source = data_source("flat_npz", tmp_path / "root", path=str(path), max_force=None)
    parts = [source.split(name) for name in ("train", "val_id")]
    assert sum(map(len, parts)) == len(held["sid"]) == 5999
    sizes = dict(zip(held["sys_sid"], np.diff(held["sys_offset"]), strict=True))
    begins = np.concatenate([[0], np.cumsum([sizes[sid] for sid in held["sid"]])])
    place = {key: i for i, key in enumerate(zip(held["sid"], held["fid"], strict=True))}
    systems = []
    for part in parts:
        systems.append(set())
        for index in range(0, len(part), 7):
            structure = part[index]
            frame = place[structure.sid, structure.fid]
            rows = slice(begins[frame], begins[frame + 1])
            assert np.array_equal(structure.pos, held["pos"][rows])
            assert np.array_equal(structure.forces, held["forces"][rows])
            assert structure.energy == held["energy"][frame]
            systems[-1].add(structure.sid)
    assert len(systems[0] | systems[1]) == 42
    assert not systems[0] & systems[1]


def test_a_negative_shape_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "negative.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (-1, 3)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pos.npy", header.getvalue() + bytes(2400))
    with pytest.raises(DataError, match="negative.npz has the impossible shape"):
        read_npz(path)
