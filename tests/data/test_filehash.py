import hashlib

import pytest

from atomsweep.data import filehash
from atomsweep.data.filehash import content_hash


def test_small_files_are_hashed_whole_and_remembered(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    inner = hashlib.sha256(b"content").hexdigest()
    assert content_hash([path], tmp_path) == hashlib.sha256(inner.encode()).hexdigest()
    assert inner in (tmp_path / "file_hashes.json").read_text()


@pytest.mark.parametrize("place", [0, 50, -1])
def test_of_large_files_first_last_and_spread_blocks_count(tmp_path, monkeypatch, place):
    for name, value in (("WHOLE", 100), ("BLOCK", 10), ("BLOCKS", 5)):
        monkeypatch.setattr(filehash, name, value)
    content = bytearray(range(101))  # blocks at 0, 22, 45, 68, 91
    path = tmp_path / "a"
    path.write_bytes(content)
    before = content_hash([path], tmp_path / "first")
    content[15] ^= 1  # between blocks
    path.write_bytes(content)
    assert content_hash([path], tmp_path / "second") == before
    content[place] ^= 1
    path.write_bytes(content)
    assert content_hash([path], tmp_path / "third") != before
    path.write_bytes(content + b"x")
    assert content_hash([path], tmp_path / "fourth") != before
