"""The code of a launch: the same from its first cell to its last, whatever is edited meanwhile."""

import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atomsweep.launch import snapshot
from atomsweep.launch.presence import LAUNCHER
from atomsweep.tracking import schema
from atomsweep.tracking.code import hash_of
from atomsweep.tracking.environment import commit_of, source_directory
from atomsweep.tracking.lock import is_locked
from tests.places import REPOSITORY
from tests.test_commands import SMALL, wait_for_step


def test_a_snapshot_runs_its_own_code_and_knows_where_it_came_from(tmp_path):
    folder = snapshot.take(tmp_path).folder
    assert (folder / "run.py").read_bytes() == (REPOSITORY / "run.py").read_bytes()
    code = (
        "import json, atomsweep; from atomsweep.tracking.environment import environment\n"
        "print(json.dumps([atomsweep.__file__, environment()['commit']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    file, commit = json.loads(done.stdout)
    assert file == str(folder / "src/atomsweep/__init__.py")
    assert commit == commit_of(source_directory())["commit"]


def test_a_launch_is_known_from_before_its_code_is_copied_until_it_ends(tmp_path, monkeypatch):
    root, seen = tmp_path / "runs", []
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")

    def taken(place):
        (mark,) = (place / snapshot.FOLDER).glob(f"*{LAUNCHER}")
        seen.append(is_locked(mark))
        (place / snapshot.FOLDER / "abc").mkdir()
        return snapshot.Snapshot(place / snapshot.FOLDER / "abc", {}, made=True, fresh=False)

    monkeypatch.setattr(snapshot, "take", taken)
    used = snapshot.use(root)
    assert (seen, used.fresh) == ([True], True)
    (mark,) = [path for path in snapshot._marks if path.is_relative_to(root)]
    snapshot._unmark(mark, os.getpid() + 1)  # a fork
    assert is_locked(mark)
    (mark.parent / f"host.1{LAUNCHER}").write_text("{}")  # of one that was killed
    used.discard()  # of a launch that was refused: nothing is left of it
    assert not root.exists()
    snapshot._unmark(mark, os.getpid())
    assert mark not in snapshot._marks


def test_the_same_code_is_kept_once_and_changed_code_apart(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    file.write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda trusted: {"src/a.py": file})
    first = snapshot.take(tmp_path).folder
    assert snapshot.take(tmp_path).folder == first
    file.write_text("2")
    second = snapshot.take(tmp_path).folder
    assert second != first
    assert (first / "src/a.py").read_text() == "1"
    assert (second / "src/a.py").read_text() == "2"


def test_a_snapshot_is_named_by_what_was_copied_though_it_was_edited_meanwhile(
    tmp_path, monkeypatch
):
    file = tmp_path / "a.py"
    file.write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda trusted: {"src/a.py": file})
    before = snapshot.take(tmp_path).folder
    file.write_text("2")
    copy = snapshot._copy

    def edited(path, to):
        path.write_text("3")
        copy(path, to)

    monkeypatch.setattr(snapshot, "_copy", edited)
    taken = snapshot.take(tmp_path)
    assert (taken.folder / "src/a.py").read_text() == "3"
    assert taken.folder.name == snapshot._digest({"src/a.py": file})
    file.write_text("2")
    monkeypatch.setattr(snapshot, "_copy", lambda path, to: (path.write_text("1"), copy(path, to)))
    assert snapshot.take(tmp_path).folder == before


def test_the_code_is_noticed_to_have_changed_since_a_launch(tmp_path, monkeypatch, caplog):
    file = tmp_path / "a.py"
    file.write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda trusted: {"src/a.py": file})
    code = snapshot.take(tmp_path)
    code.warn_of_changes()
    assert caplog.text == ""
    file.write_text("2")
    code.warn_of_changes()
    assert "the code has changed since this launch began" in caplog.text


def test_what_python_has_compiled_is_copied_unless_it_lies_elsewhere(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    file.write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda trusted: {"src/a.py": file})
    monkeypatch.setattr(sys, "pycache_prefix", None)
    py_compile.compile(str(file))
    code = snapshot.take(tmp_path / "beside").folder
    assert Path(importlib.util.cache_from_source(str(code / "src/a.py"))).is_file()
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "prefix"))  # PYTHONPYCACHEPREFIX
    py_compile.compile(str(file))
    code = snapshot.take(tmp_path / "elsewhere").folder
    assert (code / "src/a.py").read_text() == "1"
    assert not list(code.rglob("*.pyc"))


def test_packages_that_are_trusted_are_in_the_snapshot(tmp_path, monkeypatch, caplog):
    lab = tmp_path / "labs" / "mylab"
    lab.mkdir(parents=True)
    (lab / "__init__.py").write_text("WHERE = __file__\n")
    monkeypatch.syspath_prepend(lab.parent)
    monkeypatch.setenv("ATOMSWEEP_PLUGINS", "mylab")
    taken = snapshot.take(tmp_path / "runs")
    code = taken.folder
    env = {"PYTHONPATH": ":".join(snapshot.import_paths(code)), "PATH": "/usr/bin:/bin"}
    told = [sys.executable, "-c", "import mylab; print(mylab.WHERE)"]
    done = subprocess.run(told, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(code / "plugins" / "mylab" / "__init__.py")
    assert commit_of(code / "plugins" / "mylab") == commit_of(lab)  # not of what runs/ lies in
    (lab / ".__init__.py.swp").write_text("an editor's")
    taken.warn_of_changes()
    assert caplog.text == ""
    (lab / "__init__.py").write_text("WHERE = 'edited'\n")
    taken.warn_of_changes()
    assert "the code has changed" in caplog.text


def test_a_refused_launch_leaves_nothing_and_another_ones_snapshot_stays(tmp_path):
    root = tmp_path / "runs"
    first = snapshot.take(root)
    second = snapshot.take(root)
    second.discard()  # it made nothing
    assert first.folder.is_dir()
    first.discard()
    assert not root.exists()
    root.mkdir()  # the user's own folder, though empty
    snapshot.take(root).discard()
    assert list(root.iterdir()) == []
    kept = snapshot.take(root)
    (root / "a-run").mkdir()
    kept.discard()
    assert kept.folder.is_dir()


@pytest.mark.slow
def test_code_edited_while_a_sweep_runs_is_in_none_of_its_cells_and_the_record_is_true(
    place,
    tmp_path,
):
    """Modules that were loaded at the launch and modules that a cell loads when it starts."""
    copy = tmp_path / "checkout"
    for name in ("src", "conf", "sweeps"):
        passed = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=passed)
    shutil.copy(REPOSITORY / "run.py", copy)
    place.env["PYTHONPATH"] = str(copy / "src")
    place.script = copy / "run.py"
    package = copy / "src" / "atomsweep"
    cells = ["-m", "seed=0,1", *SMALL, "engine.steps=100", "cluster.parallel=1"]
    process = place.start(*cells, fresh=True)
    wait_for_step(place.path / "runs", 5, process)
    preloaded, later = (
        package / "engine" / "optim.py",
        package / "data" / "generated" / "mini_oc.py",
    )
    for path in (preloaded, later):
        path.write_text(path.read_text() + "\nraise RuntimeError('edited in mid-launch')\n")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "the code has changed since this launch began" in output
    first, second = place.runs()
    assert [run.state() for run in (first, second)] == [schema.FINISHED] * 2
    assert first.environment["code"] == second.environment["code"]
    (code,) = first.environment["code"]
    hash_of.cache_clear()
    assert {name: hash_of(name) for name in code} == code
