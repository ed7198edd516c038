"""What cannot be read, and files that a finished run says it has made and that are gone.

Each is a sentence with a name and never stops the rest.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema

READ_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError)
MOST_LOST = 3  # told one by one
CHECKPOINT, JOURNAL, PREDICTIONS = (
    "has lost its checkpoint",
    "has lost its journal",
    "has lost predictions",
)
MANY = {
    CHECKPOINT: "have lost their checkpoint",
    JOURNAL: "have lost their journal",
    PREDICTIONS: "have lost predictions",
}


def sentence(error: Exception) -> str:
    """An error in words; a `KeyError` alone says no more than a key."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def lost(path: Path, result: Mapping[str, Any]) -> list[str]:
    """A sentence for each kind of file that a finished run has lost, and what the report lacks.

    Args:
        path: of the run directory.
        result: its `result.json`; `checkpoint`, `step` and `predictions` say what there was.
    """
    found = []
    if result.get("checkpoint"):
        kept = path / schema.CHECKPOINTS / f"{result['checkpoint']}.pt"
        if not kept.is_file():
            found.append(f"{path.name} {CHECKPOINT}: {kept.relative_to(path)} is gone")
    if result.get("step") and not (path / schema.JOURNAL).is_file():
        found.append(f"{path.name} {JOURNAL}: {schema.JOURNAL} is gone, so it has no curve")
    told = result.get("predictions")
    files = [f"{split}.npz" for split in told] if isinstance(told, list) else []
    gone = [name for name in files if not (path / schema.PREDICTIONS / name).is_file()]
    if gone:
        names = ", ".join(f"{schema.PREDICTIONS}/{name}" for name in gone)
        found.append(f"{path.name} {PREDICTIONS}: {names} {'is' if len(gone) == 1 else 'are'} gone")
    return found


def shorten(problems: list[str]) -> None:
    """Many lost files of one kind are one problem: someone made room."""
    for kind, told in MANY.items():
        of_kind = [problem for problem in problems if f" {kind}: " in problem]
        for problem in of_kind[MOST_LOST:]:
            problems.remove(problem)
        if more := len(of_kind[MOST_LOST:]):
            problems.append(f"{more} more finished runs {told}")
