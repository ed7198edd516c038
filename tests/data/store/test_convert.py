import importlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from atomsweep.cli.data import main
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.formats.describe import describe
from atomsweep.data.formats.files import FileSource
from atomsweep.data.formats.ocp_lmdb import S2EF
from atomsweep.data.formats.store import StoreReader
from atomsweep.data.store import convert as convert_module
from atomsweep.data.store import parts as parts_module
from atomsweep.data.store.convert import convert
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.parts import Conversion
from atomsweep.data.structure import DataError
from atomsweep.graph.neighbors import RadiusGraph
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract
from tests.data.formats.pyg_records import as_pyg_2, is2re_fields, s2ef_fields, write_lmdb
from tests.data.store.test_dataset import assert_same, overwrite_record, random_structure, write


def lmdb_of(path, count=10, **changes):
    fields = [s2ef_fields(seed, **changes) for seed in range(count)]
    return write_lmdb(path, [as_pyg_2(one) for one in fields])


class TestNativeStore(DatasetContract):
    @pytest.fixture
    def source(self, tmp_path):
        source = lmdb_of(tmp_path / "in.lmdb")
        assert main(["convert", str(source), str(tmp_path / "out.lmdb"), "--workers", "1"]) == 0
        return data_source("store", tmp_path, path=str(tmp_path / "out.lmdb"))


def frames_of(path):
    store = StoreDataset(path)
    return [store[index] for index in range(len(store))]


def test_the_store_does_not_depend_on_workers_or_parts(tmp_path, monkeypatch):
    source = lmdb_of(tmp_path / "in.lmdb", 23)
    monkeypatch.setattr(parts_module, "PART", 5)
    assert main(["convert", str(source), str(tmp_path / "two.lmdb"), "--workers", "2"]) == 0
    monkeypatch.setattr(parts_module, "PART", 100)
    assert main(["convert", str(source), str(tmp_path / "one.lmdb"), "--workers", "1"]) == 0
    assert [s.fid for s in frames_of(tmp_path / "two.lmdb")] == list(range(23))
    for a, b in zip(
        frames_of(tmp_path / "one.lmdb"), frames_of(tmp_path / "two.lmdb"), strict=True
    ):
        assert_same(a, b)
    assert not list(tmp_path.glob("*.parts-*"))


def test_a_frame_is_looked_at_once(tmp_path, monkeypatch):
    path = tmp_path / "in.lmdb"
    write(path, [random_structure(seed) for seed in range(30)])
    seen = []
    for name in ("store.dataset", "store.parts", "store.writer", "formats.describe"):
        module = importlib.import_module(f"atomsweep.data.{name}")
        fault = module.structure_fault
        monkeypatch.setattr(
            module, "structure_fault", lambda one, f=fault: (seen.append(one.fid), f(one))[1]
        )
    how, out = Conversion(StoreReader(), None), tmp_path / "out.lmdb"
    convert(how, [path], out, tmp_path / "parts", "f", {}, progress=False)
    assert seen == list(range(30))
    describe(StoreReader(), [path])
    assert seen == [*range(30), *range(30)]


def test_what_is_there_is_not_made_again(tmp_path, caplog):
    source, out = lmdb_of(tmp_path / "in.lmdb"), tmp_path / "out.lmdb"
    assert main(["convert", str(source), str(out)]) == 0
    inode = out.stat().st_ino
    left = out.with_name(f"{out.name}.parts-{StoreDataset(out).meta['fingerprint']}")
    left.mkdir()  # by one that was killed at its very end
    assert main(["convert", str(source), str(out)]) == 0
    assert out.stat().st_ino == inode
    assert not left.exists()
    assert main(["convert", str(source), str(out), "--neighbors", "5"]) == 0
    assert out.stat().st_ino != inode


