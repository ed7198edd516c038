import json
import multiprocessing
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor

import lmdb
import numpy as np
import pytest

from atomsweep.data.dataset import usable
from atomsweep.data.store import writer as store_writer
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.record import GROUP, GROUPED, VERSION, decode, encode, grouped
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import DataError, Structure
from atomsweep.graph.neighbors import RadiusGraph


def random_structure(seed, natoms=6, labels=True):
    rng = np.random.default_rng(seed)
    return Structure(
        atomic_numbers=rng.integers(1, 119, natoms),
        pos=rng.normal(size=(natoms, 3)).astype(np.float32),
        cell=rng.normal(size=(3, 3)),
        pbc=rng.random(3) < 0.5,
        tags=rng.integers(0, 3, natoms),
        fixed=rng.random(natoms) < 0.5,
        forces=rng.normal(size=(natoms, 3)).astype(np.float32) if labels else None,
        energy=float(rng.normal()) if labels else None,
        sid=int(rng.integers(-(2**60), 2**60)),
        fid=seed,
    )


def assert_same(a, b):
    for name in ("atomic_numbers", "pos", "cell", "pbc", "tags", "fixed"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.forces is None) == (b.forces is None)
    assert a.forces is None or np.array_equal(a.forces, b.forces)
    assert (a.energy, a.sid, a.fid) == (b.energy, b.sid, b.fid)


def write(path, structures, **meta):
    with StoreWriter(path, "f1", meta) as writer:
        for structure in structures:
            writer.add(structure)
    return StoreDataset(path)


def overwrite_record(path, index, change):
    """Replace a record of a store by `change(record)`; None removes it."""
    changed = path.with_suffix(".changed")
    changed.write_bytes(path.read_bytes())  # LMDB opens a file once in a process
    env = lmdb.open(str(changed), subdir=False, lock=False, map_size=1 << 24)
    with env.begin(write=True) as transaction:
        count = json.loads(transaction.get(b"meta"))["count"]
        first = index - index % GROUP
        key, records = struct.pack(">Q", first), []
        value, size = transaction.get(key), min(GROUP, count - first)
        at = 4 * size
        for length in struct.unpack_from(f"<{size}I", value):
            records.append(value[at : at + length])
            at += length
        records[index - first] = change(records[index - first]) or b""
        transaction.put(key, grouped(records))
    env.close()
    changed.replace(path)


def flip(record, at):
    return record[:at] + bytes([record[at] ^ 0xFF]) + record[at + 1 :]


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize("labels", [True, False])
def test_a_structure_survives_the_store_exactly(tmp_path, labels):
    structures = [random_structure(seed, natoms=seed + 1, labels=labels) for seed in range(20)]
    store = write(tmp_path / "a.lmdb", structures)
    assert len(store) == 20
    for index, structure in enumerate(structures):
        assert_same(structure, store[index])


def test_sizes_ids_and_meta_are_known_without_reading_records(tmp_path):
    structures = [random_structure(seed, natoms=seed + 3) for seed in range(5)]
    write(tmp_path / "a.lmdb", structures, note="from here")
    overwrite_record(tmp_path / "a.lmdb", 2, lambda record: None)
    store = StoreDataset(tmp_path / "a.lmdb")
    assert store.natoms.tolist() == [3, 4, 5, 6, 7]
    assert store.sids.tolist() == [s.sid for s in structures]
    assert store.fids.tolist() == [0, 1, 2, 3, 4]
    assert store.meta["note"] == "from here"
    assert store.has_energy
    assert store.has_forces


def test_the_record_is_the_documented_layout():
    s = random_structure(1, natoms=2)
    s.pbc = np.array([True, False, True])
    body = struct.pack("<4sBBBBIIqqd", b"ASWP", 1, 3, 0b101, 0, 2, 0, s.sid, s.fid, s.energy)
    body += s.cell.astype("<f8").tobytes() + s.pos.astype("<f4").tobytes()
    body += s.forces.astype("<f4").tobytes() + bytes(s.atomic_numbers.astype("u1"))
    body += bytes(s.tags.astype("u1")) + bytes(s.fixed.astype("u1"))
    assert encode(s) == sealed(body)


def test_a_set_with_one_unlabelled_structure_does_not_promise_labels(tmp_path):
    store = write(tmp_path / "a.lmdb", [random_structure(0), random_structure(1, labels=False)])
    assert not store.has_energy
    assert not store.has_forces


