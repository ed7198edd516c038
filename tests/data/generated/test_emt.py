import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT

from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.generated.emt import EMTOracle, FastEMT


def slab():
    atoms = fcc111("Cu", (2, 2, 4), vacuum=7.5, periodic=True)
    atoms.symbols[3], atoms.symbols[6] = "Pt", "Al"
    add_adsorbate(atoms, molecule("CO"), 1.5, "ontop")
    atoms.rattle(0.1, seed=0)
    return atoms


def far_away():
    return Atoms("H2", positions=[[0, 0, 0], [0, 0, 20.0]])


CASES = [
    slab,
    far_away,
    lambda: molecule("CH3CH2OH"),
    lambda: bulk("Ag"),
    lambda: bulk("Ni", cubic=True).repeat((1, 1, 2)),
    lambda: Atoms("Pd", pbc=(True, False, True), cell=np.diag([2.7, 9.0, 2.8])),
]


@pytest.mark.parametrize("make", CASES)
def test_energy_and_forces_equal_those_of_ase(make):
    ours, theirs = make(), make()
    ours.calc, theirs.calc = FastEMT(), EMT()
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-10)
    assert np.allclose(ours.get_forces(), theirs.get_forces(), atol=1e-10)


def test_pairs_are_found_again_when_atoms_move_far():
    ours, theirs = slab(), slab()
    ours.calc, theirs.calc = FastEMT(), EMT()
    rng = np.random.default_rng(0)
    for size in (0.01, 0.3, 1.0, 3.0):
        step = rng.normal(0, size, (len(ours), 3))
        ours.positions += step
        theirs.positions += step
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-8)


def test_forces_are_minus_the_slope_of_the_energy():
    atoms = slab()
    atoms.calc = FastEMT()
    forces = atoms.get_forces()
    for atom, axis in ((0, 2), (15, 0), (17, 1)):
        energies = []
        for shift in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift
            moved.calc = FastEMT()
            energies.append(moved.get_potential_energy())
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / 2e-4, rel=1e-6)


def test_an_element_without_parameters_is_named():
    atoms = bulk("Fe")
    atoms.calc = FastEMT()
    with pytest.raises(ValueError, match=r"got atomic numbers \[26\]"):
        atoms.get_potential_energy()


@pytest.mark.slow
def test_the_oracle_labels_the_data_set_again(mini_oc_tiny):
    frames = mini_oc_tiny.split("val_id")
    references = {s["sid"]: s["reference_energy"] for s in mini_oc_tiny.systems()}
    for index in range(0, len(frames), 15):
        frame = frames[index]
        energy, forces = mini_oc_tiny.oracle()(frame)
        assert energy - references[frame.sid] == pytest.approx(frame.energy, abs=2e-5)
        assert np.allclose(forces, frame.forces, atol=2e-5)


def test_the_oracle_gives_an_ase_calculator():
    atoms = slab()
    atoms.calc = EMTOracle().calculator()
    energy, forces = EMTOracle()(structure_from_atoms(atoms))
    assert atoms.get_potential_energy() == pytest.approx(energy)
    assert np.allclose(atoms.get_forces(), forces)
