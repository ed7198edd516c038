"""What lies in a root that nothing refers to any more: found, and removed when asked.

Whatever an unfinished run may still need is kept: the code that its job will load, and the
output that says why its job failed. While anything works in the root, no code is touched.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atomsweep.build import UserError
from atomsweep.launch.presence import LAUNCHER
from atomsweep.launch.slurm.ledger import submissions
from atomsweep.launch.slurm.submit import FOLDER as JOBS
from atomsweep.launch.snapshot import FOLDER as SNAPSHOTS
from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.lock import is_locked
from atomsweep.tracking.run import RunDirectory


@dataclass(frozen=True)
class Unused:
    """A file or folder that nothing refers to.

    Attributes:
        path: where it is.
        why: the reason that nothing needs it.
        size: bytes.
    """

    path: Path
    why: str
    size: int


def unused(root: Path) -> list[Unused]:
    """Snapshots, jobs' files, results put aside and marks of launchers that nothing refers to.

    Raises:
        UserError: a run cannot be read, and so not what it refers to.
    """
    problems: list[str] = []
    runs = find_runs(root, problems)
    if problems:
        raise UserError(f"what a run still needs is not known: {problems[0]}")
    open_runs = [run for run in runs if run.state() != schema.FINISHED]
    launchers = [*(root / schema.PLANS).rglob(f"*{LAUNCHER}")]
    launchers += (root / SNAPSHOTS).glob(f"*{LAUNCHER}")
    working = any(map(is_locked, launchers)) or any(_works(run) for run in open_runs)
    needed = [submission for run in open_runs for submission in submissions(run)]
    found: list[tuple[Path, str]] = []
    if not working:
        codes = {submission.code for submission in needed}
        found += [
            (p, "no job will load it") for p in _folders(root / SNAPSHOTS) if p.name not in codes
        ]
    names = {submission.name for submission in needed}
    found += [(p, "its cells are finished") for p in _folders(root / JOBS) if p.name not in names]
    for run in runs:
        if run not in open_runs:
            found += [(p, "its run was made again") for p in _folders(run.path / schema.EARLIER)]
    found += [(p, "its process is gone") for p in sorted(launchers) if not is_locked(p)]
    return [Unused(path, why, _size(path)) for path, why in found]


def remove(one: Unused) -> None:
    """Delete it.

    Raises:
        OSError: it could not be deleted whole.
    """
    if one.path.is_dir():
        shutil.rmtree(one.path)
    else:
        one.path.unlink(missing_ok=True)


def _works(run: RunDirectory) -> bool:
    return run.state() == schema.RUNNING


def _folders(above: Path) -> Iterator[Path]:
    if above.is_dir():
        yield from sorted(p for p in above.iterdir() if p.is_dir() and not p.name.startswith("."))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