@pytest.mark.parametrize("at", [5, 8, 20, 60, 150, -1])
def test_any_altered_byte_is_noticed(at):
    record = encode(random_structure(0))
    with pytest.raises(DataError):
        decode(flip(record, at % len(record)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-10], "truncated"),
        (lambda r: r[:20], "no record of this store"),
        (lambda r: b"XXXX" + r[4:], "no record of this store"),
        (lambda r: flip(r, 100), "checksum"),
        (lambda r: sealed(r[:4] + b"\x07" + r[5:-4]), "has record version 7"),
        (lambda r: None, "missing from the file"),
        (lambda r: encode(nan_forces()), "forces of atom 1 is NaN"),
    ],
)
def test_a_bad_record_is_named_by_file_and_index(tmp_path, change, message):
    path = tmp_path / "set.lmdb"
    write(path, [random_structure(seed) for seed in range(5)])
    overwrite_record(path, 3, change)
    store = StoreDataset(path)
    assert_same(store[2], random_structure(2))
    with pytest.raises(DataError, match=message) as caught:
        store[3]
    assert f"structure 3 of {path}" in str(caught.value)


def nan_forces():
    structure = random_structure(3)
    structure.forces[1, 2] = np.nan
    return structure


def test_skip_leaves_out_and_counts_bad_records(tmp_path, caplog):
    path = tmp_path / "set.lmdb"
    write(path, [random_structure(seed, natoms=seed + 2) for seed in range(6)])
    overwrite_record(path, 1, lambda r: flip(r, 100))
    overwrite_record(path, 4, lambda r: r[:-10])
    kept, faults = usable(StoreDataset(path), "skip")
    assert [s.fid for s in (kept[i] for i in range(len(kept)))] == [0, 2, 3, 5]
    assert kept.natoms.tolist() == [2, 4, 5, 7]
    assert len(faults) == 2
    assert "skipped 2 of 6" in caplog.text


def test_an_unusable_structure_is_not_written(tmp_path):
    with pytest.raises(DataError, match="structure 1 for"):
        write(tmp_path / "a.lmdb", [random_structure(0), nan_forces()])
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_version_is_refused(tmp_path):
    path = tmp_path / "a.lmdb"
    meta = write(path, [random_structure(0)]).meta
    changed = tmp_path / "b.lmdb"
    changed.write_bytes(path.read_bytes())
    env = lmdb.open(str(changed), subdir=False, lock=False, map_size=1 << 24)
    with env.begin(write=True) as transaction:
        transaction.put(b"meta", json.dumps({**meta, "version": 9}).encode())
    env.close()
    with pytest.raises(
        DataError, match=f"store version 9, this program reads versions {VERSION} to {GROUPED}"
    ):
        StoreDataset(changed)


def test_a_foreign_file_and_a_foreign_lmdb_are_refused(tmp_path):
    (tmp_path / "text.lmdb").write_text("hello" * 5000)
    with pytest.raises(DataError, match="not a store"):
        StoreDataset(tmp_path / "text.lmdb")
    env = lmdb.open(str(tmp_path / "other.lmdb"), subdir=False, lock=False)
    with env.begin(write=True) as transaction:
        transaction.put(b"0", pickle.dumps(1))
    env.close()
    with pytest.raises(DataError, match="not a store"):
        StoreDataset(tmp_path / "other.lmdb")
    with pytest.raises(FileNotFoundError, match="no such store"):
        StoreDataset(tmp_path / "none.lmdb")