@pytest.mark.parametrize("spoiled", [3, 8])
def test_a_conversion_that_fails_leaves_no_store_and_goes_on_afterwards(
    tmp_path, monkeypatch, spoiled
):
    monkeypatch.setattr(parts_module, "PART", 3)
    good, out, parts = tmp_path / "in.lmdb", tmp_path / "out.lmdb", tmp_path / "parts"
    lmdb_of(good, 12)
    records = [as_pyg_2(s2ef_fields(seed)) for seed in range(12)]
    records[spoiled] = records[spoiled][:-50]
    bad = write_lmdb(tmp_path / "bad.lmdb", records)
    with pytest.raises(DataError, match=f"frame {spoiled} of"):
        convert(Conversion(S2EF()), [bad], out, parts, "f", {}, progress=False)
    assert not out.exists()
    done = {path.name: path.stat().st_ino for path in parts.iterdir()}
    assert len(done) == spoiled // 3
    converted = []
    convert_part = convert_module.convert_part
    monkeypatch.setattr(
        convert_module,
        "convert_part",
        lambda *work: (converted.append(work[1].start), convert_part(*work)),
    )
    report = convert(Conversion(S2EF()), [good], out, parts, "f", {}, progress=False)
    assert converted == [3 * part for part in range(spoiled // 3, 4)]
    assert report.frames == 12
    assert [s.fid for s in frames_of(out)] == list(range(12))


KILLED = """
import sys
from atomsweep.data.store import parts, writer
from atomsweep.cli.data import main
if __name__ == "__main__":
    parts.PART, writer._BATCH_BYTES = 4, 0
    sys.exit(main(["convert", sys.argv[1], sys.argv[2], "--workers", sys.argv[3]]))
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_conversion_that_is_killed_goes_on(tmp_path, workers, number):
    source, out = lmdb_of(tmp_path / "in.lmdb", 3000), tmp_path / "out.lmdb"
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), str(source), str(out), workers]

    def left():
        found = (one for folder in tmp_path.glob("*.parts-*") for one in os.scandir(folder))
        return {one.name: one.inode() for one in found if one.name.startswith("0")}

    def killed_when(ready):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        told = process.communicate()[1]
        if number == signal.SIGTERM:
            assert told.endswith("stopped; the same command continues\n")
            assert process.returncode == 130
        assert not out.exists()

    killed_when(lambda: len(left()) >= 20)
    time.sleep(1.0)  # workers end with their parent
    before = left()
    time.sleep(0.5)
    assert left() == before
    killed_when(lambda: list(tmp_path.glob("*.parts-*/whole*")) and 100 < len(left()) < 600)
    between = left()
    assert set(before) - set(between)  # copied, and given back
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert [s.fid for s in frames_of(out)] == list(range(3000))
    assert not list(tmp_path.glob("*.parts-*"))


def test_bad_frames_are_skipped_and_counted_when_asked(tmp_path, capsys):
    records = [as_pyg_2(s2ef_fields(seed)) for seed in range(6)]
    records[2] = b"nonsense"
    records[4] = as_pyg_2(s2ef_fields(4, y=float("nan")))
    source, out = write_lmdb(tmp_path / "in.lmdb", records), tmp_path / "out.lmdb"
    assert main(["convert", str(source), str(out)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: frame 2 of {source}: the record is no readable pickle")
    assert not out.exists()
    assert main(["convert", str(source), str(out), "--skip-bad"]) == 0
    assert StoreDataset(out).meta["conversion"]["skipped"] == 2
    assert [s.fid for s in frames_of(out)] == [0, 1, 3, 5]


def test_stored_neighbour_lists_are_those_that_would_be_found(tmp_path):
    source, out = lmdb_of(tmp_path / "in.lmdb", 9), tmp_path / "out.lmdb"
    assert main(["convert", str(source), str(out), "--neighbors", "5", "--max-neighbors", "7"]) == 0
    store, graph = StoreDataset(out), RadiusGraph(5.0, 7)
    assert store.graph == graph
    flat, edges = store.flat([4, 0, 7], edges=True)
    first = 0
    for place, index in enumerate([4, 0, 7]):
        expected, offsets = graph(store[index].pos, store[index].cell, store[index].pbc)
        count = expected.shape[1]
        assert store.num_edges[index] == edges.num_edges[place] == count
        assert np.array_equal(edges.source[first : first + count], expected[0])
        assert np.array_equal(edges.offsets[first : first + count], offsets)
        first += count
    assert np.array_equal(flat.sid, store.sids[[4, 0, 7]])
    assert main(["convert", str(out), str(tmp_path / "plain.lmdb")]) == 0
    for a, b in zip(frames_of(tmp_path / "plain.lmdb"), frames_of(out), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_batches_from_stored_lists_are_the_same(tmp_path, budget):
    source = lmdb_of(tmp_path / "in.lmdb", 9)
    graph = RadiusGraph(5.0, 7)
    datasets = []
    for name, options in (("plain", []), ("stored", ["--neighbors", "5", "--max-neighbors", "7"])):
        out = tmp_path / f"{name}.lmdb"
        assert main(["convert", str(source), str(out), *options]) == 0
        datasets.append(GraphDataset(StoreDataset(out), graph, budget=budget))
    plain, stored = (dataset.batch([3, 8, 1]) for dataset in datasets)
    assert set(plain.keys()) == set(stored.keys())
    for key in plain.keys():  # noqa: SIM118 (a batch is no dict)
        assert np.array_equal(plain[key], stored[key]), key
        assert plain[key].dtype == stored[key].dtype
    assert (
        datasets[1].num_edges.tolist() == StoreDataset(tmp_path / "stored.lmdb").num_edges.tolist()
    )
    assert not list(tmp_path.glob("arrays/*")) or budget


def test_many_records_read_at_once_are_those_read_one_by_one(tmp_path):
    store = write(
        tmp_path / "a.lmdb", [random_structure(seed, natoms=seed + 1) for seed in range(9)]
    )
    flat, _ = store.flat(range(9), edges=False)
    first = 0
    for index, structure in enumerate(store[i] for i in range(9)):
        atoms = slice(first, first + structure.natoms)
        for name in ("pos", "forces", "atomic_numbers", "tags", "fixed"):
            assert np.array_equal(getattr(flat, name)[atoms], getattr(structure, name)), name
        assert np.array_equal(flat.cell[index], structure.cell)
        assert np.array_equal(flat.pbc[index], structure.pbc)
        assert flat.energy[index] == structure.energy
        assert (flat.sid[index], flat.fid[index]) == (structure.sid, structure.fid)
        first += structure.natoms


def test_a_damaged_record_is_named_in_a_batch_too(tmp_path):
    path = tmp_path / "a.lmdb"
    write(path, [random_structure(seed) for seed in range(5)])
    overwrite_record(path, 3, lambda r: r[:100] + bytes([r[100] ^ 1]) + r[101:])
    dataset = GraphDataset(StoreDataset(path), None, budget=0)
    assert dataset.batch([0, 1]).num_graphs == 2
    with pytest.raises(DataError, match=f"structure 3 of {path} is corrupt"):
        dataset.batch([1, 3])
    skipping = GraphDataset(StoreDataset(path), None, on_error="skip", budget=0)
    assert skipping.batch([1, 3]).num_graphs == 1


def test_both_ends_of_relaxations_are_converted(tmp_path):
    records = [as_pyg_2(is2re_fields(seed)) for seed in range(4)]
    source = write_lmdb(tmp_path / "in.lmdb", records, length=False)
    assert main(["convert", str(source), str(tmp_path / "out.lmdb")]) == 0
    assert len(StoreDataset(tmp_path / "out_relaxations.lmdb")) == 8


def test_a_store_is_never_there_without_its_relaxed_ends(tmp_path, monkeypatch):
    records = [as_pyg_2(is2re_fields(seed)) for seed in range(2)]
    source = write_lmdb(tmp_path / "in.lmdb", records, length=False)
    out, ends = tmp_path / "out.lmdb", tmp_path / "out_relaxations.lmdb"
    merge, done = convert_module.merge_parts, []

    def killed_after_the_first(*arguments):
        if done:
            raise KeyboardInterrupt
        merge(*arguments)
        done.append(arguments[1])

    monkeypatch.setattr(convert_module, "merge_parts", killed_after_the_first)
    assert main(["convert", str(source), str(out)]) == 130
    assert done == [ends]
    assert not out.exists()
    monkeypatch.undo()
    assert main(["convert", str(source), str(out)]) == 0
    assert (len(StoreDataset(out)), len(StoreDataset(ends))) == (2, 4)


def test_files_without_a_usable_frame_leave_an_earlier_store_alone(tmp_path, capsys):
    out = tmp_path / "out.lmdb"
    good = write_lmdb(tmp_path / "good.lmdb", [as_pyg_2(s2ef_fields(0))])
    assert main(["convert", str(good), str(out)]) == 0
    before = out.read_bytes()
    bad = write_lmdb(tmp_path / "bad.lmdb", [as_pyg_2(s2ef_fields(0) | {"y": float("nan")})])
    assert main(["convert", str(bad), str(out), "--skip-bad"]) == 1
    assert "no usable frame" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "/nowhere", "out.lmdb"], "no file of a known kind at /nowhere"),
        (["convert", "{in}", "out.npz"], "the store must end in .lmdb"),
        (["convert", "{in}", "{in}"], "is what is read"),
        (["convert", "{in}", "out.lmdb", "--workers", "0"], "--workers must be at least 1"),
        (["convert", "{in}", "out.lmdb", "--labels", "stress"], "--labels takes energy and forces"),
        (["convert", "{in}", "out.lmdb", "--neighbors", "-1"], "cutoff must be positive"),
        (["describe", "/nowhere"], "no file of a known kind"),
        (["fit-normalizer", "val_id.lmdb"], "is not a training split"),
        (["fit-normalizer", "none.lmdb"], "no such store"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    source = str(lmdb_of(tmp_path / "in.lmdb"))
    assert main([word.replace("{in}", source) for word in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_description_counts_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fields = [s2ef_fields(seed) for seed in range(8)]
    fields[3]["force"] = fields[3]["force"] * 1000
    fields[5]["y"] = float("nan")
    write_lmdb(tmp_path / "in.lmdb", [as_pyg_2(one) for one in fields])
    assert main(["describe", "in.lmdb"]) == 0
    told = capsys.readouterr().out
    rows = dict(
        line.split("  ", 1) for line in told.splitlines() if line[0] != " " and "  " in line
    )
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["frames"] == "7 of 8 that were read"
    assert rows["systems"] == "3"
    assert rows["atoms"] == "28 (4 to 4, mean 4.0)"
    assert rows["elements (2)"] == "Cu 21, O 7"
    assert rows["tags 0 / 1 / 2"] == "7 / 14 / 7"
    assert rows["fixed atoms"] == "7"
    energies = [one["y"] for seed, one in enumerate(fields) if seed != 5]
    assert rows["energy (eV)"] == f"mean {np.mean(energies):.4f}, std {np.std(energies):.4f}"
    assert rows["|F| > 50 eV/Å, left out"] == "1 (12.5 %)"
    assert rows["cannot be used"] == "1 (12.5 %)"
    assert rows["frames that repeat another's ids"] == "0"
    assert "1 (12.5 %): energy is nan, first frame 5 of" in told
    assert (tmp_path / "in.png").stat().st_size > 10_000


def test_a_normaliser_is_fitted_to_training_systems_alone(tmp_path):
    rng = np.random.default_rng(0)
    structures = []
    for seed in range(40):
        one = random_structure(seed)
        one.sid = seed // 2
        one.atomic_numbers = rng.choice([1, 8, 29], 6)
        one.energy = sum({1: -1.0, 8: -2.0, 29: -5.0}[z] for z in one.atomic_numbers.tolist())
        structures.append(one)
    write(tmp_path / "train.lmdb", structures)
    arguments = ["fit-normalizer", str(tmp_path), "--val-fraction", "0.25", "--seed", "3"]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "train.normalizer.json").read_text())
    source = data_source(
        "store", tmp_path, path=str(tmp_path / "train.lmdb"), val_fraction=0.25, seed=3
    )
    train = source.split("train")
    expected = [train[index] for index in range(len(train))]
    assert found["frames"] == len(expected) == 30
    assert found["energy"]["mean"] == pytest.approx(np.mean([s.energy for s in expected]))
    assert found["energy"]["std"] == pytest.approx(np.std([s.energy for s in expected]))
    free = np.concatenate([s.forces[~s.fixed].ravel() for s in expected])
    assert found["forces"]["std"] == pytest.approx(np.sqrt((free**2).mean()), rel=1e-5)
    references = np.array(found["linear_references"])
    assert references[[1, 8, 29]] == pytest.approx([-1, -2, -5])
    assert np.count_nonzero(np.abs(references) > 1e-9) == 3
    assert found["energy_minus_references"]["std"] == pytest.approx(0, abs=1e-9)


def test_a_split_that_is_converted_stays_when_a_later_one_is_stopped(tmp_path, monkeypatch, caplog):
    train, val = lmdb_of(tmp_path / "a.lmdb", 12), tmp_path / "b.lmdb"
    shared = [as_pyg_2(s2ef_fields(seed)) for seed in (3, 50, 51)]  # frame 3 is in both
    write_lmdb(val, shared)
    options = {"path": str(train), "val_id": str(val), "name": "set"}
    convert_part, made = convert_module.convert_part, []

    def stopped(conversion, part, path):
        made.append(part.file.name)
        if made == ["a.lmdb", "b.lmdb"]:
            raise KeyboardInterrupt
        convert_part(conversion, part, path)

    monkeypatch.setattr(convert_module, "convert_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        FileSource(S2EF(), root=str(tmp_path / "root"), **options).prepare(progress=False)
    source = FileSource(S2EF(), root=str(tmp_path / "root"), **options)
    source.prepare(progress=False)
    assert made == ["a.lmdb", "b.lmdb", "b.lmdb"]
    assert "1 of 3 frames of data.val_id are in data.path too" in caplog.text
    assert [len(source.split(name)) for name in ("train", "val_id")] == [12, 3]
    left = {path.name for path in source.directory.iterdir()}
    assert left == {"train.lmdb", "val_id.lmdb", "conversion.json"}
