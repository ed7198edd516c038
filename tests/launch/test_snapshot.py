"""The code of a queued job."""

import json
import subprocess
import sys

from atomsweep.launch import snapshot
from atomsweep.tracking.environment import commit_of, source_directory
from tests.places import REPOSITORY


def test_a_snapshot_runs_its_own_code_and_knows_where_it_came_from(tmp_path):
    folder = snapshot.take(tmp_path)
    assert (folder / "run.py").read_bytes() == (REPOSITORY / "run.py").read_bytes()
    assert (folder / "conf/config.yaml").is_file()
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


def test_the_same_code_is_kept_once_and_changed_code_apart(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    file.write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda: {"src/a.py": file})
    first = snapshot.take(tmp_path)
    assert snapshot.take(tmp_path) == first
    file.write_text("2")
    second = snapshot.take(tmp_path)
    assert second != first
    assert (first / "src/a.py").read_text() == "1"
    assert (second / "src/a.py").read_text() == "2"
