"""Checkpoints: atomic, readable without executing anything, tied to the run's identity.

Each says its version. What an older version wrote is upgraded as it is read, step by step; a file
of each version is kept in `tests/kept/`.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atomsweep.tracking.files import check_regular, write_atomic

LAST = "last.pt"
BEST = "best.pt"
VERSION = 3  # raise it with any change of what is in a checkpoint, and add a row to `UPGRADES`


def _from_1(state: dict[str, Any]) -> dict[str, Any]:
    """Version 1 said no version, and at first not whether its last evaluation was outstanding."""
    if "optimizer" in state:  # last.pt
        state.setdefault("unevaluated", False)
    return state


def _from_2(state: dict[str, Any]) -> dict[str, Any]:
    """Version 2 did not say which shapes a compiled run trains eagerly."""
    if "optimizer" in state:
        state.setdefault("eager_shapes", [])
    return state


KINDS: Mapping[str, Any] = {"model": dict, "identity": str, "step": int}
RESUMED: Mapping[str, Any] = {
    "optimizer": dict,
    "average": dict | None,
    "device_seconds": float | int,
    "eval_seconds": float | int,
    "loss_sum": torch.Tensor,
    "loss_count": int,
    "best": float | int,
    "best_step": int,
    "values": dict,
    "unevaluated": bool,
    "eager_shapes": list,
}
"""What every checkpoint holds, and what `last.pt` holds besides."""

UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}
"""Version -> what makes a checkpoint of it one of the next version."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) in place of `path`, atomically.

    Raises:
        OSError: the file could not be written; the previous checkpoint is intact.
    """
    buffer = io.BytesIO()
    torch.save({**state, "version": VERSION}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of any version, with weights only: a file cannot run code.

    Raises:
        ValueError: the file is damaged, holds something other than tensors and numbers, or was
            written by a later version of the program.
        FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError: as they come.
    """
    check_regular(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); {remedy(path)}"
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"checkpoint {path} is not one of ours: it holds no model; {remedy(path)}")
    version = state.get("version", 1)
    if type(version) is not int or version not in (*UPGRADES, VERSION):
        raise ValueError(
            f"checkpoint {path} has version {version!r}, and this program reads 1 to {VERSION}; "
            "update atomsweep"
        )
    while version < VERSION:
        state = UPGRADES[version](state)
        version += 1
    return {**state, "version": VERSION}


def load_of(identity: str, path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """`last.pt` or `best.pt` of a run, with all that it must hold.

    Raises:
        ValueError: as `load`, or something is missing or of another kind, or it is another run's.
        FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError: as they come.
    """
    state = load(path, device)
    for name, kind in {**KINDS, **(RESUMED if path.name == LAST else {})}.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(
                f"checkpoint {path} holds no {name} of its kind, but a "
                f"{type(state.get(name)).__name__}; {remedy(path)}"
            )
    if state["identity"] != identity:
        raise ValueError(
            f"checkpoint {path} belongs to run {state['identity']}, not to {identity}; "
            f"{remedy(path)}"
        )
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """What does not fit as a checkpoint's content is loaded is told as one sentence.

    Raises:
        ValueError: names the file and says what to do.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = " ".join(str(error).split("\n")[:2])
        raise ValueError(
            f"checkpoint {path} does not fit its run ({first[:300]}); {remedy(path)}"
        ) from error


def remedy(path: Path) -> str:
    """What makes a run whole again whose checkpoint is lost."""
    if path.name == LAST:
        return "delete it to start this run again from step 0"
    return (
        f"delete the folder {path.parent} and run the same command again, with rerun=all if the "
        "run is finished, to train it from step 0"
    )
