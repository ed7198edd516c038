"""A conversion's last step: parts become one store, whatever stops it, and leave the disk."""

import os
import shutil
import signal
import sys

import lmdb
import pytest

from atomsweep.data.formats.ocp_lmdb import IS2RE, S2EF
from atomsweep.data.store import convert as convert_module
from atomsweep.data.store import parts as parts_module
from atomsweep.data.store.convert import convert
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.environment import close_environment
from atomsweep.data.store.growing import GrowingStore
from atomsweep.data.store.parts import Conversion
from tests.contracts.params import first
from tests.data.formats.pyg_records import as_pyg_2, is2re_fields, s2ef_fields, write_lmdb

EVENTS = {"os.remove", "os.rename", "os.truncate", "os.rmdir"}


def relaxations_of(path, count=70):
    """Relaxations, the first of which comes again in the last part."""
    records = [as_pyg_2(is2re_fields(seed)) for seed in [*range(count - 1), 0]]
    return write_lmdb(path, records, length=False)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Parts of ten frames, a transaction for each group."""
    monkeypatch.setattr(parts_module, "PART", 10)
    monkeypatch.setattr("atomsweep.data.store.writer._BATCH_BYTES", 0)


def run(folder):
    files, out = [folder / "in.lmdb"], folder / "out.lmdb"
    conversion = Conversion(IS2RE(), None, "skip")
    return convert(conversion, files, out, folder / "parts", "f", {}, progress=False)


def content(folder):
    """All that is in both stores, and the files that lie there."""
    found = []
    for name in ("out.lmdb", "out_relaxations.lmdb"):
        store = StoreDataset(folder / name)
        index = [one.tolist() for one in (store.natoms, store.sids, store.fids)]
        found.append((store.meta, index, store.records(range(len(store)))))
        close_environment(folder / name)
    return found, sorted(path.name for path in folder.iterdir())


def killed_at(number, work):
    """Do some work in another process, which kills itself at an event; whether it came so far."""
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0
        return os.WIFSIGNALED(status)
    done = 1
    try:
        left = number

        def count(event, *_):
            nonlocal left
            if event in EVENTS:  # and not the kill itself
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        flush = GrowingStore._flush

        def flushed(store):
            count("os.remove")
            flush(store)
            count("os.remove")

        GrowingStore._flush = flushed
        sys.addaudithook(count)
        work()
        done = 0
    finally:
        os._exit(done)


def with_parts(folder, monkeypatch):
    """A conversion whose parts are made and none copied; what is expected of it."""
    relaxations_of(folder / "made/in.lmdb")
    shutil.copytree(folder / "made", folder / "whole")
    run(folder / "whole")

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "merge_parts", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder / "made")
    return folder / "made", content(folder / "whole")


@pytest.mark.parametrize("inside", [3, 1 << 22])
@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.long)])
def test_a_copy_that_is_killed_anywhere_goes_on(tmp_path, monkeypatch, inside, stride):
    monkeypatch.setattr("atomsweep.data.store.writer.MOST_INSIDE", inside)
    (tmp_path / "made").mkdir()
    made, expected = with_parts(tmp_path, monkeypatch)
    stores, files = expected
    assert len(stores[0][2]) == 69
    assert len(stores[1][2]) == 138
    assert files == ["in.lmdb", "out.lmdb", "out_relaxations.lmdb"]
    number = inside % stride
    while True:
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(made, folder)
        killed = killed_at(number, lambda folder=folder: run(folder))
        report = run(folder)
        assert content(folder) == expected, number
        assert (report.frames, len(report.skipped)) == (69, 1)
        shutil.rmtree(folder)
        if not killed:
            break
        number += stride
    assert number > 50


def test_a_copy_that_is_killed_again_and_again_comes_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    made, expected = with_parts(tmp_path, monkeypatch)
    lives = 1
    while killed_at(25, lambda: run(made)):  # 14 at most for parts that are gone
        lives += 1
        assert lives < 20
    assert lives >= 3
    assert content(made) == expected


def test_parts_leave_the_disk_as_they_are_copied(tmp_path, monkeypatch):
    write_lmdb(tmp_path / "in.lmdb", [as_pyg_2(s2ef_fields(seed)) for seed in range(200)])
    there, flush = [], GrowingStore._flush

    def looked_at(store):
        flush(store)
        left = len(list((tmp_path / "parts").glob("0*.lmdb")))
        there.append(store.kept + 10 * left)

    monkeypatch.setattr(GrowingStore, "_flush", looked_at)
    files, out = [tmp_path / "in.lmdb"], tmp_path / "out.lmdb"
    convert(Conversion(S2EF()), files, out, tmp_path / "parts", "f", {}, progress=False)
    assert len(there) == 14
    assert max(there) <= 200 + 16 + 2 * 10  # frames that are there twice: of a group and two parts
    assert StoreDataset(out).fids.tolist() == list(range(200))


@pytest.mark.parametrize(
    "spoil", first(3, ["cut", "header", "part gone", "gone", "column gone", "column cut"])
)
@pytest.mark.parametrize("number", [pytest.param(6, marks=pytest.mark.slow), 29])
def test_parts_without_the_store_that_grew_from_them_are_made_again(
    tmp_path, monkeypatch, spoil, number
):
    (tmp_path / "made").mkdir()
    made, expected = with_parts(tmp_path, monkeypatch)
    assert killed_at(number, lambda: run(made))
    (growing,) = (made / "parts").glob("*.growing")
    left = list((made / "parts").glob("0*.lmdb"))
    assert (len(left) == 14) == (number == 6)
    sids = growing.with_suffix(".sid")
    if spoil == "cut":
        os.truncate(growing, 5000)
    elif spoil == "gone":
        growing.unlink()
    elif spoil == "header":
        with lmdb.open(str(growing), subdir=False, lock=False) as env, env.begin(write=True) as txn:
            txn.put(b"meta", b'{"count": ')
    elif spoil == "column gone":
        sids.unlink()
    elif spoil == "column cut":
        os.truncate(sids, max(0, sids.stat().st_size - 100))
    else:
        max(left).unlink()
    run(made)
    assert content(made) == expected


def test_what_grew_of_other_parts_is_not_gone_on_with(tmp_path, monkeypatch):
    """As after an update to a version whose parts hold something else."""
    (tmp_path / "made").mkdir()
    made, expected = with_parts(tmp_path, monkeypatch)
    assert killed_at(43, lambda: run(made))
    (growing,) = (made / "parts").glob("*.growing")
    with lmdb.open(str(growing), subdir=False, lock=False) as env, env.begin(write=True) as changed:
        for key, value in list(changed.cursor()):
            if key != b"meta":
                changed.put(key, value[::-1])
    monkeypatch.setattr(convert_module, "PARTS", convert_module.PARTS + 1)
    run(made)
    assert content(made) == expected


def test_a_store_that_was_removed_is_made_again_though_its_parts_were_left(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    made, expected = with_parts(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_: None)  # killed at its very end
        run(made)
    assert (made / "parts").exists()
    (made / "out.lmdb").unlink()
    run(made)
    assert content(made) == expected
