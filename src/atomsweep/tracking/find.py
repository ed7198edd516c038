"""Run directories found and named."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from atomsweep.build import UserError
from atomsweep.console import near_names
from atomsweep.tracking import schema
from atomsweep.tracking.files import DamagedFile, told
from atomsweep.tracking.run import RunDirectory

READABLE_LENGTH = 60


def find_runs(root: str | Path, problems: list[str] | None = None) -> list[RunDirectory]:
    """All run directories directly under `root`, by name; [] when `root` does not exist.

    One whose `run.json` cannot be read is left out, and a sentence about it is added to `problems`.
    """
    found = []
    for path in run_paths(Path(root)):
        run = RunDirectory(path)
        try:
            _ = run.run  # raises where this is no run
            found.append(run)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (DamagedFile, OSError) as error:
            if problems is not None:
                problems.append(told(error))
    return found


def run_paths(root: Path) -> list[Path]:
    """What may be a run directly under `root`, by name; [] when `root` does not exist."""
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if not path.name.startswith(("_", "."))]


def find_run(run: str | Path, root: str | Path) -> RunDirectory:
    """The run of a directory, or of a name or identity in `root`.

    Raises:
        UserError: there is none.
    """
    for path in (Path(run), Path(root) / run):
        try:
            if (path / schema.RUN).is_file():
                return RunDirectory(path)
        except OSError as error:
            raise UserError(told(error)) from error
    if (found := RunDirectory.for_identity(root, str(run))) is not None:
        return found
    near = near_names(Path(run).name, [one.name for one in find_runs(root)])
    raise UserError(
        f"there is no run {run}: it is neither a run directory nor a name or identity in {root}; "
        f"{near or '`atomsweep status` lists them'}"
    )


def run_name(choices: Mapping[str, Any] | Sequence[str], identity: str) -> str:
    """`<readable>-<identity>`: a directory name from what was chosen, safe on every file system.

    Args:
        choices: group -> option, or overrides as on the command line ("basis=sph").
        identity: identity of the run.
    """
    if isinstance(choices, Mapping):
        pairs = [(str(key), str(value)) for key, value in choices.items()]
    else:
        pairs = [(key.lstrip("+~"), value) for key, _, value in (c.partition("=") for c in choices)]
    readable = ""
    for key, value in pairs:
        last = key.rpartition(".")[2].rpartition("/")[2]
        is_path = "/" in value and not value.startswith("[")
        stem = PurePath(value.strip("'\"")).stem if is_path else value  # its file alone
        part = "_".join(slug for slug in (_slug(last), _slug(stem)) if slug)
        longer = "-".join(piece for piece in (readable, part) if piece)
        if len(longer) <= READABLE_LENGTH:
            readable = longer
        elif not readable:
            readable = part[:READABLE_LENGTH]
    return f"{readable.strip('-._') or 'run'}-{identity}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_.")
