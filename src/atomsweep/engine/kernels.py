"""The folder of compiled kernels, and what a killed compiler has left there half written."""

import hashlib
import logging
import os
import platform
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

WRITING_SECONDS = 5.0  # nothing is being written that nobody has written to for so long
HEADER_BEGUN = b"gpcWrite"
CPU_LINES = ("model name", "flags", "Features", "CPU part")  # of /proc/cpuinfo, x86 and ARM

log = logging.getLogger(__name__)


def cpu_kind() -> str:
    """`avx512-1f0c9a2b`: vectors of the CPU, and a hash of all that its code may use.

    The compiler takes what this very CPU has (-march=native), and torch tells kernels apart by
    vectors alone.
    """
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        told = [platform.processor()]
    own = {line for line in told if line.partition(":")[0].strip() in CPU_LINES}
    words = " ".join(sorted(own)) or platform.processor()
    digest = hashlib.sha256(words.encode()).hexdigest()[:8]
    return f"{torch.backends.cpu.get_cpu_capability().lower()}-{digest}"


def remove_damaged(folder: Path) -> list[Path]:
    """Take away libraries and headers of a folder that are not whole, to be compiled again.

    A compiler that is killed leaves its file half written, and torch (2.13) takes each that is
    there for a whole one: every later run of the folder would be trained eagerly, or without the
    CPU's vectors where it was a trial of those. A library that is being written has its time, and
    a header that a living process makes is locked.
    """
    found = []
    for path in _compiled_files(folder):
        try:
            if not _is_whole(path) and _is_left(path):
                path.unlink()
                found.append(path)
        except OSError:  # another run has taken it away, or it is another user's
            continue
    if found:
        log.info("%d files of %s were half written; they are compiled again", len(found), folder)
    return found


def _compiled_files(folder: Path) -> Iterator[Path]:
    """Libraries and headers below a folder; other runs may add and take away what they like."""
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in sorted(names) if name.endswith((".so", ".gch")))


def _is_left(path: Path) -> bool:
    """Whether nobody writes a file that is not whole; a young library is waited for."""
    if path.suffix == ".gch":  # GCC leaves it alone for as long as it reads the source
        return not _is_held(path.parent / "locks" / f"{path.name.partition('.')[0]}.lock")
    if _now(path.parent) - path.stat().st_mtime > WRITING_SECONDS:
        return True
    seen, since = None, 0.0
    while not _is_whole(path):
        state = path.stat()
        if (state.st_size, state.st_mtime_ns) != seen:
            seen, since = (state.st_size, state.st_mtime_ns), time.monotonic()
        elif time.monotonic() - since > WRITING_SECONDS:
            return True
        time.sleep(0.2)
    return False


def _is_held(lock: Path) -> bool:
    """Whether a living process has the lock that torch takes while it makes a header."""
    from filelock import FileLock, Timeout  # torch's own

    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _now(folder: Path) -> float:
    """The time by the clock of a file system, which need not be this machine's."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return Path(file.name).stat().st_mtime


def _is_whole(path: Path) -> bool:
    """Whether an ELF library reaches to the end of its table of sections, which is its last part.

    A header of GCC begins with another word until it is whole. Of other kinds only whether there is
    something.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if path.suffix == ".gch":
        return any(head) and not head.startswith(HEADER_BEGUN)
    if head[:4] != b"\x7fELF":
        return any(head)
    if len(head) < 64 or head[4:6] != b"\x02\x01":  # not of 64 bits, the lowest byte first
        return len(head) == 64
    (sections,) = struct.unpack_from("<Q", head, 0x28)
    each, number = struct.unpack_from("<HH", head, 0x3A)
    return bool(sections) and size >= sections + each * number
