import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from atomsweep.data.atoms import structure_from_atoms, structure_to_atoms
from atomsweep.data.dataset import InMemoryDataset, Subset
from atomsweep.data.structure import DataError, Structure, structure_fault


def two_atoms(**changes):
    values = {
        "atomic_numbers": np.array([29, 8]),
        "pos": np.array([[0.0, 0, 0], [0, 0, 1.8]]),
        "cell": 5 * np.eye(3),
        "pbc": np.ones(3, dtype=bool),
        "tags": np.array([1, 2]),
        "fixed": np.array([True, False]),
        "forces": np.zeros((2, 3)),
        "energy": -1.5,
    }
    return Structure(**{**values, **changes})


def test_a_good_structure_has_no_fault():
    assert structure_fault(two_atoms()) is None
    assert structure_fault(two_atoms(forces=None, energy=None)) is None
    assert structure_fault(two_atoms(cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))) is None
    flat = np.diag([5.0, 5.0, 0.0])
    assert structure_fault(two_atoms(cell=flat, pbc=np.array([True, True, False]))) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atomic_numbers": np.array([0, 8])}, "atom 0 has atomic number 0"),
        ({"atomic_numbers": np.array([29, 119])}, "atom 1 has atomic number 119"),
        ({"atomic_numbers": np.zeros(0, dtype=int)}, "no atoms"),
        ({"pos": np.zeros((3, 3))}, r"pos must have shape \(2, 3\) for 2 atoms, got \(3, 3\)"),
        ({"pos": np.array([[0, 0, np.nan], [0, 0, 0]])}, "pos of atom 0 is NaN or Inf"),
        ({"forces": np.zeros((1, 3))}, r"forces must have shape \(2, 3\)"),
        ({"forces": np.array([[0, 0, 0], [0, np.inf, 0]])}, "forces of atom 1 is NaN or Inf"),
        ({"pos": np.array([[0, 0, 0], [0, 1e39, 0]])}, "pos of atom 1 is too large for float32"),
        ({"energy": float("nan")}, "energy is nan"),
        ({"tags": np.zeros(3, dtype=int)}, "tags must have shape"),
        ({"tags": np.array([0, 300])}, "tags must be"),
        ({"fixed": np.zeros(1, dtype=bool)}, "fixed must have shape"),
        ({"cell": np.zeros((3, 3))}, "cell has no volume"),
        ({"cell": np.ones((3, 3))}, "cell has no volume"),
        ({"cell": np.full((3, 3), np.nan)}, "cell must be a finite"),
    ],
)
def test_faults_are_told_in_words(changes, message):
    structure = two_atoms(**changes)

    assert re.search(message, structure_fault(structure) or "")
    with pytest.raises(DataError, match=r"structure 0 of mine \(sid 0, fid 0\)"):
        InMemoryDataset([structure], "mine")[0]


def test_a_cell_has_a_volume_where_its_singular_values_say_so():
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0] * 10.0 ** rng.uniform(-9, 3, 3)
        cell = vectors @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pbc = rng.random(3) < 0.7
        fault = structure_fault(two_atoms(cell=cell, pbc=pbc))
        spanned = np.linalg.svd(cell[pbc])[1].min(initial=1.0) > 1e-6
        assert (fault is None) == spanned, cell
        found.append(spanned)
    assert 50 < sum(found) < 250
    huge = np.diag([1e30, 1e30, 1e30])  # whose volume float64 cannot hold
    assert structure_fault(two_atoms(cell=1e8 * huge)) is None


def test_a_subset_keeps_names_of_the_whole():
    whole = InMemoryDataset([two_atoms(fid=i) for i in range(5)], "whole")
    part = Subset(whole, np.array([4, 1]))
    assert [part[i].fid for i in range(2)] == [4, 1]
    assert part.natoms.tolist() == [2, 2]
    assert part.where(0) == "structure 4 of whole"


def test_ase_atoms_and_structures_convert_into_each_other():
    structure = two_atoms()
    atoms = structure_to_atoms(structure)
    assert atoms.get_tags().tolist() == [1, 2]
    assert atoms.get_potential_energy() == -1.5
    back = structure_from_atoms(atoms)
    for name in ("atomic_numbers", "pos", "cell", "pbc", "tags", "fixed", "forces"):
        assert np.array_equal(getattr(back, name), getattr(structure, name)), name
    assert back.energy == -1.5


def test_raw_forces_on_fixed_atoms_are_kept():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.0]], constraint=FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.ones((2, 3)))
    structure = structure_from_atoms(atoms)
    assert structure.fixed.tolist() == [True, False]
    assert np.array_equal(structure.forces, np.ones((2, 3)))
