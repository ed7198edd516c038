import itertools

import numpy as np
import pytest
import vesin
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list

from atomsweep.graph import neighbors
from atomsweep.graph.neighbors import RadiusGraph, shortest_distance

PBC = list(itertools.product((True, False), repeat=3))


def as_set(edge_index, offsets):
    return {
        (*edge, *shift) for edge, shift in zip(edge_index.T.tolist(), offsets.tolist(), strict=True)
    }


def ase_set(pos, cell, pbc, cutoff):
    atoms = Atoms("H" * len(pos), positions=pos, cell=cell, pbc=pbc)
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    return {(b, a, *s) for a, b, s in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True)}


def brute_force(pos, cell, pbc, cutoff, reach=4):
    steps = itertools.product(*(range(-reach, reach + 1) if p else (0,) for p in pbc))
    found = set()
    for step in steps:
        for target, source in itertools.product(range(len(pos)), repeat=2):
            if source == target and step == (0, 0, 0):
                continue
            if np.linalg.norm(pos[source] - pos[target] + np.array(step) @ cell) < cutoff:
                found.add((source, target, *step))
    return found


def distances(pos, cell, edge_index, offsets):
    return np.linalg.norm(pos[edge_index[0]] - pos[edge_index[1]] + offsets @ cell, axis=1)


def random_case(seed, skew=0.0, length=8.0, natoms=12):
    rng = np.random.default_rng(seed)
    cell = length * np.eye(3) + skew * length * rng.uniform(-1, 1, (3, 3))
    return rng.uniform(-0.3, 1.3, (natoms, 3)) @ cell, cell


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("skew", [0.0, 0.4])
def test_edges_equal_ase(pbc, skew):
    pos, cell = random_case(3, skew)
    edges = as_set(*RadiusGraph(5.0, None)(pos, cell, pbc))
    assert edges == ase_set(pos, cell, pbc, 5.0)


@pytest.mark.parametrize("pbc", PBC)
def test_edges_equal_brute_force_in_a_cell_smaller_than_the_cutoff(pbc):
    pos, cell = random_case(5, skew=0.3, length=2.5, natoms=3)
    edges = as_set(*RadiusGraph(4.0, None)(pos, cell, pbc))
    assert edges == brute_force(pos, cell, pbc, 4.0, reach=5)
    assert any(p for p in pbc) == any(source == target for source, target, *_ in edges)


def test_an_image_of_the_atom_itself_is_a_neighbour_and_the_atom_is_not():
    index, offsets = RadiusGraph(3.0, None)(np.zeros((1, 3)), 2.9 * np.eye(3), True)
    assert index.tolist() == [[0] * 6, [0] * 6]
    assert sorted(map(sum, np.abs(offsets).tolist())) == [1] * 6


def test_a_molecule_needs_no_cell():
    pos = np.random.default_rng(0).uniform(0, 6, (10, 3))
    edges = as_set(*RadiusGraph(4.0, None)(pos, np.zeros((3, 3)), False))
    assert edges == brute_force(pos, np.zeros((3, 3)), (False,) * 3, 4.0)


def test_a_slab_may_have_no_third_vector():
    slab = fcc111("Pt", (2, 2, 3), vacuum=None)
    cell = slab.cell.array.copy()
    cell[2] = 0.0
    edges = as_set(*RadiusGraph(4.0, None)(slab.positions, cell, (True, True, False)))
    assert edges == brute_force(slab.positions, cell, (True, True, False), 4.0)


def test_the_neighbour_list_of_nothing_is_empty():
    index, offsets = RadiusGraph()(np.zeros((0, 3)), np.eye(3), True)
    assert index.shape == (2, 0)
    assert offsets.shape == (0, 3)


def test_edges_are_sorted_by_target_then_distance():
    pos, cell = random_case(7)
    index, offsets = RadiusGraph(5.0, 9)(pos, cell, True)
    dist = distances(pos, cell, index, offsets)
    order = np.lexsort((dist, index[1]))
    assert (index[1][order] == index[1]).all()
    assert np.allclose(dist[order], dist)


def test_the_nearest_neighbours_of_each_centre_are_kept():
    pos, cell = random_case(8)
    every, every_offsets = RadiusGraph(6.0, None)(pos, cell, True)
    few, few_offsets = RadiusGraph(6.0, 7)(pos, cell, True)
    all_dist, few_dist = (
        distances(pos, cell, every, every_offsets),
        distances(pos, cell, few, few_offsets),
    )
    for atom in range(len(pos)):
        kept, there = few_dist[few[1] == atom], np.sort(all_dist[every[1] == atom])
        assert len(kept) == (there <= there[6] + 0.01).sum()
        assert np.allclose(np.sort(kept), there[: len(kept)])


