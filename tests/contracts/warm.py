"""Processes without their imports: a server that has torch and Hydra loaded, and forks when asked.

The interpreter takes seconds to import them, a fork takes none. What is forked is a process of its
own, in a session of its own, with the signals, arguments, environment and exit of a fresh one; the
fork server that a sweep starts is forked as well. Run by `tests.contracts.commands`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

MODES = "ATOMSWEEP_TEST_MODES"  # in the environment of a process that modes of files hold for
START = "from multiprocessing.forkserver import main"


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork on request, tell how children end; returns in each child, and None when control ends."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the tests
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    living: set[int] = set()
    while True:
        ready, _, _ = select.select([control, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            while living:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if not pid:
                    break
                living.discard(pid)
                code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
                control.send(json.dumps({"pid": pid, "code": code, "cpu": seconds}).encode())
        if control in ready:
            message = control.recv(1 << 20)
            if not message:
                for pid in living:
                    os.killpg(pid, signal.SIGKILL)
                return None
            pid = os.fork()
            if not pid:
                os.setsid()
                os.close(ended)
                os.close(wake)
                control.close()
                return json.loads(message)
            living.add(pid)
            control.send(json.dumps({"pid": pid}).encode())


def become(wanted: dict[str, Any]) -> None:
    """Make this process what an interpreter would have started as."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(wanted["cwd"])
    multiprocessing.process.ORIGINAL_DIR = wanted["cwd"]
    os.environ.clear()
    os.environ.update(wanted["env"])
    output = os.open(wanted["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if os.environ.pop(MODES, None):
        obey_modes()
    sys.argv = wanted["argv"]
    multiprocessing.util.spawnv_passfds = _forked_server


def obey_modes() -> None:
    """Let modes of files hold for root, too: take away what overrides them, in children as well."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capabilities; this process
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for place in range(3):  # effective, permitted, inheritable
        sets[place] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: an exec gives it back otherwise
    assert libc.capset(header, sets) == 0


def run(cwd: str) -> None:
    """What the interpreter was asked for."""
    if sys.argv[0] == "-m":
        sys.path.insert(0, cwd)
        name = sys.argv.pop(1)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(sys.argv[0]))  # noqa: PTH120
        runpy.run_path(sys.argv[0], run_name="__main__")


def leave(code: object) -> NoReturn:
    """End as an interpreter does that takes nothing apart: that takes longer than most commands."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


def _forked_server(path: bytes, args: list[Any], passfds: list[int], start: Any = None) -> int:
    """What `multiprocessing` starts an interpreter with; its fork server is forked instead."""
    code = args[-1]
    if not (isinstance(code, str) and code.startswith(START)) or threading.active_count() > 1:
        return _spawn(path, args, passfds)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        kept = sorted({0, 1, 2, *passfds})
        for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        multiprocessing.util._finalizer_registry.clear()
        multiprocessing.resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
        multiprocessing.forkserver._forkserver.__init__()  # type: ignore[misc]  # its lock is held
        exec(code, {})
    except SystemExit:
        pass
    finally:
        os._exit(0)


_spawn = multiprocessing.util.spawnv_passfds


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    import hydra  # noqa: F401
    from hydra.core.plugins import Plugins

    from atomsweep.launch.execute import PRELOAD

    for module in (*PRELOAD, "atomsweep.launch.one", "atomsweep.launch.many", "optuna"):
        __import__(module)
    Plugins.instance()  # looks for Hydra's plugins in every installed package
    gc.collect()
    gc.freeze()  # what is forked looks for garbage among its own objects only
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        become(wanted)
        code = None
        try:
            run(wanted["cwd"])
        except SystemExit as end:
            code = end.code
        leave(code)  # not above: what the error holds is let go first, as an interpreter does
