"""Content hashes of source files, remembered by size and time of change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from atomsweep.tracking.files import read_text, write_atomic

WHOLE = 256 << 20  # bytes; of larger files blocks are hashed
BLOCK, BLOCKS = 1 << 20, 64
_MEMORY = "file_hashes.json"


def content_hash(paths: Sequence[Path], root: Path) -> str:
    """SHA-256 over the contents of files in their order, independent of names and places.

    Of a file above 256 MiB its size and 64 blocks of 1 MiB, spread evenly from its first to its
    last byte, stand for the content: reading a terabyte to name a run would take an hour. Hashes of
    single files are remembered in `<root>/file_hashes.json` while size and time of change
    stay the same, so that large files are read once.
    """
    memory_file = root / _MEMORY
    try:
        memory: dict[str, str] = json.loads(read_text(memory_file))
    except (OSError, ValueError):
        memory = {}
    total, news = hashlib.sha256(), {}
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in memory:
            news[key] = _file_hash(path, stat.st_size)
        total.update((memory.get(key) or news[key]).encode())
    if news:
        _remember(memory_file, {**memory, **news})
    return total.hexdigest()


def _file_hash(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size}|{BLOCK}|{BLOCKS}".encode())
        for block in range(BLOCKS):
            file.seek(block * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _remember(path: Path, memory: dict[str, str]) -> None:
    """Only a convenience: where it cannot be written, files are hashed again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(memory, indent=1), durable=False)
