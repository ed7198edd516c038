"""The files that a path, directory, glob pattern or list of them means."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from atomsweep.data.frames import Reader

Paths = str | Sequence[str]
BRING = "docs/data.md, Bring the data, says where published sets come from and where they go"


def find_files(paths: Paths, reader: Reader) -> list[Path]:
    """Files of a reader's kind at a path, directory, glob pattern or list of them, in order.

    Raises:
        FileNotFoundError: one of them matches no such file.
    """
    kinds = ", ".join(reader.suffixes)
    found: list[Path] = []
    for one in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(one).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and reader.reads(p))
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
            matches = [p for p in matches if p.is_file()]
        if not matches:
            raise FileNotFoundError(f"no file of structures ({kinds}) at {one}; {BRING}")
        for match in matches:
            if not reader.reads(match):
                raise ValueError(f"{match} is not {kinds}")
        found += matches
    return found
