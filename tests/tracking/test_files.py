import errno
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomsweep.tracking import files


def test_written_text_and_bytes_are_read_back(tmp_path):
    files.write_atomic(tmp_path / "a", "Å")
    files.write_atomic(tmp_path / "b", b"\x00\x01")
    assert (tmp_path / "a").read_text() == "Å"
    assert (tmp_path / "b").read_bytes() == b"\x00\x01"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_full_disk_leaves_the_previous_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    files.write_atomic(path, b"old")
    real = os.write
    calls = []

    def full_after_some_bytes(fd, data):
        calls.append(fd)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:3])

    monkeypatch.setattr(os, "write", full_after_some_bytes)
    with pytest.raises(OSError, match="free some space") as caught:
        files.write_atomic(path, b"new content")
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_file_size_limit_of_the_system_leaves_the_previous_file(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    code = (
        "import resource, sys; from pathlib import Path; from atomsweep.tracking import files;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "files.write_atomic(Path(sys.argv[1]), b'x' * 5000)"
    )
    done = _python(code, path)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_last_word_is_heard_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    for before in ({"state": "running", "values": {"train/loss": 0.123456789}}, {"a": 1}):
        files.write_atomic(path, files.dumps(before))

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_atomic", full)
            files.overwrite(path, files.dumps({"state": "failed"}))
        assert files.read_json(path) == {"state": "failed"}


def test_an_error_of_the_system_is_a_sentence(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a"))
    assert files.told(full) == (
        f"{tmp_path}/a: No space left on device; free some space and run the same command again"
    )
    with pytest.raises(FileNotFoundError) as caught:
        files.write_atomic(tmp_path / "none" / "a", "x")
    told = files.told(caught.value)
    assert told.startswith(f"cannot write {tmp_path}/none/a: No such file")
    assert told.count("create its directory") == 1
    assert files.told(ValueError("as it is")) == "as it is"


def test_yaml_that_is_nested_too_deeply_ends_no_process():
    for text in ("[" * 100_000, "{a: " * 100_000, "- " * 100_000, "[" * 300 + "]" * 300):
        with pytest.raises(files.DamagedFile, match="nested|no YAML"):
            files.read_yaml(text)
    assert files.read_yaml("a: {b: [1e-3, 2]}") == {"a": {"b": [1e-3, 2]}}


def test_missing_directory_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="create its directory"):
        files.write_atomic(tmp_path / "none" / "a", "x")


@pytest.mark.parametrize("seed", range(3))
def test_kill_in_mid_write_leaves_a_whole_file(tmp_path, seed):
    path = tmp_path / "status.json"
    code = (
        "import sys, itertools; from pathlib import Path; from atomsweep.tracking import files\n"
        "for i in itertools.count():\n"
        "    files.write_atomic(Path(sys.argv[1]), (str(i % 10) * 200_000), durable=False)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=_env())
    while not path.exists():
        time.sleep(0.005)
    time.sleep(0.013 * (seed + 1))
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    content = path.read_text()
    assert len(content) == 200_000
    assert len(set(content)) == 1
    files.remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_lines_are_read_back_in_order(tmp_path):
    path = tmp_path / "m.jsonl"
    for step in range(3):
        files.append_line(path, {"step": step})
    assert [line["step"] for line in files.read_lines(path)] == [0, 1, 2]
    assert files.read_lines(tmp_path / "none") == []


def test_line_without_its_end_is_left_out_and_swallows_nothing(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "tra')
    with caplog.at_level(logging.WARNING):
        assert files.read_lines(path) == [{"step": 1}]
    assert not caplog.records  # an everyday matter after a kill
    files.append_line(path, {"step": 3})
    with caplog.at_level(logging.WARNING):
        assert files.read_lines(path) == [{"step": 1}, {"step": 3}]
    assert "line 2 is damaged" in caplog.text


def test_every_cut_of_a_file_of_lines_can_be_read(tmp_path):
    path = tmp_path / "m.jsonl"
    for step in range(3):
        files.append_line(path, {"step": step, "x": "Å"})
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert len(files.read_lines(path)) == raw[:length].count(b"\n")


def test_append_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    files.append_line(path, {"step": 1})
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(OSError, match="free some space"):
        files.append_line(path, {"step": 2})
    monkeypatch.undo()
    assert path.read_text() == '{"step": 1}\n'


def test_lines_of_many_writers_stay_whole(tmp_path):
    path = tmp_path / "m.jsonl"
    code = (
        "import sys; from pathlib import Path; from atomsweep.tracking import files\n"
        "for i in range(200):\n"
        "    files.append_line(Path(sys.argv[1]), {'step': i, 'pad': 'x' * 500})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path)], env=_env()) for _ in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(line["step"] for line in files.read_lines(path)) == sorted([*range(200)] * 2)


def test_truncation_keeps_steps_up_to_the_given_one(tmp_path):
    path = tmp_path / "m.jsonl"
    for step in (10, 20, 20, 30):
        files.append_line(path, {"step": step})
    with path.open("a") as out:
        out.write('{"step": 4')
    assert files.truncate_after(path, 20) == 2
    assert [line["step"] for line in files.read_lines(path)] == [10, 20, 20]
    assert path.read_text().endswith("\n")
    assert files.truncate_after(path, 20) == 0
    assert files.truncate_after(tmp_path / "none", 0) == 0


def test_non_finite_numbers_are_strict_json_and_come_back(tmp_path):
    path = tmp_path / "m.jsonl"
    files.append_line(path, {"step": 1, "a": math.nan, "b": math.inf, "c": [-math.inf, 0.1]})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (line,) = files.read_lines(path)
    assert math.isnan(line["a"])
    assert line["b"] == math.inf
    assert line["c"] == [-math.inf, 0.1]


def test_every_float_comes_back_exactly():
    values = [0.1, 1e-300, 1 / 3, 1e22, -0.0]
    assert files.loads(files.dumps(values)) == values


def test_damaged_json_file_is_named(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        files.read_json(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        files.read_json(path)


def test_yaml_reads_exponents_as_numbers_and_runs_nothing():
    config = files.read_yaml("a: 1e-3\nb: 1.5E+2\nc: 0.001\nd: 1e3x\ne: 12\nf: none\n")
    assert config == {"a": 1e-3, "b": 150.0, "c": 0.001, "d": "1e3x", "e": 12, "f": "none"}
    with pytest.raises(Exception, match="could not determine a constructor"):
        files.read_yaml("!!python/object/apply:os.getcwd []")


def _env():
    return os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}


def _python(code, *arguments):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limit
    return done
