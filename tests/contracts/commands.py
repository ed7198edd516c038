"""Commands as a user types them, in processes of their own that can be watched and killed."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory
from tests.places import REPOSITORY

SERVER = Path(__file__).with_name("warm.py")


def environment(**more: str) -> dict[str, str]:
    """What finds the code, and keeps each process to one thread."""
    path = f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def last_of_each(words: list[str]) -> list[str]:
    """Words of which each key is typed once: what a test adds replaces what all of them share."""
    keys = [word.partition("=")[0] if "=" in word else number for number, word in enumerate(words)]
    return [word for number, word in enumerate(words) if keys[number] not in keys[number + 1 :]]


class Place:
    """A directory for runs, and the environment that finds code and data."""

    def __init__(self, path: Path, env: dict[str, str]) -> None:
        self.path, self.env = path, env
        self.script = REPOSITORY / "run.py"

    def start(self, *arguments: str, root: str = "runs", fresh: bool = False) -> Started:
        """`python run.py <arguments>`; `fresh` in a new interpreter, for what that is about."""
        words = last_of_each([*arguments, f"root={self.path / root}"])
        return Started([str(self.script), *words], self.path, self.env, fresh)

    def run(self, *arguments: str, root: str = "runs", fresh: bool = False) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(*arguments, root=root, fresh=fresh)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def type(self, *words: str) -> tuple[int, str]:
        """Exit code and output of `atomsweep <words>`."""
        started = Started(["-m", "atomsweep", *words], self.path, self.env)
        output, _ = started.communicate()
        return started.returncode, output

    def runs(self, root: str = "runs") -> list[RunDirectory]:
        """The run directories below `root`."""
        return find_runs(self.path / root)


class Started:
    """`python <words>` in a session of its own; as `subprocess.Popen`, as far as tests need it.

    Unless `fresh`, it is forked from a process that has imported torch and Hydra.
    """

    def __init__(
        self, words: list[str], cwd: Path, env: dict[str, str], fresh: bool = False
    ) -> None:
        self.returncode: int | None = None
        number = len(list(cwd.glob(".output-*")))
        self._output = cwd / f".output-{number}"
        self._process = None
        if fresh:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, *words],
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            self.pid = self._process.pid
        else:
            self.pid = warm_server().start(words, cwd, env, self._output)

    def poll(self) -> int | None:
        """The exit code, or None as long as there is none."""
        if self.returncode is None:
            ended = self._process.poll if self._process else lambda: warm_server().ended(self.pid)
            self.returncode = ended()
        return self.returncode

    def wait(self, timeout: float = 300.0) -> int:
        """The exit code, once there is one."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"not ended after {timeout:.0f} s:\n{self.output()}")
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout: float = 300.0) -> tuple[str, None]:
        """All that it has written, once it has ended."""
        self.wait(timeout)
        return self.output(), None

    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text() if self._output.exists() else ""

    def send_signal(self, number: int) -> None:
        """To this process alone; `os.killpg` reaches those it has started."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As kill -9 does."""
        self.send_signal(signal.SIGKILL)


@cache
def warm_server() -> Server:
    """One for all tests of this process, started by the first that needs it."""
    server = Server()
    atexit.register(server.close)
    return server


class Server:
    """Speaks with `warm.py`."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.cpu_seconds = 0.0
        self._codes: dict[int, int] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), str(theirs.fileno())],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(self, words: list[str], cwd: Path, env: dict[str, str], output: Path) -> int:
        """The process id of `python <words>`."""
        wanted = {"argv": words, "cwd": str(cwd), "env": env, "output": str(output)}
        self._control.setblocking(True)
        self._control.send(json.dumps(wanted).encode())
        while (pid := self._hear()) is None:
            pass
        return pid

    def ended(self, pid: int) -> int | None:
        """The exit code of a process that has ended."""
        self._control.setblocking(False)
        try:
            while True:
                self._hear()
        except BlockingIOError:
            return self._codes.get(pid)

    def _hear(self) -> int | None:
        """Take one message: who has started, or how somebody ended."""
        message = self._control.recv(1 << 16)
        assert message, "the warm server has died"
        told = json.loads(message)
        if "code" not in told:
            return told["pid"]
        self._codes[told["pid"]] = told["code"]
        self.cpu_seconds += told["cpu"]
        return None

    def close(self) -> None:
        """End it, and what it has left."""
        self._control.close()
        self._process.wait()
