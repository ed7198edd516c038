import json
import pickle

import lmdb
import numpy as np
import pytest
import torch

from atomsweep.data.formats.files import FileSource
from atomsweep.data.formats.ocp_lmdb import IS2RE, S2EF
from atomsweep.data.frames import TAGS_DERIVED, TAGS_STORED, TAGS_UNKNOWN
from atomsweep.data.structure import DataError
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract
from tests.data.formats.pyg_records import as_pyg_1, as_pyg_2, is2re_fields, s2ef_fields, write_lmdb
from tests.data.formats.test_unpickle import Touch, nested


def shards(folder, sizes=(8, 7)):
    """A directory of shards, the first by PyG 2, the second by PyG 1."""
    first = 0
    for number, size in enumerate(sizes):
        pickled = (as_pyg_2, as_pyg_1)[number % 2]
        records = [pickled(s2ef_fields(seed)) for seed in range(first, first + size)]
        write_lmdb(folder / f"data.{number:04d}.lmdb", records)
        first += size
    return folder


def one_file(tmp_path, records, **options):
    path = write_lmdb(tmp_path / "in" / "data.lmdb", records, **options)
    return FileSource(S2EF(), str(path), str(tmp_path / "root"), val_fraction=0, workers=1)


def all_of(dataset):
    return [dataset[i] for i in range(len(dataset))]


def assert_is(structure, fields):
    for ours, theirs in (("pos", "pos"), ("atomic_numbers", "atomic_numbers"), ("tags", "tags")):
        assert np.array_equal(getattr(structure, ours), fields[theirs].numpy())
    assert np.array_equal(structure.forces, fields["force"].numpy())
    assert np.array_equal(structure.cell, fields["cell"][0].numpy())
    assert np.array_equal(structure.fixed, fields["fixed"].numpy() == 1)
    assert structure.energy == pytest.approx(fields["y"], rel=1e-15)
    assert (structure.sid, structure.fid) == (fields["sid"], fields["fid"])


