"""Where files that are derived from a data set lie: beside it, or in the user's cache."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from atomsweep.data.dataset import StructureDataset

UNKEPT = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What keeps a file from being kept, though it could be made."""


def derived_place(dataset: StructureDataset, kind: str, settings: str) -> Path | None:
    """Path of what is derived from a data set in one way; None where nothing can be kept.

    Beside the data where that can be written, else in `$XDG_CACHE_HOME/atomsweep` (`~/.cache`);
    what is there already is taken from either.

    Args:
        dataset: what it is derived from.
        kind: folder of all that is derived so, e.g. `neighbors`.
        settings: how it is derived.
    """
    if not dataset.content or dataset.cache_dir is None:
        return None
    name = hashlib.sha256(f"{settings}|{dataset.content}".encode()).hexdigest()[:16]
    folders = [dataset.cache_dir / kind, user_cache() / kind]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder / name
    return None


def user_cache() -> Path:
    """The user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atomsweep"
