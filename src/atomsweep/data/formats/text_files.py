"""Text files of others, opened by what they hold: compression by its first bytes, text in UTF-8."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from atomsweep.data.structure import DataError

_OPENERS: dict[bytes, Callable[..., IO[Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
_OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z"}
_MARKS = {  # the longer one first: it begins with the shorter
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file, also compressed by gzip, xz or bzip2 whatever its name; a BOM is skipped.

    Bytes that are no UTF-8 become surrogates, so that a line can be told by `foreign_text`.

    Raises:
        DataError: compressed or encoded in another way, or damaged; says which.
        OSError: it cannot be opened or read.
    """
    with path.open("rb") as file:
        start = file.read(8)
    for mark, name in _OTHERS.items():
        if start.startswith(mark):
            raise DataError(f"the file is compressed by {name}, expected text, gzip, xz or bzip2")
    opener = next((one for mark, one in _OPENERS.items() if start.startswith(mark)), None)
    try:
        with opener(path, "rb") if opener else path.open("rb") as raw:
            binary: Any = raw
            buffered = io.BufferedReader(binary)
            _check_encoding(buffered.peek(64)[:64])
            with io.TextIOWrapper(buffered, "utf-8-sig", "surrogateescape") as text:
                yield text
    except (lzma.LZMAError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"the compressed file is cut off or damaged from here on: {error}"
        ) from error


def foreign_text(text: str) -> str | None:
    """What is wrong with a text that was not UTF-8, or None."""
    if text.isascii():
        return None
    escaped = next((one for one in text if "\udc80" <= one <= "\udcff"), None)
    if escaped is None:
        return None
    return (
        f"it is not UTF-8 text: it holds the byte 0x{ord(escaped) - 0xDC00:02x}, as Latin-1 and "
        "Windows-1252 do; convert it with iconv -f LATIN1 -t UTF-8"
    )


def _unmarked(start: bytes) -> str | None:
    """The encoding of plain text without a mark, by where its bytes are 0."""
    for name, size in (("UTF-32", 4), ("UTF-16", 2)):
        whole = start[: len(start) // size * size]
        ends = {"LE": range(1, size), "BE": range(size - 1)}  # where an ASCII letter has zeros
        for end, places in ends.items():
            if whole and not any(any(whole[place::size]) for place in places):
                return f"{name}{end}"
    return None


def _check_encoding(start: bytes) -> None:
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if encoding is None and b"\x00" in start:
        encoding = _unmarked(start)
    if encoding is not None:
        raise DataError(
            f"the file is {encoding} text, expected UTF-8; convert it with iconv -f {encoding} "
            "-t UTF-8"
        )
