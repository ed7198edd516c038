"""Processes that are killed while somebody waits for what they find."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atomsweep.processes import ProcessLost, calls


def once(place: str, number: int, doomed: int, sign: int) -> int:
    """The square of a number; the first process that is asked for `doomed` is killed."""
    mark = Path(place) / str(number)
    with mark.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if number == doomed and len(mark.read_text().splitlines()) == 1:
        os.kill(os.getpid(), sign)
    return number**2


def always(number: int) -> None:
    os._exit(3)


def refuse(number: int) -> None:
    raise ValueError(f"no {number}")


def unpicklable(number: int) -> object:
    return lambda: number


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_another_process_takes_the_place_of_one_that_dies(tmp_path, context, sign, workers):
    asked = [(str(tmp_path), number, 2, sign) for number in range(5)]
    found = list(calls(context, once, asked, workers))
    assert sorted(found) == [(i, i**2) for i in range(5)]
    if workers == 1:
        assert found == sorted(found)
    tries = {p.name: len(p.read_text().splitlines()) for p in tmp_path.iterdir()}
    assert tries == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1}
    pids = {line for p in tmp_path.iterdir() for line in p.read_text().splitlines()}
    assert len(pids) <= workers + 1  # otherwise one process makes many calls


def test_a_call_that_kills_every_process_is_given_up(context):
    with pytest.raises(ProcessLost, match="3 processes died over it, the last with exit code 3"):
        list(calls(context, always, [(1,)]))


def test_what_a_call_raises_comes_through_with_its_place(context):
    with pytest.raises(ValueError, match="no 7") as caught:
        list(calls(context, refuse, [(7,)]))
    assert any("in refuse" in note for note in caught.value.__notes__)
    with pytest.raises(RuntimeError, match="lambda"):
        list(calls(context, unpicklable, [(7,)]))


DEAD_SERVER = """
import os, signal
from contextlib import closing
from multiprocessing import forkserver, get_context
from atomsweep.processes import calls
context = get_context("forkserver")
with closing(calls(context, abs, [(-1,), (-2,)])) as results:
    assert next(results) == (0, 1)
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
assert list(calls(context, abs, [(-3,)])) == [(0, 3)]
print("replaced")
"""


def test_a_dead_fork_server_is_replaced():
    """In a process of its own: the server of the tests has loaded torch, and is not killed."""
    command = [sys.executable, "-c", DEAD_SERVER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "replaced\n", done.stderr


INTERRUPTED = """
import signal, sys, time
from atomsweep.interrupts import leave_when_asked
from atomsweep.processes import out_of_reach, stopped_in_order
leave_when_asked(signal.SIGINT, signal.SIGTERM)
if sys.argv[1] == "order":
    with stopped_in_order() as check:
        print("ready", flush=True)
        try:
            while True:
                time.sleep(0.01)
                check()
        except KeyboardInterrupt:
            print("in order", flush=True)
if sys.argv[1] == "held":
    with out_of_reach():
        print("ready", flush=True)
        time.sleep(1.0)
        print("in order", flush=True)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "number", "printed"),
    [
        ("at once", signal.SIGINT, ""),
        ("at once", signal.SIGTERM, ""),
        ("order", signal.SIGTERM, ""),
        ("held", signal.SIGINT, "in order\n"),
    ],
)
def test_a_signal_ends_a_command_in_a_sentence(what, number, printed):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    if what == "order":
        assert process.stdout.readline() == "in order\n"
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == printed
    assert err == "stopped; the same command continues\n"
