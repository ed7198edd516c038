"""How a command ends that nobody reads, or that is stopped before it has begun."""

import os
import signal
import subprocess
import sys

import pytest

from tests.places import REPOSITORY

WORDS = (
    ["-m", "atomsweep", "--help"],
    ["-m", "atomsweep", "status"],
    *(
        pytest.param(words, marks=pytest.mark.slow)
        for words in (
            ["-m", "atomsweep", "run", "--help"],
            ["-m", "atomsweep", "run", "--help", "all"],
            ["-m", "atomsweep", "report", "--help"],
            ["-m", "atomsweep", "data", "--help"],
            ["-m", "atomsweep", "status", "--help"],
            [str(REPOSITORY / "run.py"), "--cfg", "job"],
        )
    ),
)


@pytest.mark.parametrize("words", WORDS)
def test_a_reader_that_has_read_enough_gets_no_traceback(tmp_path, words):
    """The pipe is closed before the first byte, which is the worst that `head` can do."""
    (tmp_path / "runs").mkdir()
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
    )
    os.close(write)
    _, told = process.communicate(timeout=120)
    assert told == ""
    assert process.returncode in (0, 1)  # argparse hears of it itself, and is content


@pytest.mark.parametrize("entry", [[str(REPOSITORY / "run.py")], ["-m", "atomsweep", "status"]])
def test_an_interrupt_at_the_start_is_one_sentence(tmp_path, entry):
    """It comes while the first heavy import is under way, held up by a module that waits for it."""
    (tmp_path / "argparse.py").write_text(
        "import os, time\nos.write(1, b'imports')\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY / "src")])
    process = subprocess.Popen(
        [sys.executable, *entry],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert os.read(process.stdout.fileno(), 7) == b"imports"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert told == "stopped; the same command continues\n"
    assert process.returncode == 130


def test_a_closed_output_is_no_error(tmp_path):
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "atomsweep", "status"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
