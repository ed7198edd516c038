"""Files of one split that are in another: told, or refused where they are trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from atomsweep.data.filehash import content_hash
from atomsweep.data.structure import DataError

Files = Mapping[str, Sequence[Path]]  # of each split, `train` first

log = logging.getLogger(__name__)


def check_shared(files_of: Files) -> None:
    """Say that a file is in two splits; refuse it if training is one of them.

    Raises:
        ValueError: a model would be judged by what it was trained on.
    """
    splits: dict[Path, str] = {}
    for split, files in files_of.items():
        for file in dict.fromkeys(path.resolve() for path in files):
            first = splits.setdefault(file, split)
            if first == "train" != split:
                raise ValueError(
                    f"{file} is in data.path and in data.{split}: a model would be judged by "
                    "frames that it was trained on; name other files, or hold frames out by "
                    "data.val_fraction"
                )
            if first != split:
                log.warning("%s is in data.%s and in data.%s", file, first, split)


def check_copies(files_of: Files, root: Path) -> None:
    """As `check_shared`, by the contents of files of one size."""
    sizes: dict[int, list[Path]] = {}
    for file in files_of["train"]:
        sizes.setdefault(file.stat().st_size, []).append(file)
    for split, files in files_of.items():
        for file in files if split != "train" else ():
            for other in sizes.get(file.stat().st_size, ()):
                if content_hash([file], root) == content_hash([other], root):
                    raise DataError(
                        f"{file} of data.{split} is a copy of {other} of data.path: a model "
                        "would be judged by frames that it was trained on"
                    )
