"""Pairs of many structures at once: by NVIDIA's library, here on the CPU, against vesin's."""

import itertools
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule

from atomsweep.graph import search
from atomsweep.graph.neighbors import WIDEST, RadiusGraph
from atomsweep.graph.search import find_pairs, pairs_on_device
from atomsweep.graph.skin import MovingGraph
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.params import on_gpu

PBC = list(itertools.product((True, False), repeat=3))
needs_library = pytest.mark.skipif(
    find_spec("nvalchemiops") is None,  # its import takes seconds
    reason="nvalchemi-toolkit-ops is not installed (atomsweep[neighbors])",
)


def skewed(seed, pbc, length, natoms, skew=0.4):
    """Atoms in and beyond a skewed cell."""
    rng = np.random.default_rng(seed)
    cell = length * np.eye(3) + skew * length * rng.uniform(-1, 1, (3, 3))
    return rng.uniform(-1.3, 2.3, (natoms, 3)) @ cell, cell, pbc


def of(atoms):
    return atoms.positions, atoms.cell.array, atoms.pbc


def structures():
    """Molecules, slabs, crystals, small cells with many images, and what lies at an edge."""
    slab = fcc111("Pt", (2, 2, 3), vacuum=6.0)
    flat = fcc111("Pt", (2, 2, 3), vacuum=None)
    flat.cell[2] = 0.0
    crystal = bulk("Cu", cubic=True)
    shifted = slab.copy()
    shifted.positions += [31.7, -44.1, 92.9]
    edge = np.array([[0.0, 0, 0], [5.0, 0, 0], [0.0, 4.999999, 0], [0.0, 0, 5.000001]])
    found = [
        of(molecule("C6H6")),
        of(molecule("H2O")),
        of(slab),
        of(shifted),
        of(flat),
        of(crystal),
        of(bulk("Cu")),  # one atom
        (np.zeros((1, 3)), 2.1 * np.eye(3), [True, False, True]),
        (edge, np.zeros((3, 3)), [False] * 3),
        (edge, 40 * np.eye(3), [True] * 3),
        (np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3),  # nobody's neighbour
    ]
    for number, pbc in enumerate(PBC):
        found.append(skewed(number, pbc, 8.0, 14))
        found.append(skewed(10 + number, pbc, 2.6, 3))
    return found


def batched(found, dtype=torch.float64):
    pos = torch.from_numpy(np.concatenate([pos for pos, _, _ in found])).to(dtype)
    cell = torch.from_numpy(np.stack([cell for _, cell, _ in found])).to(dtype)
    pbc = torch.tensor(np.stack([pbc for _, _, pbc in found]))
    return pos, cell, pbc, [len(pos) for pos, _, _ in found]


def rows(pairs, pos, cell, cutoff):
    """(P, 5) sorted, without those that lie at the cutoff but for rounding."""
    source, target, offsets = (part.numpy() for part in pairs[:3])
    assert (np.diff(target) >= 0).all()
    away = pos[source] - pos[target] + offsets @ cell
    sure = np.abs(np.linalg.norm(away, axis=1) - cutoff) > 1e-9
    found = np.column_stack([source, target, offsets])[sure]
    return found[np.lexsort(found.T)]


@needs_library
@pytest.mark.parametrize("method", ["naive", pytest.param("cell_list", marks=pytest.mark.long)])
def test_the_library_finds_the_pairs_that_vesin_finds(method, monkeypatch):
    find = search.device_search()
    monkeypatch.setattr(
        search, "device_search", lambda: lambda *a, **k: find(*a, **k, method=method)
    )
    made, cutoff = structures(), 5.0
    here = find_pairs(*batched(made), cutoff)
    there = pairs_on_device(*batched(made), cutoff)
    total = 0
    for (pos, cell, _), one, other in zip(made, here, there, strict=True):
        assert one.fault is None
        assert other.fault is None
        expected = rows(one, pos, cell, cutoff)
        np.testing.assert_array_equal(rows(other, pos, cell, cutoff), expected)
        total += len(expected)
        assert other.source.dtype == other.target.dtype == torch.int64
    assert total > 2000


