"""The folder of compiled kernels, and what a killed compiler has left there half written."""

import logging
import struct
import time
from pathlib import Path

LINKING_SECONDS = 5.0  # no library is being written that nobody has written to for so long

log = logging.getLogger(__name__)


def remove_damaged(folder: Path) -> list[Path]:
    """Take away the libraries of a folder that are not whole, for a compiler to write again.

    A compiler that is killed leaves its library half written, and torch (2.13) takes each that is
    there for a whole one: every later run of the folder would be trained eagerly, or without the
    CPU's vectors where it was a trial of those. A library that is being written has its time.
    """
    found = []
    for path in sorted(folder.rglob("*.so")):
        try:
            while not _is_whole(path):
                age = time.time() - path.stat().st_mtime
                if age > LINKING_SECONDS or age < 0:
                    path.unlink()
                    found.append(path)
                    break
                time.sleep(0.2)
        except OSError:  # another run has taken it away, or it is another user's
            continue
    if found:
        log.info("%d kernels of %s were half written; they are compiled again", len(found), folder)
    return found


def _is_whole(path: Path) -> bool:
    """Whether an ELF library reaches to the end of its table of sections, which is its last part.

    Of libraries of other kinds only whether there is something.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] != b"\x7fELF":
        return any(head)
    if len(head) < 64 or head[4:6] != b"\x02\x01":  # not of 64 bits, the lowest byte first
        return len(head) == 64
    (sections,) = struct.unpack_from("<Q", head, 0x28)
    each, number = struct.unpack_from("<HH", head, 0x3A)
    return bool(sections) and size >= sections + each * number
