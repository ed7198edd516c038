"""The code that a queued job will run is the code that was submitted: a copy, named by its hash."""

import hashlib
import shutil
from pathlib import Path

from atomsweep.shipped import PACKAGE
from atomsweep.tracking import schema
from atomsweep.tracking.environment import SNAPSHOT, commit_of, diff_of, source_directory
from atomsweep.tracking.files import dumps
from atomsweep.tracking.lock import exclusive

FOLDER = "_snapshots"
TAKEN = ("src", "conf", "analysis", "run.py")
PASSED = ("__pycache__", ".egg-info")


def take(root: Path) -> Path:
    """Copy the code into `<root>/_snapshots/<hash>`, unless it is there; returns that folder.

    Untracked and changed files are in it; commit and changes are recorded beside them, because a
    copy has no git.
    """
    files = _files()
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    folder = root.absolute() / FOLDER
    target = folder / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock", wait_s=60.0):
        if target.exists():
            return target
        temporary = folder / f".{target.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name, path in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temporary / name)
        source = source_directory()
        (temporary / SNAPSHOT).write_text(dumps(commit_of(source), indent=2))
        (temporary / schema.DIFF).write_text(diff_of(source))
        temporary.rename(target)
    return target


def _files() -> dict[str, Path]:
    """Name in the snapshot → file: of the repository, or of the installed package alone."""
    base = PACKAGE.parents[1]
    if PACKAGE.parent.name == "src":
        tops = [base / name for name in TAKEN if (base / name).exists()]
        prefix = Path()
    else:
        tops, base, prefix = [PACKAGE], PACKAGE.parent, Path("src")
    files = [
        path
        for top in tops
        for path in ([top] if top.is_file() else sorted(top.rglob("*")))
        if path.is_file() and not any(word in str(path.relative_to(base)) for word in PASSED)
    ]
    return {(prefix / path.relative_to(base)).as_posix(): path for path in files}