class TestS2EF(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        path = str(shards(tmp_path / "in"))
        return data_source("oc20_s2ef", tmp_path / "root", path=path, workers=1)


class TestS2EFForcesOnly(DatasetContract):
    has_energy = False
    has_validation = False

    @pytest.fixture
    def source(self, tmp_path):
        path = str(shards(tmp_path / "in"))
        reader = S2EF(labels=("forces",))
        return FileSource(reader, path, str(tmp_path / "root"), val_fraction=0, workers=1)


class TestIS2RE(DatasetContract):
    has_forces = False

    @pytest.fixture
    def source(self, tmp_path):
        records = [as_pyg_2(is2re_fields(seed)) for seed in range(12)]
        path = write_lmdb(tmp_path / "in" / "data.lmdb", records, length=False)
        return data_source("oc20_is2re", tmp_path / "root", path=str(path), workers=1)


class TestOC22(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        records = [
            as_pyg_2(s2ef_fields(seed, oc22=1, nads=1, sid=torch.tensor([seed]), fixed=None))
            for seed in range(10)
        ]
        path = write_lmdb(tmp_path / "in" / "data.0000.lmdb", records)
        return data_source("oc22", tmp_path / "root", path=str(path), workers=1)


def test_shards_of_both_kinds_are_read_in_the_order_of_numbers(tmp_path):
    source = FileSource(
        S2EF(), str(shards(tmp_path / "in", (12, 11))), str(tmp_path / "r"), val_fraction=0
    )
    frames = all_of(source.split("train"))
    assert [s.fid for s in frames] == list(range(23))
    for seed, structure in enumerate(frames):
        assert_is(structure, s2ef_fields(seed))
    assert source.describe()["tags"] == {"train": {TAGS_STORED: 23}}


def test_new_field_names_and_ids_as_text_or_tensor_are_read(tmp_path):
    old = s2ef_fields(5)
    new = {**old, "energy": np.float64(old["y"]), "forces": old["force"]}
    del new["y"], new["force"]
    new |= {"sid": "random17", "fid": torch.tensor(5), "edge_index": torch.zeros(2, 3).long()}
    dataset = one_file(tmp_path, [as_pyg_2(new)]).split("train")
    assert_is(dataset[0], {**old, "sid": 17})


def test_a_length_key_is_optional(tmp_path):
    records = [as_pyg_2(s2ef_fields(seed)) for seed in range(12)]
    assert len(one_file(tmp_path, records, length=False).split("train")) == 12


@pytest.mark.parametrize("length", [11, 13, "many"])
def test_a_length_that_lies_is_an_error(tmp_path, length):
    records = [as_pyg_2(s2ef_fields(seed)) for seed in range(12)]
    with pytest.raises(DataError, match=f"data.lmdb: its key length says {length!r} records, but "):
        one_file(tmp_path, records, length=length).prepare()


def test_a_length_that_does_harm_is_refused(tmp_path):
    mark = tmp_path / "mark"
    path = write_lmdb(tmp_path / "data.lmdb", [], length=Touch(mark))
    with pytest.raises(DataError, match=r"data.lmdb: its key length names posix.system"):
        FileSource(S2EF(), str(path), str(tmp_path / "root")).prepare()
    assert not mark.exists()


@pytest.mark.parametrize("hide", [lambda payload: payload, nested])
def test_a_malicious_record_is_named_and_not_executed(tmp_path, hide):
    mark = tmp_path / "mark"
    bad = pickle.dumps(hide(Touch(mark)))
    records = [as_pyg_2(s2ef_fields(0)), bad, as_pyg_2(s2ef_fields(2))]
    source = one_file(tmp_path, records)
    with pytest.raises(DataError, match=r"frame 1 of .*data.lmdb: the record names posix.system"):
        source.prepare()
    source.on_error = "skip"
    assert [s.fid for s in all_of(source.split("train"))] == [0, 2]
    assert not mark.exists()


def nan_at(shape, *place):
    values = torch.zeros(shape)
    values[place] = float("nan")
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": float("nan")}, "energy is nan"),
        ({"force": torch.zeros(3, 3)}, r"forces must have shape \(4, 3\)"),
        ({"force": nan_at((4, 3), 2, 0)}, "forces of atom 2 is NaN"),
        ({"pos": nan_at((4, 3), 1, 1)}, "pos of atom 1 is NaN"),
        ({"pos": torch.zeros(5, 3)}, "has 4 atomic numbers and 5 positions"),
        ({"natoms": 9}, "says natoms 9, but has 4"),
        ({"cell": torch.zeros(1, 3, 3)}, "cell has no volume"),
        ({"cell": torch.zeros(2, 3)}, "holds what it should not"),
        ({"atomic_numbers": torch.tensor([29.0, 29, 29, 119])}, "atomic number 119"),
        ({"atomic_numbers": torch.tensor([29.0, 29, 29, 0])}, "atomic number 0"),
        ({"atomic_numbers": torch.tensor([29.5, 29, 29, 8])}, "not whole numbers"),
        ({"y": None}, "carries no energy .named energy or y.; there is atomic_numbers, cell"),
        ({"force": None}, "carries no forces"),
        ({"pos": None}, "has no pos; there is"),
        ({"pos": "far"}, "holds what it should not"),
    ],
)
def test_a_bad_record_is_named_by_file_and_index(tmp_path, changes, message):
    fields = {**s2ef_fields(1), **changes}
    bad = as_pyg_2({name: value for name, value in fields.items() if value is not None})
    records = [as_pyg_2(s2ef_fields(0)), bad]
    with pytest.raises(DataError, match=message) as error:
        one_file(tmp_path, records).prepare()
    assert f"frame 1 of {tmp_path / 'in' / 'data.lmdb'}" in str(error.value)


def test_a_key_that_is_missing_is_named(tmp_path):
    records = [as_pyg_2(s2ef_fields(0)), None, as_pyg_2(s2ef_fields(2))]
    with pytest.raises(DataError, match="frame 1 of .*: the file has no key 1"):
        one_file(tmp_path, records, length=False, **{"spare": b""}).prepare()


