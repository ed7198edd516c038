"""The folder of compiled kernels, and what a killed compiler has left there half written."""

import hashlib
import logging
import platform
import struct
import tempfile
import time
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
    CPU's vectors where it was a trial of those. A file that is being written has its time.
    """
    found = []
    for path in sorted(path for end in ("*.so", "*.gch") for path in folder.rglob(end)):
        try:
            while not _is_whole(path):
                if _now(path.parent) - path.stat().st_mtime > WRITING_SECONDS:
                    path.unlink()
                    found.append(path)
                    break
                time.sleep(0.2)
        except OSError:  # another run has taken it away, or it is another user's
            continue
    if found:
        log.info("%d files of %s were half written; they are compiled again", len(found), folder)
    return found


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
