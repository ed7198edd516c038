from itertools import product

import numpy as np
import pytest
import torch

from atomsweep.graph.images import TIE, lattice_of, nearest_images, reduced_cell

SKEWED = [  # of OC20's kind, and far from reduced
    [[5.1, 0.0, 0.0], [2.55, 5.1 * 0.75**0.5, 0.0], [0.0, 0.0, 20.0]],
    [[3.0, 0.0, 0.0], [13.1, 2.9, 0.0], [-7.7, 5.2, 3.3]],
    [[4.0, 0.1, 0.2], [3.9, 1.1, 0.3], [3.8, 0.9, 2.2]],
]


def shortest(difference, cell, pbc, reach=9):
    """Over every image in a large box of cells."""
    steps = [range(-reach, reach + 1) if periodic else range(1) for periodic in pbc]
    images = np.array(list(product(*steps))) @ cell
    return np.linalg.norm(difference[:, None] + images, axis=-1).min(axis=1)


@pytest.mark.parametrize("cell", SKEWED)
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 0)])
def test_no_other_image_is_nearer(cell, pbc):
    cell, rng = np.array(cell), np.random.default_rng(0)
    difference = rng.uniform(-1.5, 1.5, (40, 3)) @ cell
    lattice = lattice_of(torch.tensor(cell)[None], torch.tensor([pbc]).bool())
    structure = torch.zeros(40, dtype=torch.long)
    offset = nearest_images(torch.tensor(difference), lattice, structure).numpy()
    assert (offset == np.round(offset)).all()
    assert not offset[:, ~np.array(pbc, dtype=bool)].any()
    found = np.linalg.norm(difference + offset @ cell, axis=1)
    assert (found <= shortest(difference, cell, pbc) + TIE).all()


def test_reduction_keeps_the_lattice_and_leaves_a_reduced_cell_alone():
    cell = torch.tensor(SKEWED, dtype=torch.double)
    periodic = torch.ones(3, 3, dtype=torch.bool)
    reduced, change = reduced_cell(cell, periodic)
    torch.testing.assert_close(torch.linalg.det(change).abs(), torch.ones(3).double())
    assert (reduced.norm(dim=-1).sum(-1)[1:] < 0.8 * cell.norm(dim=-1).sum(-1)[1:]).all()
    torch.testing.assert_close(change @ cell, reduced)
    torch.testing.assert_close(reduced_cell(reduced, periodic)[0], reduced)
    torch.testing.assert_close(change[0], torch.eye(3).double())  # hexagonal, ties and all


def test_one_of_equally_near_images_is_chosen_whatever_the_rounding():
    """Sites of a lattice half a cell apart, in single precision, moved by lattice vectors."""
    cell = torch.tensor(SKEWED[0])[None]
    halves = torch.tensor(list(product((0.0, 0.5), repeat=3)))[1:]
    pbc = torch.tensor([[True, True, True]])
    chosen = set()
    for seed in range(10):
        moves = torch.randint(-3, 4, (7, 3), generator=torch.Generator().manual_seed(seed)).float()
        noise = 1e-6 * torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
        difference = (halves + moves) @ cell[0] + noise
        offset = nearest_images(difference, lattice_of(cell, pbc), torch.zeros(7, dtype=torch.long))
        chosen.add(tuple((offset + moves).flatten().tolist()))
    assert len(chosen) == 1
