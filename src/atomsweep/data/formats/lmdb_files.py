"""LMDB files of other programs: opened safely, keys counted, shards checked. No pickle here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from atomsweep.data.store.environment import open_environment
from atomsweep.data.structure import DataError

_SHARD = re.compile(r"(.*?)(\d+)(\.(?:ase)?lmdb)")


def open_foreign(path: Path) -> Any:
    """A read-only environment.

    Raises:
        DataError: the file is no LMDB, or was cut off.
    """
    try:
        return open_environment(path)
    except lmdb.Error as error:
        raise DataError(f"{path} is not an LMDB file: {error}") from error


def get(path: Path, key: bytes) -> bytes | None:
    """A value by its key.

    Raises:
        DataError: the file is no LMDB, was cut off or is damaged.
    """
    try:
        with open_foreign(path).begin() as transaction:
            return transaction.get(key)
    except lmdb.Error as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def count_keys(path: Path, besides: Sequence[bytes]) -> int:
    """Number of keys, those in `besides` not counted."""
    with open_foreign(path).begin() as transaction:
        extra = sum(transaction.get(key) is not None for key in besides)
        return int(transaction.stat()["entries"]) - extra


def check_shards(files: Sequence[Path]) -> None:
    """Check that of the numbered files of each directory none is missing.

    Raises:
        DataError: one is; names it.
    """
    shards: dict[tuple[Path, str, str], dict[int, str]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault((file.parent, match[1], match[3]), {})[int(match[2])] = match[2]
    for (folder, stem, suffix), numbers in shards.items():
        first, last = (0, max(numbers)) if len(numbers) > 1 else (max(numbers), max(numbers))
        for number in range(first, last + 1):
            if number not in numbers:
                width = len(numbers[last])
                raise DataError(
                    f"{folder / f'{stem}{number:0{width}d}{suffix}'} is missing, while "
                    f"{stem}{numbers[last]}{suffix} is there; fetch it, or name the files to use "
                    "one by one"
                )