def test_a_missing_shard_is_named(tmp_path):
    folder = shards(tmp_path / "in", (2, 2, 2))
    (folder / "data.0001.lmdb").unlink()
    with pytest.raises(DataError, match=r"data.0001.lmdb is missing, while data.0002.lmdb is"):
        FileSource(S2EF(), str(folder), str(tmp_path / "root")).prepare()
    (folder / "data.0002.lmdb").unlink()
    FileSource(S2EF(), str(folder), str(tmp_path / "root"), val_fraction=0).prepare()


def test_a_file_cut_off_and_a_file_that_is_none_are_errors(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", [as_pyg_2(s2ef_fields(i, 100)) for i in range(30)])
    cut = tmp_path / "cut.lmdb"
    cut.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="cut.lmdb is cut off"):
        FileSource(S2EF(), str(cut), str(tmp_path / "root")).prepare()
    (tmp_path / "text.lmdb").write_text("hello" * 5000)
    with pytest.raises(DataError, match="text.lmdb is not an LMDB"):
        FileSource(S2EF(), str(tmp_path / "text.lmdb"), str(tmp_path / "root")).prepare()


def test_duplicate_ids_are_named(tmp_path):
    records = [as_pyg_2(s2ef_fields(seed)) for seed in (0, 1, 0)]
    with pytest.raises(DataError, match="frame 0 of .*lmdb and frame 2 of .* same sid 0 and fid 0"):
        one_file(tmp_path, records).prepare()


def test_duplicates_are_named_by_file_and_frame_behind_what_was_left_out(tmp_path):
    seeds = ((5, 1, 6), (7, 1))
    for name, some in zip("ab", seeds, strict=True):
        fields = [s2ef_fields(seed) for seed in some]
        for seed, one in zip(some, fields, strict=True):
            if seed in (5, 7):  # more than 50 eV/Å
                one["force"] = one["force"] * 0 + 99.0
        write_lmdb(tmp_path / f"data.000{'ab'.index(name)}.lmdb", [as_pyg_2(f) for f in fields])
    source = FileSource(S2EF(), str(tmp_path), str(tmp_path / "root"), val_fraction=0, workers=1)
    with pytest.raises(
        DataError, match="frame 1 of .*data.0000.lmdb and frame 1 of .*data.0001.lmdb have"
    ):
        source.prepare()


@pytest.mark.parametrize(
    ("changes", "tags", "rule"),
    [
        ({"tags": None}, [0, 1, 1, 2], TAGS_DERIVED),
        ({"tags": torch.zeros(4)}, [0, 1, 1, 2], TAGS_DERIVED),
        ({"tags": None, "fixed": None}, [1, 1, 1, 1], TAGS_UNKNOWN),
    ],
)
def test_missing_tags_follow_the_rule_and_that_is_said(tmp_path, changes, tags, rule):
    source = one_file(tmp_path, [as_pyg_2(s2ef_fields(0, **changes))])
    assert source.split("train")[0].tags.tolist() == tags
    assert source.describe()["tags"] == {"train": {rule: 1}}


@pytest.mark.parametrize("total", [15, 14])
def test_sizes_beside_the_files_must_fit(tmp_path, total):
    folder = shards(tmp_path / "in")
    np.savez(folder / "metadata.npz", natoms=np.full(total, 4), neighbors=np.ones(total))
    source = FileSource(S2EF(), str(folder), str(tmp_path / "root"), val_fraction=0, workers=1)
    if total == 15:
        assert len(source.split("train")) == 15
    else:
        with pytest.raises(DataError, match=r"metadata.npz tells the sizes of 14 structures, but"):
            source.prepare()


