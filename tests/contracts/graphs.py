"""Structures and their graphs for the contract tests, by brute force over all pairs and images."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch_geometric.data import Batch

ELEMENTS = (1, 6, 8, 13, 29, 46, 78)


@dataclass(frozen=True)
class Atoms:
    """One periodic structure in float64."""

    pos: np.ndarray  # (N, 3) Å
    atomic_numbers: np.ndarray  # (N,)
    cell: np.ndarray  # (3, 3) Å, rows
    pbc: tuple[bool, bool, bool] = (True, True, False)


def random_atoms(seed, repeats=(2, 2, 2), pbc=(True, True, False)):
    """Atoms near the points of a skewed grid, 2.6 Å apart, so that none are too close."""
    rng = np.random.default_rng(seed)
    grid = np.array(list(product(*(range(n) for n in repeats))), dtype=float)
    cell = np.diag([2.6 * n for n in repeats])
    cell[1, 0] = 1.1
    if not pbc[2]:
        cell[2, 2] += 12.0
    pos = 2.6 * grid + rng.uniform(-0.3, 0.3, grid.shape)
    pos[:, 0] += 1.1 * grid[:, 1] / repeats[1]
    return Atoms(pos, rng.choice(ELEMENTS, len(grid)), cell, pbc)


def neighbours(atoms, cutoff, max_neighbors):
    """All pairs within the cutoff, sorted by target and distance, the nearest kept."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell), axis=0)
    spread = np.ptp(atoms.pos @ np.linalg.inv(atoms.cell), axis=0)
    reach = [
        int(np.ceil(cutoff / height + extent)) if periodic else 0
        for height, extent, periodic in zip(heights, spread, atoms.pbc, strict=True)
    ]
    images = np.array(list(product(*(range(-n, n + 1) for n in reach))))
    vec = (
        atoms.pos[None, :, None] - atoms.pos[:, None, None] + (images @ atoms.cell)[None, None]
    )  # (target, source, image, 3)
    dist = np.linalg.norm(vec, axis=-1)
    within = (dist <= cutoff) & (dist > 1e-9)
    edges = []
    for target in range(len(atoms.pos)):
        source, image = np.nonzero(within[target])
        order = np.argsort(dist[target, source, image], kind="stable")[:max_neighbors]
        edges.extend((source[k], target, *images[image[k]]) for k in order)
    table = np.array(edges, dtype=np.int64).reshape(-1, 5)
    return table[:, :2].T, table[:, 2:]


def make_batch(structures, cutoff, max_neighbors=None, dtype=torch.float64):
    """A batch with random labels; the graph is left out if `cutoff` is None."""
    rng = np.random.default_rng(len(structures))
    natoms = torch.tensor([len(atoms.pos) for atoms in structures])
    first = torch.cat([torch.zeros(1, dtype=torch.long), natoms.cumsum(0)])
    count = int(first[-1])
    batch = Batch(
        pos=torch.tensor(np.concatenate([atoms.pos for atoms in structures]), dtype=dtype),
        atomic_numbers=torch.tensor(np.concatenate([atoms.atomic_numbers for atoms in structures])),
        cell=torch.tensor(np.stack([atoms.cell for atoms in structures]), dtype=dtype),
        pbc=torch.tensor([atoms.pbc for atoms in structures]),
        natoms=natoms,
        batch=torch.repeat_interleave(torch.arange(len(structures)), natoms),
        ptr=first,
        tags=torch.zeros(count, dtype=torch.long),
        fixed=torch.tensor(rng.random(count) < 0.3),
        energy=torch.tensor(rng.normal(size=len(structures)), dtype=dtype),
        forces=torch.tensor(rng.normal(size=(count, 3)), dtype=dtype),
    )
    if cutoff is None:
        return batch
    graphs = [neighbours(atoms, cutoff, max_neighbors) for atoms in structures]
    batch.edge_index = torch.cat(
        [torch.tensor(pairs) + shift for (pairs, _), shift in zip(graphs, first, strict=False)], 1
    )
    batch.cell_offsets = torch.cat([torch.tensor(offsets) for _, offsets in graphs])
    return batch


def permuted(atoms, order):
    return replace(atoms, pos=atoms.pos[order], atomic_numbers=atoms.atomic_numbers[order])


def repeated(atoms, axis):
    """The structure twice along one lattice vector."""
    cell = atoms.cell.copy()
    cell[axis] *= 2
    return replace(
        atoms,
        pos=np.concatenate([atoms.pos, atoms.pos + atoms.cell[axis]]),
        atomic_numbers=np.tile(atoms.atomic_numbers, 2),
        cell=cell,
    )


def turned(atoms, rotation):
    return replace(atoms, pos=atoms.pos @ rotation.T, cell=atoms.cell @ rotation.T)