def test_a_centre_with_fewer_neighbours_keeps_them_all():
    pos = np.array([[0.0, 0, 0], [1.0, 0, 0], [9.0, 0, 0]])
    index, _ = RadiusGraph(2.0, 5)(pos, np.zeros((3, 3)), False)
    assert index.tolist() == [[1, 0], [0, 1]]


def test_equally_distant_neighbours_at_the_rim_are_kept_together():
    crystal = bulk("Cu", cubic=True)
    index, offsets = RadiusGraph(6.0, 15)(crystal.positions, crystal.cell.array, True)
    # fcc shells hold 12, 6, 24 neighbours: 15 reaches into the second, which is kept whole
    assert np.bincount(index[1]).tolist() == [18] * 4
    assert as_set(index, offsets) == as_set(
        *RadiusGraph(3.7, None)(crystal.positions, crystal.cell.array, True)
    )


@pytest.mark.parametrize("max_neighbors", [10, 15, 50])
def test_a_wrapped_shifted_or_turned_copy_has_the_same_graph(max_neighbors):
    slab = fcc111("Ni", (3, 3, 4), vacuum=7.5, periodic=True)
    graph = RadiusGraph(6.0, max_neighbors)
    index, offsets = graph(slab.positions, slab.cell.array, True)
    pairs = sorted(index.T.tolist())

    turned = slab.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    shifted = slab.copy()
    shifted.positions += [0.37, -4.1, 2.9]
    wrapped = shifted.copy()
    wrapped.wrap()
    for copy in (turned, shifted, wrapped):
        other, other_offsets = graph(copy.positions, copy.cell.array, True)
        assert sorted(other.T.tolist()) == pairs
        assert np.allclose(
            distances(copy.positions, copy.cell.array, other, other_offsets),
            distances(slab.positions, slab.cell.array, index, offsets),
        )


def test_atoms_on_one_spot_are_refused():
    pos = np.array([[0.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0]])
    with pytest.raises(ValueError, match=r"atoms [12] and [12] are 0.0e\+00 Å apart"):
        RadiusGraph()(pos, np.zeros((3, 3)), False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, 5), "cutoff must be positive"), ((5.0, 0), "max_neighbors must be at least 1")],
)
def test_senseless_graphs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RadiusGraph(*arguments)


def test_atoms_that_are_almost_one_make_no_search_of_millions_of_cells(monkeypatch):
    """Of a set with such a frame every later one was searched in cells as small as its distance."""
    asked = []
    finder = vesin.NeighborList
    monkeypatch.setattr(vesin, "NeighborList", lambda **k: asked.append(k["cutoff"]) or finder(**k))
    pos = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.004], [5.0, 5.0, 5.0], [5.0, 5.0, 5.5]])
    cell, pbc = 30.0 * np.eye(3), [True, True, False]
    assert shortest_distance(pos, cell, pbc, 0.01) == (pytest.approx(0.004), 0, 1)
    assert shortest_distance(pos[1:], cell, pbc, 0.01) is None
    assert shortest_distance(pos[1:], cell, pbc, 0.6) == (pytest.approx(0.5), 1, 2)
    edges, _ = RadiusGraph(cutoff=0.6)(pos[1:], cell, pbc)
    assert edges.T.tolist() == [[2, 1], [1, 2]]
    assert min(asked) >= 1.0


@pytest.mark.parametrize("first", [0, 70_000])
@pytest.mark.parametrize("distances", [7, 100_000])
def test_edges_are_in_the_order_of_a_sort_by_all_three(first, distances):
    """Equal distances of one target, and atoms that 16 bits do not count."""
    rng = np.random.default_rng(0)
    target, source = rng.integers(first, first + 30, (2, 4000))
    dist = rng.integers(0, distances, 4000) / 7.0
    _, once = np.unique(np.stack([target, dist, source]), axis=1, return_index=True)
    target, dist, source = (one[rng.permutation(once)] for one in (target, dist, source))
    wanted = np.lexsort((source, dist, target))
    assert (neighbors._order(target, dist, source) == wanted).all()


def test_neighbours_more_cells_apart_than_16_bits_tell_are_refused():
    cell, pos = 2.5 * np.eye(3), np.array([[0.0, 0, 0], [90_001.0, 0, 0]])
    with pytest.raises(ValueError, match="lie 3600. cells apart, at most 32767 are told; wrap"):
        RadiusGraph(3.0, None)(pos, cell, True)
    index, offsets = RadiusGraph(3.0, None)(pos * 0.9, cell, True)
    assert index.shape[1] > 0
    assert abs(offsets).max() > 32_000
