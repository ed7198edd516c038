"""Where a run was made: versions, machine, commit, uncommitted changes; nothing heavy imported."""

import getpass
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from atomsweep import build
from atomsweep.shipped import PACKAGE
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json, read_text

PACKAGES = (
    "atomsweep",
    "torch",
    "torch_geometric",
    "numpy",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "pandas",
    "ase",
    "vesin",
    "lmdb",
)
MAX_DIFF = 2_000_000  # bytes; a longer diff is cut and says so
GIT_SECONDS = 20.0
SNAPSHOT = "snapshot.json"  # in a copy of the code: what git said where the copy was made


def environment() -> dict[str, Any]:
    """Versions, host and commit of this process, as plain values."""
    commit = commit_of(source_directory())
    plugins = {name: commit_of(folder) for name, folder in build.plugins().items()}
    return {
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "user": user(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "command": sys.argv,
        **commit,
        **({"plugins": plugins} if plugins else {}),
    }


def user() -> str | None:
    """Who runs this process; None where the system has no name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a row in the password file, as in containers
        return None


def version_of(package: str) -> str | None:
    """Installed version, without importing the package; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def source_directory() -> Path:
    """Directory whose commit describes the code: the package's, or the current one if installed."""
    if (PACKAGE.parents[1] / SNAPSHOT).is_file():
        return PACKAGE.parents[1]
    return PACKAGE if _git(PACKAGE, "rev-parse", "HEAD")[0] else Path.cwd()


def commit_of(directory: Path) -> dict[str, Any]:
    """`commit`, `dirty` and, where git cannot say, `commit_missing` with the reason."""
    if (directory / SNAPSHOT).is_file():
        return read_json(directory / SNAPSHOT)
    commit, reason = _git(directory, "rev-parse", "HEAD")
    if not commit:
        return {"commit": None, "dirty": None, "commit_missing": reason}
    changes, _ = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}


def diff_of(directory: Path) -> str:
    """Uncommitted changes of tracked files; empty without git or changes."""
    if (directory / SNAPSHOT).is_file():
        return read_text(directory / schema.DIFF)
    diff, _ = _git(directory, "diff", "HEAD", "--no-ext-diff", "--no-color")
    if len(diff.encode()) > MAX_DIFF:
        return diff.encode()[:MAX_DIFF].decode(errors="ignore") + "\n[cut: the diff is longer]\n"
    return diff


def cpu_name() -> str:
    """Model of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(directory: Path, *arguments: str) -> tuple[str, str]:
    """Output, and the reason when there is none."""
    # GIT_DIR and the like, set by hooks, would answer for another repository
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "--no-optional-locks", *arguments],
            capture_output=True,
            timeout=GIT_SECONDS,
            env=env | {"LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"git did not answer: {error}"
    if done.returncode != 0:
        return "", done.stderr.decode(errors="replace").strip()
    return done.stdout.decode(errors="replace"), ""
