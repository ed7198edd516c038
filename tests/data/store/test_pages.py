"""Pages of an LMDB looked at before LMDB reads them."""

import lmdb
import numpy as np
import pytest

from atomsweep.data.store.pages import page_fault, place_of

PAGE = 4096


def database(path, count=400):
    """Keys of a tree of up to three levels; four values lie in pages of their own."""
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number in range(count):
            size = 20_000 if number < 4 else 300
            transaction.put(f"{number:0200d}".encode(), bytes([number % 250]) * size)
    return path


@pytest.mark.parametrize("count", [1, 5, 400, 5000])
def test_what_lmdb_wrote_is_fine(tmp_path, count):
    assert page_fault(database(tmp_path / "a.lmdb", count)) is None


def test_an_empty_database_is_fine(tmp_path):
    lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, lock=False).close()
    assert page_fault(tmp_path / "a.lmdb") is None


def test_any_page_that_is_blank_or_of_another_kind_is_named(tmp_path):
    path = database(tmp_path / "a.lmdb")
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as environment:
        stat = environment.stat()
    assert stat["depth"] == 3
    good = np.fromfile(path, "u1").reshape(-1, PAGE)
    kinds = good[:, 10] & 0x2F
    numbers = good[:, :8].copy().view("<u8").ravel()
    heads = [p for p in range(2, len(good)) if numbers[p] == p and kinds[p] in (1, 2, 4)]
    told = 0
    for place in heads:
        bad = good.copy()
        bad[place] = 0
        bad.tofile(path)
        told += page_fault(path) is not None
    # pages that the tree has left behind may be anything
    assert told == stat["branch_pages"] + stat["leaf_pages"] + 4


def test_a_value_that_reaches_out_of_the_file_is_told(tmp_path):
    path = database(tmp_path / "a.lmdb", 3)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"0" * 200)  # the last key of the only leaf; its size is before it
    data[at - 6 : at - 4] = b"\xff\x7f"
    path.write_bytes(data)
    assert "is damaged" in page_fault(path)


@pytest.mark.parametrize("count", [1, 5, 400, 5000])
def test_a_value_is_found_where_lmdb_reads_it(tmp_path, count):
    path = database(tmp_path / "a.lmdb", count)
    data = path.read_bytes()
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as environment:
        for number in {0, 3, 4, count // 2, count - 1} & set(range(count)):
            key = f"{number:0200d}".encode()
            offset, size = place_of(path, key)
            with environment.begin() as transaction:
                assert data[offset : offset + size] == transaction.get(key)
    for lacking in (b"a", f"{count:0200d}".encode(), b"0" * 199):
        assert place_of(path, lacking) is None


def test_an_empty_database_has_no_value(tmp_path):
    lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, lock=False).close()
    assert place_of(tmp_path / "a.lmdb", b"a") is None
