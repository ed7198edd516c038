"""Experiment platform for machine-learned force fields.

    model = atomsweep.load("runs/<run>")
    atoms.calc = model.calculator()

Imports nothing heavy: Hydra scans plugins at every start.
"""

from typing import TYPE_CHECKING

from atomsweep.lazily import put_off

if TYPE_CHECKING:
    from pathlib import Path

    from atomsweep.worker.trained import TrainedModel

put_off()


def load(
    run: "str | Path",
    root: "str | Path" = "runs",
    device: str | None = None,
    dtype: str = "float32",
) -> "TrainedModel":
    """The best checkpoint of a run: see `atomsweep.worker.trained.load`."""
    from atomsweep.worker.trained import load

    return load(run, root, device, dtype)
