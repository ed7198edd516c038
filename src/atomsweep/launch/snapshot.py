"""A launch uses one version of the code from its first cell to its last: a copy, named by its hash.

Jobs of SLURM start long after they were submitted, and cells of a local sweep after others have
ended. Both run this copy, so an edit in between is in none of them, and what a run records of its
code is what its process has loaded.
"""

import atexit
import hashlib
import importlib.util
import logging
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from atomsweep.build import UserError, plugins
from atomsweep.launch.presence import LAUNCHER
from atomsweep.shipped import PACKAGE
from atomsweep.tracking import schema
from atomsweep.tracking.environment import SNAPSHOT, commit_of, diff_of, source_directory
from atomsweep.tracking.files import dumps, told
from atomsweep.tracking.lock import Locked, exclusive, is_locked

log = logging.getLogger(__name__)

FOLDER = "_snapshots"
LOCK = ".lock"
TAKEN = ("src", "run.py")  # what a cell can load
PASSED = ("__pycache__", ".egg-info")
PLUGINS = "plugins"  # in a snapshot: packages that the user trusts
_marks: dict[Path, ExitStack] = {}


@dataclass(frozen=True)
class Snapshot:
    """The code of a launch.

    Attributes:
        folder: `<root>/_snapshots/<hash>`.
        plugins: where packages that the user trusts lay when it was taken.
        made: it was not there before.
        fresh: nor was its root.
    """

    folder: Path
    plugins: Mapping[str, Path]
    made: bool
    fresh: bool

    def warn_of_changes(self) -> None:
        """Say so where the code is another one now."""
        if _digest(_files(self.plugins)) != self.folder.name:
            log.warning(
                "the code has changed since this launch began; all its cells were made with the "
                "code of its beginning, kept in %s",
                self.folder,
            )

    def discard(self) -> None:
        """Take back what a launch that was refused has made, where nothing else is in its root."""
        above, root = self.folder.parent, self.folder.parents[1]
        if not self.made or {path.name for path in root.iterdir()} != {FOLDER}:
            return
        for path in above.glob(f"*{LAUNCHER}"):
            if path not in _marks and not is_locked(path):
                path.unlink(missing_ok=True)  # of one that was killed
        mine = {path.name for path in above.iterdir() if path not in _marks}
        if mine <= {LOCK, self.folder.name}:
            shutil.rmtree(above, ignore_errors=True)
            if self.fresh:
                with suppress(OSError):
                    root.rmdir()


def take(root: Path) -> Snapshot:
    """Copy the code into `<root>/_snapshots/<hash>`, unless it is there.

    Untracked and changed files are in it; commit and changes are recorded beside them, because a
    copy has no git.

    Raises:
        UserError: it cannot be written, or another launch is writing for a minute.
    """
    try:
        return _taken(root.absolute() / FOLDER, plugins(), not root.exists())
    except OSError as error:
        raise UserError(f"the code cannot be copied below {root}: {told(error)}") from error
    except Locked as error:
        raise UserError(f"the code cannot be copied below {root}: {error}") from error


def _taken(folder: Path, trusted: Mapping[str, Path], fresh: bool) -> Snapshot:
    files = _files(trusted)
    target = folder / _digest(files)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / LOCK, wait_s=60.0):
        if target.exists():
            return Snapshot(target, trusted, made=False, fresh=False)
        temporary = folder / f".{target.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name, path in files.items():
            _copy(path, temporary / name)
        copied = {name: temporary / name for name in files}
        target = folder / _digest(copied)  # of what was copied, though it was edited meanwhile
        source = source_directory()
        (temporary / SNAPSHOT).write_text(dumps(commit_of(source), indent=2))
        (temporary / schema.DIFF).write_text(diff_of(source))
        for name, place in trusted.items():
            (temporary / PLUGINS / name / SNAPSHOT).write_text(dumps(commit_of(place), indent=2))
        if target.exists():
            shutil.rmtree(temporary)
            return Snapshot(target, trusted, made=False, fresh=False)
        temporary.rename(target)
    return Snapshot(target, trusted, made=True, fresh=fresh)


def use(root: Path) -> Snapshot:
    """Let every process that is started from here on load a snapshot, which `gc` then lets be.

    Raises:
        UserError: see `take`.
    """
    fresh = not root.exists()
    try:
        _mark(root.absolute() / FOLDER)
    except (OSError, Locked) as error:
        raise UserError(f"the code cannot be copied below {root}: {told(error)}") from error
    taken = replace(take(root), fresh=fresh)
    paths = import_paths(taken.folder)
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    before = os.environ.get("PYTHONPATH", "")
    kept = [path for path in before.split(os.pathsep) if path and path not in paths]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *kept])
    return taken


def _mark(folder: Path) -> None:
    """Be known as a launcher from before its code is copied until this process ends."""
    path = folder / f"{socket.gethostname()}.{os.getpid()}{LAUNCHER}"
    if path in _marks:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as marked:
        marked.enter_context(exclusive(path))
        marked.callback(path.unlink, missing_ok=True)
        _marks[path] = marked.pop_all()
    atexit.register(_unmark, path, os.getpid())


def _unmark(path: Path, process: int) -> None:
    if os.getpid() == process and path in _marks:  # a fork that ends in order is not the launcher
        with suppress(OSError):
            _marks.pop(path).close()


def import_paths(code: Path) -> list[str]:
    """Folders of a snapshot to import from, the package's first."""
    return [str(code / "src"), *([str(code / PLUGINS)] if (code / PLUGINS).is_dir() else [])]


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _copy(path: Path, to: Path) -> None:
    """A file and, of a module, what Python has compiled of it: starting needs no compiler then."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, to)
    if path.suffix == ".py" and sys.pycache_prefix is None:  # else it lies by the path in use
        compiled = Path(importlib.util.cache_from_source(str(path)))
        if compiled.is_file():
            beside = Path(importlib.util.cache_from_source(str(to)))
            beside.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, beside)


def _files(trusted: Mapping[str, Path]) -> dict[str, Path]:
    """Name in the snapshot → file: of the repository, or of the installed package alone."""
    if PACKAGE.parent.name == "src":
        base, prefix = PACKAGE.parents[1], Path()
        tops = [base / name for name in TAKEN if (base / name).exists()]
    else:
        base, prefix, tops = PACKAGE.parent, Path("src"), [PACKAGE]
    files = {(prefix / p.relative_to(base)).as_posix(): p for top in tops for p in _below(top)}
    for name, folder in trusted.items():
        inside = {p.relative_to(folder).as_posix(): p for p in _below(folder)}
        files |= {f"{PLUGINS}/{name}/{path}": p for path, p in inside.items()}
    return files


def _below(top: Path) -> list[Path]:
    found = [top] if top.is_file() else sorted(top.rglob("*"))
    return [
        path
        for path in found
        if path.is_file()
        and not path.name.startswith(".")  # what an editor leaves
        and not path.name.endswith("~")
        and path.name != SNAPSHOT
        and not any(word in str(path.relative_to(top)) for word in PASSED)
    ]