@pytest.mark.parametrize("kind", ["npz", "json"])
def test_linear_references_are_subtracted(tmp_path, kind):
    values = np.zeros(119)
    values[[8, 29]] = [-2.0, -3.0]
    path = tmp_path / f"references.{kind}"
    if kind == "npz":
        np.savez(path, coeff=values)
    else:
        path.write_text(json.dumps({"linear_references": values.tolist()}))
    folder = str(shards(tmp_path / "in"))
    plain = data_source("oc22", tmp_path / "root", path=folder, val_fraction=0)
    reader = S2EF(linear_references=str(path))
    source = FileSource(reader, folder, str(tmp_path / "root"), val_fraction=0, name="oc22")
    difference = source.split("train")[3].energy - plain.split("train")[3].energy
    assert difference == pytest.approx(3 * 3.0 + 2.0)
    assert source.fingerprint() != plain.fingerprint()
    values[8] = np.nan
    np.savez(tmp_path / "bad.npz", coeff=values)
    with pytest.raises(DataError, match="references must be finite"):
        S2EF(linear_references=str(tmp_path / "bad.npz"))


def test_both_ends_of_a_relaxation_are_kept(tmp_path):
    records = [as_pyg_2(is2re_fields(seed)) for seed in range(5)]
    path = write_lmdb(tmp_path / "data.lmdb", records, length=False)
    source = FileSource(IS2RE(), str(path), str(tmp_path / "root"), val_fraction=0.4)
    train, ends = source.split("train"), source.relaxations("train")
    assert len(ends) == 2 * len(train) == 6
    for place, structure in enumerate(all_of(train)):
        initial, relaxed = ends[2 * place], ends[2 * place + 1]
        fields = is2re_fields(structure.sid)
        assert initial.sid == relaxed.sid == structure.sid
        assert structure.energy == relaxed.energy == fields["y_relaxed"]
        assert initial.energy == fields["y_init"]
        assert np.array_equal(structure.pos, fields["pos"].numpy())
        assert np.array_equal(initial.pos, fields["pos"].numpy())
        assert np.array_equal(relaxed.pos, fields["pos_relaxed"].numpy())


def test_relaxed_ends_that_are_not_there_are_told(tmp_path):
    records = [as_pyg_2(is2re_fields(0)), as_pyg_2(is2re_fields(1, pos_relaxed=None))]
    path = str(write_lmdb(tmp_path / "data.lmdb", records, length=False))
    source = FileSource(IS2RE(), path, str(tmp_path / "root"), val_fraction=0)
    assert len(source.split("train")) == 2
    with pytest.raises(ValueError, match="not every record of files carries pos_relaxed"):
        source.relaxations("train")
    test_file = FileSource(IS2RE(labels=()), path, str(tmp_path / "root"), val_fraction=0)
    assert test_file.split("train")[0].energy is None
    with pytest.raises(ValueError, match="holds no relaxed structures"):
        test_file.relaxations("train")


@pytest.mark.parametrize(("split_by", "groups"), [("adsorbate", 3), ("catalyst", 2)])
def test_adsorbates_and_catalysts_are_never_divided(tmp_path, split_by, groups):
    slabs = [[29.0, 29, 29], [78.0, 78, 78]]
    records = []
    for seed in range(12):
        numbers = [*slabs[seed % 2], [1.0, 6.0, 8.0][seed % 3]]
        fields = s2ef_fields(seed, sid=seed, atomic_numbers=torch.tensor(numbers))
        records.append(as_pyg_2(fields))
    path = str(write_lmdb(tmp_path / "data.lmdb", records))
    root = str(tmp_path / "root")
    source = FileSource(S2EF(), path, root, split_by=split_by, val_fraction=1 / groups)
    sides = [
        {int(s.atomic_numbers[3 if split_by == "adsorbate" else 0]) for s in all_of(dataset)}
        for dataset in (source.split("train"), source.split("val_id"))
    ]
    assert [len(side) for side in sides] == [groups - 1, 1]
    assert not sides[0] & sides[1]


