"""How good relaxed structures are: ADwT against reference positions, AFbT and FbT by true forces.

Definitions: OC20, ACS Catal. 11 (2021) 6059, as its public evaluator computes ADwT; thresholds of
AFbT and FbT are inferred, no public code computes them.
"""

from collections.abc import Sequence

import numpy as np

from atomsweep.data.structure import Array, Structure

DISTANCES = np.arange(10, 500) / 1000.0  # Å: 0.010, 0.011, …, 0.499
FORCES = np.arange(10, 400) / 1000.0  # eV/Å: 0.010, …, 0.399; inferred
FBT = 0.05  # eV/Å; inferred


def mean_distance(relaxed: Structure, reference: Structure) -> float:
    """Mean over free atoms of the distance to the nearest image, Å; NaN without free atoms.

    Nearest along each periodic cell vector, as OC20's evaluator has it: in a skewed cell another
    image may be nearer still.
    """
    free = ~reference.fixed
    if not free.any():
        return float("nan")
    difference = np.asarray(relaxed.pos, float)[free] - np.asarray(reference.pos, float)[free]
    return float(np.linalg.norm(minimum_image(difference, reference), axis=1).mean())


def minimum_image(difference: Array, structure: Structure) -> Array:
    """Differences wrapped to [-1/2, 1/2) of each periodic cell vector. Shape: (N, 3) -> (N, 3)."""
    pbc = np.asarray(structure.pbc, bool)
    if not pbc.any():
        return difference
    cell = np.array(structure.cell, dtype=float)
    if not pbc.all():
        cell[~pbc] = np.linalg.svd(cell[pbc])[2][int(pbc.sum()) :]
    fractional = np.linalg.solve(cell.T, difference.T).T
    fractional[:, pbc] -= np.floor(fractional[:, pbc] + 0.5)
    return fractional @ cell


def average_within(values: Sequence[float], thresholds: Array) -> float:
    """Share of values below a threshold, averaged over thresholds; NaN counts as above all."""
    if not len(values):
        return float("nan")
    return float((np.asarray(values, float)[:, None] < thresholds).mean())


def adwt(distances: Sequence[float]) -> float:
    """Average distance within threshold of systems' `mean_distance`, in [0, 1]."""
    return average_within(distances, DISTANCES)


def afbt(forces: Sequence[float]) -> float:
    """Average force below threshold of systems' largest true forces, in [0, 1]."""
    return average_within(forces, FORCES)


def fbt(forces: Sequence[float]) -> float:
    """Share of systems whose true forces on free atoms are all at most 0.05 eV/Å."""
    if not len(forces):
        return float("nan")
    return float((np.asarray(forces, float) <= FBT).mean())


def largest_force(forces: Array, fixed: Array) -> float:
    """Largest norm on a free atom, eV/Å; 0 without free atoms."""
    free = forces[~fixed]
    return float(np.linalg.norm(free, axis=1).max()) if len(free) else 0.0
