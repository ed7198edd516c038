"""Content hashes of source files, remembered by size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

_MEMORY = "file_hashes.json"


def content_hash(paths: Sequence[Path], root: Path) -> str:
    """SHA-256 over the contents of files in their order, independent of names and places.

    Hashes of single files are remembered in `<root>/file_hashes.json` while size and time of change
    stay the same, so that large files are read once.
    """
    memory_file = root / _MEMORY
    try:
        memory: dict[str, str] = json.loads(memory_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        memory = {}
    total, news = hashlib.sha256(), {}
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in memory:
            with path.open("rb") as file:
                news[key] = hashlib.file_digest(file, "sha256").hexdigest()
        total.update((memory.get(key) or news[key]).encode())
    if news:
        _remember(memory_file, {**memory, **news})
    return total.hexdigest()


def _remember(path: Path, memory: dict[str, str]) -> None:
    """Only a convenience: where it cannot be written, files are hashed again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(memory, indent=1), encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105
    except OSError:
        temporary.unlink(missing_ok=True)
