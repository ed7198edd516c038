"""Which files a path means: links are followed, other programs' copies are not read."""

import logging
import os

import numpy as np
import pytest
from ase.io import write

from atomsweep.cli.data import main
from atomsweep.data.formats.extxyz import ExtXYZ, ExtXYZReader
from atomsweep.data.formats.find import find, summary
from atomsweep.data.structure import DataError
from tests.data.formats.test_contract import images

READER = ExtXYZReader("energy", "forces", ())


def frames(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = images([])
    for atoms in made:
        atoms.positions += seed
        atoms.info["sid"] = f"{seed}-{atoms.info['sid']}"
    write(path, made, format="extxyz")
    return path


@pytest.fixture
def folder(tmp_path):
    """Two files of frames, and what lies beside them on other people's disks."""
    top = tmp_path / "in"
    frames(top / "a.extxyz")
    frames(top / "sub" / "b.extxyz", 1)
    frames(top / ".ipynb_checkpoints" / "a-checkpoint.extxyz")
    (top / "._a.extxyz").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (top / ".DS_Store").write_bytes(b"\x00")
    (top / "README.md").write_text("about")
    (top / "notes.txt").write_text("more")
    return top


def names(found):
    return [path.name for path in found.files]


def test_names_that_begin_with_a_dot_are_not_read_and_counted(folder):
    found = find(str(folder), READER)
    assert names(found) == ["a.extxyz", "b.extxyz"]
    assert summary(found.left_out) == (
        "3 names that begin with a dot, 1 other kinds (.md), 1 other kinds (.txt)"
    )
    for pattern in ("*.extxyz", "**/*.extxyz"):
        assert not any(
            "a-" in name or name[0] == "." for name in names(find(str(folder / pattern), READER))
        )
    asked = folder / ".ipynb_checkpoints"  # by name it is meant
    assert names(find(str(asked), READER)) == ["a-checkpoint.extxyz"]


def test_linked_folders_and_files_are_read(folder, tmp_path):
    frames(tmp_path / "elsewhere" / "c.extxyz", 2)
    (folder / "more").symlink_to("../elsewhere")
    (folder / "z.extxyz").symlink_to(frames(tmp_path / "other.extxyz", 3))
    found = find(str(folder), READER)
    assert names(found) == ["a.extxyz", "c.extxyz", "b.extxyz", "z.extxyz"]
    assert find(str(folder / "**" / "*.extxyz"), READER).files == found.files


def test_a_file_with_several_names_is_read_once(folder):
    (folder / "latest.extxyz").symlink_to("a.extxyz")
    (folder / "again").symlink_to("sub")
    found = find(str(folder), READER)
    assert names(found) == ["a.extxyz", "b.extxyz"]
    assert "2 other names of files that are read" in summary(found.left_out)
    assert len(find(str(folder / "**" / "*.extxyz"), READER).files) == 2


@pytest.mark.parametrize("target", [".", "..", "../../in", "../../in/sub"])
def test_links_in_a_circle_are_refused(folder, target):
    (folder / "sub" / "loop").symlink_to(target)
    with pytest.raises(DataError, match=r"sub/loop.* leads back to .*, in which it lies itself"):
        find(str(folder), READER)
    assert main(["describe", str(folder)]) == 1


@pytest.mark.parametrize("name", ["more", "c.extxyz"])
def test_a_link_that_leads_nowhere_is_refused_where_data_may_be_lacking(folder, name):
    (folder / name).symlink_to("gone")
    with pytest.raises(DataError, match=f"in/{name} leads to gone, which is not there"):
        find(str(folder), READER)


def test_other_links_and_pipes_are_counted(folder):
    (folder / "log.txt").symlink_to("gone")
    os.mkfifo(folder / "pipe.extxyz")
    told = summary(find(str(folder), READER).left_out)
    assert "1 links that lead nowhere" in told
    assert "1 neither files nor folders" in told


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    listed = type(folder).iterdir

    def refuse(path):
        if path.name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(folder), "iterdir", refuse)
    with pytest.raises(PermissionError, match="in/sub"):
        find(str(folder), READER)


def test_a_description_says_what_was_left_out(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "2 file(s)" in out
    assert "files left out" in out
    assert "3 names that begin with a dot, 1 other kinds (.md)" in out
    source = ExtXYZ(str(folder), "r", val_fraction=0)
    source.prepare(progress=False)
    assert source.describe()["left_out"]["train"].startswith("3 names that begin with a dot")


@pytest.mark.parametrize("path", ["", " ", [], [""], ["a.extxyz", ""]])
@pytest.mark.parametrize("option", ["path", "val_id"])
def test_an_empty_path_names_no_files(folder, tmp_path, monkeypatch, path, option):
    monkeypatch.chdir(folder)
    arguments = {"path": "a.extxyz", "root": str(tmp_path / "r"), option: path}
    with pytest.raises(ValueError, match=rf"data.{option} is empty; name a file"):
        ExtXYZ(**arguments)
    if isinstance(path, str):
        assert main(["describe", path]) == 1


def test_a_file_in_train_and_validation_is_refused(folder, tmp_path, caplog):
    a, b, root = str(folder / "a.extxyz"), str(folder / "sub" / "b.extxyz"), str(tmp_path / "r")
    (tmp_path / "link.extxyz").symlink_to(a)
    for held_out in (a, str(folder), str(tmp_path / "link.extxyz")):
        with pytest.raises(ValueError, match=r"a.extxyz is in data.path and in data.val_ood_cat"):
            ExtXYZ(a, root, val_ood_cat=held_out)
    copy = tmp_path / "copy.extxyz"
    copy.write_bytes((folder / "a.extxyz").read_bytes())
    with pytest.raises(DataError, match=r"copy.extxyz of data.val_id is a copy of .*a.extxyz"):
        ExtXYZ(str(folder), root, val_id=str(copy)).prepare(progress=False)
    with caplog.at_level(logging.WARNING):
        source = ExtXYZ(a, root, val_id=b, val_ood_both=[b])
    assert "b.extxyz is in data.val_id and in data.val_ood_both" in caplog.text
    source.prepare(progress=False)
    assert np.array_equal(source.split("val_id").natoms, [4] * 4)