def test_a_file_cut_off_is_an_error_and_not_a_crash(tmp_path):
    write(tmp_path / "a.lmdb", [random_structure(seed, natoms=200) for seed in range(50)])
    whole = (tmp_path / "a.lmdb").read_bytes()
    cut = tmp_path / "cut.lmdb"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        StoreDataset(cut)


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        yield random_structure(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.lmdb", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_is_read_anew(tmp_path):
    old = write(tmp_path / "a.lmdb", [random_structure(0)])
    assert old[0].fid == 0
    new = write(tmp_path / "a.lmdb", [random_structure(1)])
    assert new[0].fid == 1


def test_two_readers_of_one_file_live_in_one_process(tmp_path):
    first = write(tmp_path / "a.lmdb", [random_structure(0), random_structure(1)])
    second = StoreDataset(tmp_path / "a.lmdb")
    assert first[0].fid + second[1].fid == 1


def fid_of(store):
    return store[1].fid


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_store_can_be_read_in_a_child_process(tmp_path, method):
    store = write(tmp_path / "a.lmdb", [random_structure(0), random_structure(1)])
    assert fid_of(store) == 1
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # a child that dies is an error
        assert pool.submit(fid_of, store).result(timeout=60) == 1


def test_a_large_set_outgrows_its_first_map(tmp_path, monkeypatch):
    monkeypatch.setattr("atomsweep.data.store.writer.FIRST_MAP", 1 << 16)
    monkeypatch.setattr("atomsweep.data.store.writer._BATCH_BYTES", 1 << 14)
    store = write(tmp_path / "a.lmdb", [random_structure(seed, natoms=100) for seed in range(200)])
    assert store[199].fid == 199


FULL_DISK = """
import resource, sys
from tests.data.store.test_dataset import random_structure, write
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write(sys.argv[1], [random_structure(s, natoms=200) for s in range(200)])
except OSError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_called_full_whatever_lmdb_calls_it(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    for free, told in ((4096, "the disk is full"), (1 << 30, "Input/output error")):
        monkeypatch.setattr(
            store_writer.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free)
        )
        with pytest.raises(OSError, match=told), store_writer.named_errors(tmp_path / "a.lmdb"):
            raise lmdb.Error("mdb_txn_commit: Input/output error")


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.lmdb"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("OSError"), done.stderr
    assert str(path) in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph", [None, RadiusGraph(4.0, 10)])
def test_the_index_of_a_large_store_lies_behind_its_pages(tmp_path, monkeypatch, graph):
    monkeypatch.setattr("atomsweep.data.store.writer.MOST_INSIDE", 3)
    monkeypatch.setattr("atomsweep.data.store.writer._SPOOL", 20)
    monkeypatch.setattr("atomsweep.data.store.dataset._SMALL", 0)
    structures = [random_structure(seed) for seed in range(9)]
    path = tmp_path / "a.lmdb"
    with StoreWriter(path, "f", graph=graph) as writer:
        for one in structures:
            writer.add(one)
    store = StoreDataset(path)
    assert store.meta["version"] == 3
    assert store.natoms.tolist() == [s.natoms for s in structures]
    assert store.sids.tolist() == [s.sid for s in structures]
    assert store.fids.tolist() == [s.fid for s in structures]
    for index, one in enumerate(structures):
        assert_same(store[index], one)
    if graph is not None:
        assert (store.num_edges > 0).any()
        assert store.graph == graph
    assert pickle.loads(pickle.dumps(store))[8].sid == structures[8].sid
    assert len(pickle.dumps(store)) < 300
    assert [p.name for p in tmp_path.iterdir()] == ["a.lmdb"]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-5])
    with pytest.raises(DataError, match="bytes, which do not fit 9 structures"):
        StoreDataset(path)


@pytest.mark.parametrize("graph", [None, RadiusGraph(4.0, 10)])
def test_stores_of_versions_1_and_2_are_read(tmp_path, graph):
    """A key for each record, as earlier programs wrote them."""
    structures = [random_structure(seed) for seed in range(20)]
    with StoreWriter(tmp_path / "now.lmdb", "f", graph=graph) as writer:
        records = [writer.add(one) for one in structures]
    now = StoreDataset(tmp_path / "now.lmdb")
    header = {**now.meta, "version": 1 if graph is None else 2}
    del header["group"]
    env = lmdb.open(str(tmp_path / "now-old"), subdir=False, lock=False, map_size=1 << 24)
    with env.begin(write=True) as transaction:
        for index, record in enumerate(records):
            transaction.put(struct.pack(">Q", index), record)
        transaction.put(b"meta", json.dumps(header).encode())
        arrays = {"natoms": now.natoms, "sid": now.sids, "fid": now.fids}
        for name, array in (arrays | ({"num_edges": now.num_edges} if graph else {})).items():
            transaction.put(name.encode(), array.tobytes())
    env.close()
    old = StoreDataset(tmp_path / "now-old")
    for index, one in enumerate(structures):
        assert_same(old[index], one)
    for mine, theirs in zip(
        now.flat(range(20), graph is not None), old.flat(range(20), graph is not None), strict=True
    ):
        for name, value in (vars(mine) if mine is not None else {}).items():
            assert np.array_equal(value, getattr(theirs, name)), name


def test_a_frame_takes_little_more_than_its_record(tmp_path):
    store = write(tmp_path / "a.lmdb", [random_structure(seed, natoms=80) for seed in range(640)])
    record = len(store.record(7))
    assert record > 2048  # so that a page of LMDB takes no two
    assert store.path.stat().st_size / 640 < 1.12 * record
