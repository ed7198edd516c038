"""Systems told by what their frames hold where ids do not; copies found."""

import logging

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from atomsweep.data.formats.ase_db import AseDb
from atomsweep.data.formats.extxyz import ExtXYZ
from atomsweep.data.formats.files import FileSource
from atomsweep.data.frames import identifier
from atomsweep.data.store import whole
from atomsweep.data.structure import DataError
from tests.data.formats.test_ase_db import aselmdb, row_of


@pytest.fixture(autouse=True, params=["together", "in buckets"])
def _buckets(request, monkeypatch):
    """What is told of many frames, a bucket at a time, is what is told of few."""
    if request.param == "in buckets":
        monkeypatch.setattr(whole, "BUCKET", 2)
        monkeypatch.setattr(whole, "_DEALT", 3)


TEXTS = [
    "agm000_spg44_rattled-300_az",
    "mp-10_relax",
    "3f2a9c",
    "12e3",
    "T",
    "-2",
    "2",
    str(10**20),
]


def frame(seed, symbols="CuOH", **ids):
    rng = np.random.default_rng(seed)
    atoms = Atoms(symbols, rng.uniform(0, 4, (len(Atoms(symbols)), 3)), cell=[9] * 3, pbc=True)
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(seed), forces=rng.normal(size=atoms.positions.shape)
    )
    atoms.info.update(ids)
    return atoms


def write(path, frames):
    """As written by hand: ids as they are, whatever ASE would make of them."""
    ids = [dict(one.info) for one in frames]
    for one in frames:
        one.info = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, frames, format="extxyz")
    lines = path.read_text().splitlines()
    at = 1
    for one, atoms in zip(ids, frames, strict=True):
        lines[at] += "".join(f" {key}={value}" for key, value in one.items())
        at += len(atoms) + 2
    path.write_text("\n".join(lines) + "\n")
    return path


def systems(path, root, **arguments):
    """Places of frames by system, in order."""
    source = ExtXYZ(str(path), str(root), val_fraction=0.0, workers=1, **arguments)
    return grouped(source)


def grouped(source):
    found = {}
    for place, structure in enumerate(source.split("train")):
        found.setdefault(structure.sid, []).append(place)
    return list(found.values())


def test_numbers_are_themselves_and_text_is_never_its_digits():
    assert [identifier(v) for v in (7, 7.0, "7", "random7", "frame7", np.int32(7))] == [7] * 6
    assert [identifier(v) for v in ("-2", -2, np.array([-2]), "+5", "007")] == [-2, -2, -2, 5, 7]
    assert [identifier(v) for v in (None, "", float("nan"), True, "NaN", "None")] == [None] * 6
    others = [identifier(v) for v in (*TEXTS[:5], "mp-10", "oqmd-10", "frame-7", 10**20, 1.5)]
    assert len(set(others)) == len(others)
    assert all(0 <= one < 1 << 63 and one > 1 << 40 for one in others)
    assert identifier("mp-10") == 8760026607905196196  # the same on every machine


def test_an_id_is_the_same_from_every_format(tmp_path):
    frames = [frame(seed) for seed in range(len(TEXTS))]
    with connect(tmp_path / "a.db") as database:
        for atoms, text in zip(frames, TEXTS, strict=True):
            database.write(atoms, data={"sid": text})
    rows = [row_of(seed, data={"sid": text}) for seed, text in enumerate(TEXTS)]
    aselmdb(tmp_path / "a.aselmdb", rows)
    for atoms, text in zip(frames, TEXTS, strict=True):
        atoms.info["sid"] = text
    ase.io.write(tmp_path / "a.traj", frames)
    write(tmp_path / "a.extxyz", frames)
    expected = [identifier(text) for text in TEXTS]
    for name in ("a.extxyz", "a.traj"):
        read = ExtXYZ(str(tmp_path / name), str(tmp_path / "root"), val_fraction=0.0, workers=1)
        assert [s.sid for s in read.split("train")] == expected, name
    for name in ("a.db", "a.aselmdb"):
        read = FileSource(AseDb(), str(tmp_path / name), str(tmp_path / "root"), val_fraction=0.0)
        assert [s.sid for s in read.split("train")] == expected, name


