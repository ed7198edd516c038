"""A pipe, socket or device in the place of a file is told, never waited for."""

import os
import signal
import socket

import pytest

from atomsweep.cli.main import main
from atomsweep.tracking import schema
from atomsweep.tracking.files import append_line, read_file, read_json, read_lines
from atomsweep.tracking.lock import is_locked
from atomsweep.tracking.run import RunDirectory

CONFIG = "engine: {metric: val_id/forces_mae, device: cpu}\n"


@pytest.fixture(autouse=True)
def impatient():
    """A test that waits for a pipe fails."""

    def fail(number, frame):
        pytest.fail("waits without end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(tmp_path):
    choices = {"model": "median", "data": "mini_oc_tiny"}
    known = {"identity": "0123456789ab", "science": {}, "choices": choices, "overrides": []}
    return RunDirectory.create(tmp_path / "runs" / "a-0123456789ab", CONFIG, known)


@pytest.mark.parametrize("read", [read_file, read_json, read_lines])
def test_what_is_no_file_is_named_with_its_kind(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for name, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "s", "a socket")):
            with pytest.raises(OSError, match=f"is {kind}, expected a file; move it away"):
                read(name)
    with pytest.raises(OSError, match="is a device, expected a file"):
        read("/dev/zero")


def test_nothing_is_written_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe, expected a file"):
        append_line(tmp_path / "pipe", {"step": 1})
    assert not is_locked(tmp_path / "pipe")


@pytest.mark.parametrize(
    "name",
    [
        *(schema.RUN, schema.CONFIG, schema.STATUS, schema.RESULT, schema.SEGMENTS),
        *(schema.JOURNAL, schema.JOBS, schema.ENVIRONMENT, schema.LOCK, schema.LOG, schema.DIFF),
    ],
)
def test_a_pipe_in_place_of_a_file_of_a_run_stops_no_command(
    run, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    assert main(["status"]) == 0
    told = capsys.readouterr()
    if name not in (schema.LOCK, schema.LOG, schema.DIFF):
        assert f"{name}: is a pipe, expected a file; move it away" in told.err
    assert main(["info", run.name]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_a_pipe_in_place_of_a_plan_is_told(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / schema.PLANS).mkdir()
    os.mkfifo(tmp_path / "runs" / schema.PLANS / "mine.json")
    assert main(["status"]) == 0
    assert "mine.json: is a pipe" in capsys.readouterr().err
    assert main(["report", "latest"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_pipes_are_no_data(tmp_path, monkeypatch, capsys):
    from atomsweep.cli.data import main as data

    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "a.extxyz")
    for command in (["describe", "a.extxyz"], ["convert", "a.extxyz", "b.lmdb"]):
        assert data(command) == 1
        assert (
            capsys.readouterr().err == "error: a.extxyz: is a pipe, expected a file; move it away\n"
        )
    assert data(["describe", "."]) == 1
    os.mkfifo(tmp_path / "a.lmdb")
    assert data(["fit-normalizer", "a.lmdb"]) == 1
    assert "a.lmdb: no such store" in capsys.readouterr().err
