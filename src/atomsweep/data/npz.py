"""Numpy archives of other programs, read without pickle, never unpacked beyond their headers."""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atomsweep.data.structure import Array, DataError

MAX_BYTES = 16 << 30  # of one array
MAX_RATIO = 200  # of unpacked to packed bytes, for arrays above FREE_BYTES
FREE_BYTES = 256 << 20


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Arrays of plain numbers of an archive.

    Args:
        path: the archive.
        names: arrays wanted; others are not looked at. None reads all that hold numbers.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no archive of arrays, lacks one of `names`, holds Python objects, a member
            with a path, or one that unpacks to far more than it should; names file and array.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            for name in members:
                if "/" in name or "\\" in name or not name.endswith(".npy"):
                    raise DataError(f"{path} holds {name!r}, which is no array of an .npz file")
            there = [name.removesuffix(".npy") for name in members]
            for name in names if names is not None else ():
                if name not in there:
                    raise DataError(f"{path} has no array {name}; it has {', '.join(there)}")
            wanted = names if names is not None else there
            return {name: _read(archive, members[f"{name}.npy"], path) for name in wanted}
    except DataError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Array:
    name = f"array {info.filename.removesuffix('.npy')} of {path}"
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            read = read or np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except ValueError as error:
            raise DataError(f"{name} has no readable header: {error}") from error
        if dtype.hasobject or dtype.kind not in "biufUS":
            raise DataError(f"{name} holds Python objects ({dtype}), which are never loaded")
        if min(shape, default=0) < 0:  # a negative size would be read without end
            raise DataError(f"{name} has the impossible shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        limit = max(FREE_BYTES, min(MAX_BYTES, MAX_RATIO * max(info.compress_size, 1)))
        if size > limit:
            raise DataError(
                f"{name} would unpack from {info.compress_size} to {size} bytes; if that is right, "
                "store it without compression"
            )
        data = file.read(size)  # never more than its header says
        if len(data) != size:
            raise DataError(f"{name} is cut off: {len(data)} of {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