def test_files_without_ids_are_systems_beside_those_with_ids(tmp_path):
    write(tmp_path / "in/a.extxyz", [frame(i, sid=i // 2) for i in range(4)])
    write(tmp_path / "in/b.extxyz", [frame(i) for i in range(4, 7)])
    assert systems(tmp_path / "in", tmp_path / "root") == [[0, 1], [2, 3], [4, 5, 6]]


@pytest.mark.parametrize("with_fid", [False, True])
def test_two_sources_with_one_numbering_are_not_merged(tmp_path, with_fid, caplog):
    for name, start in (("a", 0), ("b", 10)):
        frames = [
            frame(start + i, sid=i // 2, **({"fid": i % 2} if with_fid else {})) for i in range(4)
        ]
        write(tmp_path / f"in/{name}.extxyz", frames)
    with caplog.at_level(logging.WARNING):
        found = systems(tmp_path / "in", tmp_path / "root")
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert caplog.text.count("stands for more than one system") == 1
    assert "frame 0 of" in caplog.text


def test_one_sid_of_two_compositions_is_two_systems(tmp_path):
    frames = [frame(i, "CuOH" if i % 2 else "NiOH", sid=5, fid=i) for i in range(4)]
    path = write(tmp_path / "a.extxyz", frames)
    assert systems(path, tmp_path / "root") == [[0, 2], [1, 3]]


def test_shards_of_one_numbering_stay_one_system(tmp_path):
    for name, some in (("a", (0, 2, 4)), ("b", (1, 3, 5))):
        write(tmp_path / f"in/{name}.extxyz", [frame(i, sid=i // 4, fid=i % 4) for i in some])
    assert systems(tmp_path / "in", tmp_path / "root") == [[0, 1, 3, 4], [2, 5]]


def test_a_restart_is_one_system_and_a_counter_that_begins_anew_is_not(tmp_path):
    restart = [frame(i, sid=0, frame=i % 3) for i in range(6)]
    assert systems(write(tmp_path / "a.extxyz", restart), tmp_path / "root") == [[*range(6)]]
    unnamed = [frame(i, frame=i % 3) for i in range(6)]
    assert systems(write(tmp_path / "b.extxyz", unnamed), tmp_path / "root") == [[*range(6)]]
    joined = [
        frame(i, sid=i // 2 % 2, fid=i % 2) for i in range(8)
    ]  # two files, one behind another
    found = systems(write(tmp_path / "c.extxyz", joined), tmp_path / "root")
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("ids", [{"sid": "a", "fid": 0}, {"sid": "a", "frame": "x"}])
def test_equal_frames_of_one_id_are_refused_or_left_out(tmp_path, ids, caplog):
    path = write(tmp_path / "a.extxyz", [frame(1, **ids), frame(2, **ids), frame(1, **ids)])
    with pytest.raises(DataError, match=r"frame 0 of .* and frame 2 of .* are equal") as caught:
        systems(path, tmp_path / "root")
    assert "1 frames in all" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert systems(path, tmp_path / "root", on_error="skip") == [[0, 1]]
    assert caplog.text.count("equals frame 0") == 1


def test_equal_frames_of_other_ids_are_said_once(tmp_path, caplog):
    for name in "ab":
        write(tmp_path / f"in/{name}.extxyz", [frame(1), frame(2)])
    with caplog.at_level(logging.WARNING):
        assert systems(tmp_path / "in", tmp_path / "root") == [[0, 1], [2, 3]]
    assert caplog.text.count("2 frames equal another under another id, the first frame 0 of") == 1


def test_a_split_by_system_divides_no_text_id(tmp_path):
    frames = [frame(i, sid=f"mp-{i // 3}_relax", fid=i % 3) for i in range(30)]
    path = write(tmp_path / "a.extxyz", frames)
    source = ExtXYZ(str(path), str(tmp_path / "root"), val_fraction=0.3, workers=1)
    train, val = ({s.sid for s in source.split(name)} for name in ("train", "val_id"))
    assert (len(train), len(val)) == (7, 3)
    assert train.isdisjoint(val)


@pytest.mark.parametrize("_buckets", ["together"], indirect=True)  # it sets its own
def test_many_frames_of_mixed_ids_are_told_apart_in_buckets_as_together(tmp_path, monkeypatch):
    """Ids that come again, copies, and files without ids, as a random draw has them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    for file in range(6):
        frames = []
        for _ in range(12):
            ids = {"sid": int(rng.integers(4)), "fid": int(rng.integers(6))} if file else {}
            symbols = str(rng.choice(["CuOH", "CuOH", "Cu2O"]))
            frames.append(frame(int(rng.integers(10)), symbols, **ids))
        write(folder / f"{file}.xyz", frames)
    found = []
    for bucket in (1 << 20, 7, 1):
        monkeypatch.setattr(whole, "BUCKET", bucket)
        source = ExtXYZ(
            str(folder), str(tmp_path / f"b{bucket}"), val_fraction=0.0, workers=1, on_error="skip"
        )
        split = source.split("train")
        found.append(([(s.sid, s.fid, s.energy) for s in split], source.skipped))
    assert len(found[0][0]) < 72
    assert len({sid for sid, _, _ in found[0][0]}) > 8
    assert found[0] == found[1] == found[2]
