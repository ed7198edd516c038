"""Checkpoints as faults leave them."""

from pathlib import Path

import torch


def harm(file: Path, how: str) -> None:
    """Damage a checkpoint; `how` is `cut`, `gone`, or a key of `harmed`."""
    state = torch.load(file, weights_only=True)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-200])
        return
    if how == "gone":
        file.unlink()
        return
    harmed = {
        "other weights": {**state, "model": {"bias": torch.zeros(3)}},
        "no step": {key: value for key, value in state.items() if key != "step"},
        "weights of text": {**state, "model": dict.fromkeys(state["model"], "text")},
        "another run's": {**state, "identity": "0" * 12},
    }
    torch.save(harmed[how], file)
