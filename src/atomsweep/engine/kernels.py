"""The folder of compiled kernels, and what a killed compiler has left there half written."""

import hashlib
import logging
import platform
import struct
from glob import glob
from pathlib import Path

import torch
from filelock import FileLock  # torch's own

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
    CPU's vectors where it was a trial of those. While torch has a file written it holds the lock of
    that file's key, so what is not whole is taken away under the same lock, or left to who has it.
    """
    found = []
    # where torch has libraries and headers; Path.glob would fail where a folder goes meanwhile
    names = [*glob("*/*.so", root_dir=folder), *glob("*.gch", root_dir=folder)]  # noqa: PTH207
    for name in sorted(names):
        path = folder / name
        lock = folder / "locks" / f"{path.name.partition('.')[0]}.lock"
        try:
            if _is_whole(path):
                continue
            lock.parent.mkdir(exist_ok=True)
            with FileLock(lock, timeout=0):
                if not _is_whole(path):  # its compiler may just have ended
                    path.unlink()
                    found.append(path)
        except OSError:  # it is being written, another run has taken it away, or another user's
            continue
    if found:
        log.info("%d files of %s were half written; they are compiled again", len(found), folder)
    return found


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
