"""Checkpoints: atomic, readable without executing anything, tied to the run's identity."""

import io
from pathlib import Path
from typing import Any

import torch

from atomsweep.tracking.files import write_atomic

LAST = "last.pt"
BEST = "best.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) in place of `path`, atomically.

    Raises:
        OSError: the file could not be written; the previous checkpoint is intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint with weights only: a file cannot run code.

    Raises:
        ValueError: the file is damaged or holds something other than tensors and numbers.
        FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError: as they come.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to start this "
            "run again from step 0"
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"checkpoint {path} is not one of ours: it holds no model")
    return state
