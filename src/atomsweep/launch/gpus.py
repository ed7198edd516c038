"""The GPUs of this machine, found without importing torch."""

import os
from pathlib import Path


def visible_gpus() -> list[str]:
    """GPUs that this process may use, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted(device.name.removeprefix("nvidia") for device in devices)
