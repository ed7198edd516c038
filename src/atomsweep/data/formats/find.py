"""The files that a path, directory, glob pattern or list of them means, and what is left out."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atomsweep.data.frames import Reader
from atomsweep.data.structure import DataError
from atomsweep.tracking.files import check_regular

Paths = str | Sequence[str]
BRING = "docs/data.md, Bring the data, says where published sets come from and where they go"
HIDDEN = "names that begin with a dot"
AGAIN = "other names of files that are read"
NOWHERE = "links that lead nowhere"
SPECIAL = "neither files nor folders"
READ_BY = {  # suffix → the option of data for such files of one's own
    ".db": "ase_db", ".aselmdb": "ase_db", ".npz": "flat_npz", ".lmdb": "store",
    ".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "extxyz",
}  # fmt: skip
FOLDER = "folders, which a pattern does not enter (name the folder itself, or end in /**)"


@dataclass
class Found:
    """Files in the order in which they are read.

    Attributes:
        files: of the reader's kind.
        left_out: what else lies in the folders, and why it is not read.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


def find(paths: Paths, reader: Reader, called: str = "the path") -> Found:
    """Files of a reader's kind at a path, directory, glob pattern or list of them, in order.

    Folders are read with all that lies in them, behind links too, but for names that begin with a
    dot: copies and notes of other programs. One file that has several names there is read once.

    Args:
        paths: where.
        reader: of the files.
        called: the option that names them, for errors.

    Raises:
        FileNotFoundError: one of them matches no such file.
        ValueError: a path is empty, or a file is of another kind.
        DataError: links go round in a circle, or lead nowhere where data may be lacking.
        OSError: a folder cannot be read.
    """
    found = Found()
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given or not all(str(one).strip() for one in given):
        raise ValueError(f"{called} is empty; name a file, a folder or a glob pattern")
    for one in given:
        path = Path(one).expanduser()
        seen: set[Path] = set()  # of this path: what is named twice is meant twice
        if path.is_dir():
            matches = list(_walk(path, reader, found, (), seen))
        elif path.is_file():
            matches = [path]
        else:
            check_regular(path)
            # Path.glob does not follow links
            places = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
            matches = [p for p in places if _matches(p, reader, found, seen)]
        if not matches:
            raise FileNotFoundError(
                f"no file of structures ({', '.join(reader.suffixes)}) at {one}; {BRING}"
                + (f"; left out: {summary(found.left_out)}" if found.left_out else "")
            )
        for match in matches:
            if not reader.reads(match):
                raise ValueError(f"{match} is not {', '.join(reader.suffixes)}; {_remedy(match)}")
        found.files += matches
    return found


def _remedy(path: Path) -> str:
    """What reads a file of another kind, or makes one that is read."""
    if option := READ_BY.get(path.suffix.lower()):
        return f"data={option} reads it"
    return f"`ase convert {path} frames.extxyz` makes it of outputs of VASP and most other codes"


def _matches(path: Path, reader: Reader, found: Found, seen: set[Path]) -> bool:
    """Whether what a pattern matches is read; what is not is told."""
    if path.is_dir():
        found.left_out[path] = FOLDER
    elif not path.exists():
        found.left_out[path] = NOWHERE
    elif not path.is_file():
        found.left_out[path] = SPECIAL
    elif not reader.reads(path):
        found.left_out[path] = f"other kinds ({path.suffix or 'no suffix'})"
    else:
        return not _again(path, found, seen)
    return False


def summary(left_out: dict[Path, str]) -> str:
    """What is left out in words, e.g. `2 other kinds (.txt), 1 names that begin with a dot`."""
    reasons = sorted(left_out.values())
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))


def _walk(
    folder: Path, reader: Reader, found: Found, above: tuple[Path, ...], seen: set[Path]
) -> Iterator[Path]:
    """Files of the reader's kind in a folder; `above` are the real places of those it lies in."""
    here = folder.resolve()
    if here in above:
        raise DataError(
            f"{folder} leads back to {here}, in which it lies itself; remove the link, or name the "
            "files by a glob pattern"
        )
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            found.left_out[entry] = HIDDEN
        elif entry.is_dir():
            yield from _walk(entry, reader, found, (*above, here), seen)
        elif not entry.exists():
            if reader.reads(entry) or not entry.suffix:
                raise DataError(
                    f"{entry} leads to {entry.readlink()}, which is not there; restore that, or "
                    "remove the link"
                )
            found.left_out[entry] = NOWHERE
        elif not entry.is_file():
            found.left_out[entry] = SPECIAL
        elif not reader.reads(entry):
            found.left_out[entry] = f"other kinds ({entry.suffix or 'no suffix'})"
        elif not _again(entry, found, seen):
            yield entry


def _again(path: Path, found: Found, seen: set[Path]) -> bool:
    """Whether a file was met under another name, in which case it is left out."""
    real = path.resolve()
    if real in seen:
        found.left_out[path] = AGAIN
        return True
    seen.add(real)
    return False