def test_the_real_records_are_the_frames_of_the_flat_arrays(real_data, tmp_path):
    folder = real_data / "oc20_s2ef_layout" / "lmdb_demo"
    ours = all_of(FileSource(S2EF(), str(folder), str(tmp_path), val_fraction=0).split("train"))
    assert len(ours) == 80
    flat = dict(np.load(real_data / "oc20_42_relaxations.npz"))  # each array unpacked once
    systems = {sid: place for place, sid in enumerate(flat["sys_sid"].tolist())}
    sizes = np.diff(flat["sys_offset"])[[systems[sid] for sid in flat["sid"].tolist()]]
    ends = np.cumsum(sizes)
    place = {key: i for i, key in enumerate(zip(flat["sid"], flat["fid"], strict=True))}
    shifts = {}
    for structure in ours:
        if (structure.sid, structure.fid) not in place:
            continue  # of a system that the arrays leave out
        frame = place[structure.sid, structure.fid]
        rows = slice(ends[frame] - sizes[frame], ends[frame])
        system = systems[structure.sid]
        atoms = slice(flat["sys_offset"][system], flat["sys_offset"][system + 1])
        assert np.array_equal(structure.atomic_numbers, flat["sys_numbers"][atoms])
        assert np.array_equal(structure.tags, flat["sys_tags"][atoms])
        assert np.array_equal(structure.fixed, flat["sys_fixed"][atoms].astype(bool))
        assert np.allclose(structure.cell, flat["sys_cell"][system], atol=1e-5)
        assert np.allclose(structure.pos, flat["pos"][rows], atol=5e-6)  # re-encoded
        assert np.allclose(structure.forces, flat["forces"][rows], atol=1e-6)
        shifts.setdefault(structure.sid, []).append(structure.energy - flat["energy"][frame])
    assert sum(map(len, shifts.values())) == 56
    assert all(np.ptp(of_a_system) < 2e-3 for of_a_system in shifts.values())  # a reference energy


def test_a_third_partys_is2re_file_is_read(real_data, tmp_path):
    path = real_data / "misc" / "thirdparty_K_adsorption_is2re.lmdb"
    source = data_source("oc20_is2re", tmp_path, path=str(path), val_fraction=0)
    structures = all_of(source.split("train"))
    assert len(structures) == 68
    assert structures[9].sid == 9
    assert all(s.forces is None and np.isfinite(s.energy) for s in structures)


def test_forces_of_an_odd_kind_are_told_with_file_and_index(tmp_path):
    records = [pickle.dumps(s2ef_fields(0)), pickle.dumps(s2ef_fields(1, force=[[0.0] * 3]))]
    with pytest.raises(DataError, match="frame 1 of .*lmdb: "):
        one_file(tmp_path, records).prepare(progress=False)


def test_relaxations_without_sid_are_systems_of_their_own(tmp_path):
    fields = [is2re_fields(seed) for seed in range(3)]
    for one in fields:
        one.pop("sid", None)
    write_lmdb(tmp_path / "a.lmdb", [pickle.dumps(one) for one in fields])
    frames = list(IS2RE().frames(tmp_path / "a.lmdb", 0, 0, 3))
    assert [f.structure.sid for f in frames] == [0, 1, 2]


def test_a_nested_length_is_refused(tmp_path):
    nested = b"\x80\x02" + b"]q\x00" + b"]" * 100_000 + b"a" * 100_000 + b"."
    path = write_lmdb(tmp_path / "data.lmdb", [as_pyg_2(s2ef_fields(0))], length=False)
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as write:
        write.put(b"length", nested)
    with pytest.raises(DataError, match=r"data.lmdb: its key length says a list of records, but"):
        one_file_of(path, tmp_path).prepare()


def test_files_without_a_record_are_refused(tmp_path):
    path = write_lmdb(tmp_path / "data.lmdb", [], length=False)
    with pytest.raises(DataError, match=r"there is no record in .*data.lmdb"):
        one_file_of(path, tmp_path).prepare()


def test_numbers_too_large_for_float32_are_told_with_the_users_file(tmp_path):
    records = [as_pyg_2(s2ef_fields(0)), pickle.dumps(s2ef_fields(1, pos=np.full((4, 3), 1e39)))]
    with pytest.raises(DataError, match=r"frame 1 of .*lmdb: pos of atom 0 is too large for float"):
        one_file(tmp_path, records).prepare()


def one_file_of(path, tmp_path):
    return FileSource(S2EF(), str(path), str(tmp_path / "root"), val_fraction=0, workers=1)
