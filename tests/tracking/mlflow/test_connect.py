import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomsweep.tracking.file_systems import file_system
from atomsweep.tracking.mlflow import connect as store
from atomsweep.tracking.mlflow.connect import (
    TrackingUnavailable,
    absolute,
    check_reachable,
)
from tests.places import SOURCE
from tests.tracking.mlflow.test_mirror import closed_port

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/fast tmpfs rw 0 0
mds@tcp:/scratch /scratch\\040disk lustre rw 0 0
"""


@pytest.fixture
def mounts(tmp_path):
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/runs/mlflow.db", "ext4"),
        ("/home/me/runs/mlflow.db", "nfs4"),
        ("/home/me/fast/mlflow.db", "tmpfs"),
        ("/home/me/faster/mlflow.db", "nfs4"),
        ("/scratch disk/mlflow.db", "lustre"),
        ("/homework/mlflow.db", "ext4"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(mounts, path, kind):
    assert file_system(Path(path), mounts) == kind


def test_sqlite_on_a_network_file_system_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(store, "file_system", lambda path: "nfs4")
    with pytest.raises(TrackingUnavailable, match=r"network file system \(nfs4\).*mlflow server"):
        check_reachable("sqlite:////home/me/mlflow.db")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "runs/mlruns", ""])
def test_what_is_no_store_is_refused(uri):
    with pytest.raises(TrackingUnavailable, match=r"tracking\.uri must"):
        absolute(uri)


def test_relative_sqlite_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///runs/m.db") == f"sqlite:///{tmp_path}/runs/m.db"
    assert absolute("sqlite:////a/m.db") == "sqlite:////a/m.db"
    assert absolute("http://host:5000") == "http://host:5000"


def test_server_that_is_down_is_said_at_once_and_without_mlflow():
    code = (
        "import sys; from atomsweep.tracking.mlflow.connect import connect, TrackingUnavailable\n"
        f"try: connect('http://me:secret@127.0.0.1:{closed_port()}', 'x')\n"
        "except TrackingUnavailable as error: print(error, 'mlflow' in sys.modules)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 5
    assert "Connection refused" in done.stdout
    assert done.stdout.rstrip().endswith("False")
    assert "secret" not in done.stdout
