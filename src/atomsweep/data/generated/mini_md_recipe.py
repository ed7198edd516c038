"""What determines the frames of `mini_md`: the recipe and its constants. Starts without ASE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GENERATOR = 2  # raise when the same recipe would give other data
FRAMES = "frames.npz"
# Rough geometries (Å), relaxed before use; the enol form of malonaldehyde, which MD17 has
MOLECULES: dict[str, tuple[str, tuple[tuple[float, float, float], ...]]] = {
    "ethanol": (
        "CCOHHHHHH",
        (
            (-1.22, -0.22, 0.0),
            (0.0, 0.66, 0.0),
            (1.19, -0.15, 0.0),
            (1.95, 0.44, 0.0),
            (-2.13, 0.39, 0.0),
            (-1.24, -0.87, 0.89),
            (-1.24, -0.87, -0.89),
            (0.02, 1.31, 0.89),
            (0.02, 1.31, -0.89),
        ),
    ),
    "malonaldehyde": (
        "CCCOOHHHH",
        (
            (-1.2, 0.7, 0.0),
            (0.0, 0.0, 0.0),
            (1.2, 0.7, 0.0),
            (-1.28, 1.94, 0.0),
            (1.25, 2.02, 0.0),
            (-2.13, 0.13, 0.0),
            (0.0, -1.09, 0.0),
            (2.12, 0.15, 0.0),
            (0.32, 2.3, 0.0),
        ),
    ),
    "benzene": (
        "CCCCCCHHHHHH",
        tuple(
            (r * float(np.cos(k * np.pi / 3)), r * float(np.sin(k * np.pi / 3)), 0.0)
            for r in (1.39, 2.48)
            for k in range(6)
        ),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What determines the frames.

    Attributes:
        molecule: one of `MOLECULES`.
        seed: of velocities and noise.
        frames: how many are kept.
        temperature: K.
        timestep: fs.
        stride: steps between frames.
        friction: 1/fs, of the Langevin thermostat.
        equilibration: steps before the first frame.
    """

    molecule: str
    seed: int
    frames: int
    temperature: float
    timestep: float
    stride: int
    friction: float
    equilibration: int
