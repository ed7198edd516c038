import builtins
import sys

import numpy as np
import pytest
from ase.units import kB

from atomsweep.data.generated import mini_md_build
from atomsweep.data.generated.mini_md import MiniMD
from atomsweep.data.generated.mini_md_build import XTB, langevin, relaxed
from atomsweep.data.generated.mini_md_recipe import MOLECULES, Recipe
from tests.conftest import data_source
from tests.contracts.dataset_contract import DatasetContract

pytest.importorskip("tblite", reason="mini_md is an optional part")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = data_source("mini_md_tiny", tmp_path_factory.mktemp("mini_md"))
    source.prepare(progress=False)
    return source


class TestMiniMD(DatasetContract):
    @pytest.fixture
    def source(self, made):
        return made


def test_labels_are_the_oracles_and_forces_its_gradient(made):
    structure = made.split("train")[3]
    oracle = XTB(structure.atomic_numbers)
    energy, forces = oracle(structure.pos)
    assert energy - made.describe()["energy_subtracted"] == pytest.approx(
        structure.energy, abs=1e-5
    )
    assert np.allclose(forces, structure.forces, atol=2e-4)
    step = 1e-3
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        ends = []
        for sign in (1, -1):
            pos = structure.pos.copy()
            pos[atom, axis] += sign * step
            ends.append(oracle(pos)[0])
        assert forces[atom, axis] == pytest.approx(-(ends[0] - ends[1]) / (2 * step), abs=1e-3)
    assert np.abs(forces.sum(0)).max() < 1e-4


def test_energies_are_centred_on_the_training_frames(made):
    energies = [made.split("train")[i].energy for i in range(40)]
    assert np.mean(energies) == pytest.approx(0.0, abs=1e-9)
    assert 0.01 < np.std(energies) < 1.0


@pytest.mark.slow
def test_made_again_it_is_the_same_and_another_seed_is_not(made, tmp_path):
    again = data_source("mini_md_tiny", tmp_path)
    other = data_source("mini_md_tiny", tmp_path, seed=1)
    assert again.fingerprint() == made.fingerprint() != other.fingerprint()
    for index in (0, 39):
        assert np.array_equal(again.split("train")[index].pos, made.split("train")[index].pos)
    assert not np.allclose(other.split("train")[0].pos, made.split("train")[0].pos)


@pytest.mark.parametrize("molecule", MOLECULES)
def test_molecules_relax_to_themselves(molecule):
    from ase import Atoms
    from ase.neighborlist import build_neighbor_list, natural_cutoffs

    atoms = relaxed(molecule)
    assert np.abs(XTB(atoms.numbers)(atoms.positions)[1]).max() < 0.02

    def bonds(it):
        found = build_neighbor_list(it, natural_cutoffs(it, mult=1.2), self_interaction=False)
        return found.get_connectivity_matrix(sparse=False)

    assert np.array_equal(bonds(atoms), bonds(Atoms(*MOLECULES[molecule])))


def test_the_thermostat_holds_the_temperature_of_a_harmonic_crystal():
    recipe = Recipe("ethanol", 0, 2000, 300.0, 1.0, 10, 0.02, 500)
    masses, stiffness = np.full(40, 12.0), 5.0
    kinetic, potential = [], []

    def springs(pos):
        return 0.5 * stiffness * float((pos**2).sum()), -stiffness * pos

    def take(number, pos, velocity, energy, forces):
        if number > recipe.equilibration:
            kinetic.append(0.5 * float((masses[:, None] * velocity**2).sum()))
            potential.append(energy)

    langevin(springs, masses, np.zeros((40, 3)), recipe, take)
    expected = 120 / 2 * kB * recipe.temperature
    assert np.mean(potential) == pytest.approx(expected, rel=0.02)  # exact for BAOAB
    assert np.mean(kinetic) == pytest.approx(expected, rel=0.03)


def test_without_friction_energy_is_conserved():
    recipe = Recipe("ethanol", 0, 1, 300.0, 0.5, 100, 0.0, 0)
    atoms = relaxed("ethanol")
    totals = []

    def take(number, pos, velocity, energy, forces):
        totals.append(energy + 0.5 * float((atoms.get_masses()[:, None] * velocity**2).sum()))

    langevin(XTB(atoms.numbers), atoms.get_masses(), atoms.positions, recipe, take)
    assert np.ptp(totals) < 0.02


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"molecule": "water"}, "one of ethanol, malonaldehyde, benzene, got 'water'"),
        ({"frames": 50}, "data.frames is 50, too few for train_size=40, val_size=10"),
        ({"val_size": 0}, "must be at least 1"),
    ],
)
def test_senseless_options_are_refused(tmp_path, changes, sentence):
    with pytest.raises(Exception, match=sentence):
        data_source("mini_md_tiny", tmp_path, **changes)


def test_without_tblite_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_md_build, "find_spec", lambda name: None)
    source = data_source("mini_md_tiny", tmp_path)
    with pytest.raises(ModuleNotFoundError, match="pip install tblite"):
        source.prepare(progress=False)
    assert not source.directory.exists()


def test_frames_that_are_there_need_no_tblite(made, monkeypatch):
    real = builtins.__import__
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setattr(builtins, "__import__", real)
    again = MiniMD(
        str(made.root), **vars(made.recipe), train_size=40, val_size=10, name="mini_md_tiny"
    )
    assert len(again.split("test")) == 10


def test_the_oracle_is_bit_equal_whatever_the_threads():
    from threadpoolctl import threadpool_limits

    numbers = np.array([{"C": 6, "O": 8, "H": 1}[s] for s in MOLECULES["ethanol"][0]])
    pos = np.array(MOLECULES["ethanol"][1])
    noise = 0.02 * np.random.default_rng(0).standard_normal((12, *pos.shape))

    def path():
        oracle = XTB(numbers)
        return np.array([oracle(pos + n)[1] for n in noise])

    with threadpool_limits(limits=1):
        alone = path()
    with threadpool_limits(limits=4):
        assert all(np.array_equal(path(), alone) for _ in range(3))
