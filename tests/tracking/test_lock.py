import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from atomsweep.tracking.lock import Locked, exclusive, is_locked
from tests.places import SOURCE

HOLD = (
    "import sys, time; from pathlib import Path; from atomsweep.tracking.lock import exclusive\n"
    "with exclusive(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds `lock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_second_holder_is_refused_and_told_who_has_it(tmp_path, other):
    with pytest.raises(Locked) as caught, exclusive(tmp_path / "lock", wait_s=0):
        pass
    assert caught.value.holder["pid"] == other.pid
    assert is_locked(tmp_path / "lock")


def test_killed_holder_lets_go_at_once(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not is_locked(tmp_path / "lock")
    with exclusive(tmp_path / "lock", wait_s=0):
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


def test_looking_does_not_make_the_lock(tmp_path):
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_same_process_cannot_hold_twice(tmp_path):
    with exclusive(tmp_path / "lock"), pytest.raises(Locked), exclusive(tmp_path / "lock", 0):
        pass
    with exclusive(tmp_path / "lock", wait_s=0):
        pass


def test_wait_ends_when_the_holder_does(tmp_path, other):
    other.kill()
    start = time.monotonic()
    with exclusive(tmp_path / "lock", wait_s=30):
        assert time.monotonic() - start < 10


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_worker_does_not_keep_the_lock_of_its_parent(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with exclusive(tmp_path / "lock"):
        worker.start()
        assert is_locked(tmp_path / "lock")
    try:
        deadline = time.monotonic() + 5
        while is_locked(tmp_path / "lock") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert worker.is_alive()
        assert not is_locked(tmp_path / "lock")
    finally:
        worker.kill()
        worker.join()