@needs_library
def test_more_neighbours_than_the_library_makes_room_for_are_found():
    """It expects 0.2 atoms in a cubic ångström; hydrogen under pressure has more."""
    pos, cell = np.random.default_rng(0).uniform(0, 4.0, (60, 3)), 4.0 * np.eye(3)
    made = [(pos, cell, [True] * 3), of(molecule("H2O"))]
    here, there = find_pairs(*batched(made), 4.0), pairs_on_device(*batched(made), 4.0)
    assert len(here[0].source) > 60 * 0.2 * 270
    for (pos, cell, _), one, other in zip(made, here, there, strict=True):
        np.testing.assert_array_equal(rows(other, pos, cell, 4.0), rows(one, pos, cell, 4.0))


@needs_library
@pytest.mark.parametrize("graph", [RadiusGraph(5.0, 12), RadiusGraph(4.0, None)])
def test_a_moving_batch_has_the_same_graph_whoever_searches(graph, monkeypatch):
    made = [random_atoms(seed, pbc=pbc) for seed, pbc in enumerate(PBC)]
    batches = [make_batch(made, cutoff=None, dtype=torch.float64) for _ in range(2)]
    here, there = MovingGraph(graph), MovingGraph(graph)
    torch.manual_seed(0)
    for _ in range(6):
        assert here.attach(batches[0]) == {}
        with monkeypatch.context() as patch:
            patch.setattr("atomsweep.graph.skin.find_pairs", lambda *a: pairs_on_device(*a[:5]))
            assert there.attach(batches[1]) == {}
        one, other = (
            torch.cat([batch.edge_index.T, batch.cell_offsets], dim=1).numpy() for batch in batches
        )
        np.testing.assert_array_equal(other[np.lexsort(other.T)], one[np.lexsort(one.T)])
        counts = [batch.num_edges_per_structure for batch in batches]
        assert torch.equal(*counts)
        batches[0].pos = batches[0].pos + 0.1 * torch.randn_like(batches[0].pos)
        batches[1].pos = batches[0].pos.clone()


@pytest.mark.parametrize(
    "find", [find_pairs, pytest.param(pairs_on_device, marks=needs_library)], ids=["vesin", "there"]
)
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "atom 1 is NaN or Inf"), (np.inf, "NaN or Inf"), (3 * WIDEST, "atoms span")],
)
def test_positions_that_cannot_be_searched_are_a_fault_of_their_structure_alone(find, value, words):
    """vesin ends the process where atoms span a million ångström."""
    good, bad = of(molecule("C6H6")), of(molecule("H2O"))
    bad[0][1, 2] = value
    pairs = find(*batched([good, bad, good]), 4.0)
    assert [one.fault is None for one in pairs] == [True, False, True]
    assert words in pairs[1].fault
    assert len(pairs[1].source) == 0
    assert len(pairs[0].source) == len(pairs[2].source) > 0


@needs_library
@on_gpu
def test_a_gpu_finds_the_pairs_that_vesin_finds():
    made, cutoff = structures(), 5.0
    here = find_pairs(*batched(made), cutoff)
    pos, cell, pbc, natoms = batched(made)
    there = find_pairs(pos.cuda(), cell.cuda(), pbc.cuda(), natoms, cutoff)
    for (pos, cell, _), one, other in zip(made, here, there, strict=True):
        other = [part.cpu() for part in other[:3]]
        np.testing.assert_array_equal(rows(other, pos, cell, cutoff), rows(one, pos, cell, cutoff))


def test_without_the_library_vesin_searches_for_a_gpu_too(monkeypatch):
    """What lies on a device is searched by whom is there, and never elsewhere than asked."""
    asked = []
    monkeypatch.setattr(search, "pairs_on_device", lambda *a: asked.append("there"))
    pos, cell, pbc, natoms = batched([of(molecule("H2O"))])
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr(search, "device_search", lambda: object())
    find_pairs(on_gpu, cell, pbc, natoms, 5.0)
    assert asked == ["there"]
    find_pairs(pos, cell, pbc, natoms, 5.0)
    assert asked == ["there"]
    monkeypatch.setattr(search, "device_search", lambda: None)
    monkeypatch.setattr(search, "read", lambda *parts: [pos, cell, pbc])  # there is no GPU here
    monkeypatch.setattr(search, "sent", lambda values, device: values)
    (pairs,) = find_pairs(on_gpu, cell, pbc, natoms, 5.0)
    assert asked == ["there"]
    assert len(pairs.source) == 6
