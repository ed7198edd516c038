"""Batched relaxations against ASE's, and what may go wrong with one of many."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import LBFGS as AseLBFGS

from atomsweep.data.atoms import structure_to_atoms
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.generated.emt import EMTOracle
from atomsweep.data.structure import Structure
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.relax.calculator import PotentialCalculator
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.relax.potentials import Forces, ModelPotential
from tests.conftest import data_source
from tests.contracts.compose import build_model
from tests.tasks.oracle import OraclePotential


def initial(dataset, count=None):
    """Initial structures in float64, so that ASE starts from the very same numbers."""
    number = len(dataset) // 2 if count is None else count
    return [widened(dataset[2 * index]) for index in range(number)]


def widened(structure):
    return replace(
        structure,
        pos=np.asarray(structure.pos, float),
        cell=np.asarray(structure.cell, float),
    )


def of_atoms(atoms, fixed=None, sid=0):
    held = np.zeros(len(atoms), bool) if fixed is None else np.asarray(fixed)
    return Structure(
        atoms.numbers,
        atoms.positions.copy(),
        atoms.cell.array,
        atoms.pbc,
        np.ones(len(atoms), int),
        held,
        sid=sid,
    )


def dimer(distance=1.4, sid=0):
    atoms = Atoms("N2", positions=[(0, 0, 0), (0, 0, distance)], cell=[8, 8, 8], pbc=True)
    return of_atoms(atoms, sid=sid)


def all_of(structures, potential, **options):
    return sorted(relax(structures, potential, **options), key=lambda one: one.index)


def ase_path(structure, calculator, optimizer, fmax, steps):
    """Positions of every step of ASE's LBFGS, and whether it converged."""
    atoms = structure_to_atoms(structure)
    atoms.calc = calculator
    settings = vars(optimizer)
    dynamics = AseLBFGS(atoms, logfile=None, **settings)
    path = []
    dynamics.attach(lambda: path.append(atoms.positions.copy()))
    converged = dynamics.run(fmax, steps)
    return np.array(path), bool(converged)


@pytest.fixture(scope="module")
def systems(mini_oc_tiny):
    return initial(mini_oc_tiny.relaxations("val_id")) + initial(
        mini_oc_tiny.relaxations("val_ood_both")
    )


@pytest.fixture(scope="module")
def potential():
    """A network in float64 that no one trained: a force field all the same, and a rough one."""
    torch.manual_seed(0)
    small = ["model.hidden_channels=8", "model.decoder_channels=8", "model.num_layers=2"]
    return ModelPotential(build_model(small).double().eval())


EMT = OraclePotential(EMTOracle())


def assert_same_path(one, path, converged, tolerance):
    mine = np.array([pos for pos, _, _ in one.path])
    assert len(mine) == len(path) == one.steps + 1
    assert one.converged == converged
    assert np.abs(mine - path).max() < tolerance


@pytest.mark.parametrize(
    "optimizer",
    [LBFGS(), LBFGS(0.04, memory=3, damping=0.7, alpha=50.0)],
    ids=["ase", "others"],
)
def test_paths_on_the_oracle_are_those_of_ase(systems, optimizer):
    found = all_of(systems, EMT, optimizer=optimizer, fmax=0.03, steps=25, batch_size=3, paths=True)
    for one, structure in zip(found, systems, strict=True):
        path, converged = ase_path(structure, EMTOracle().calculator(), optimizer, 0.03, 25)
        assert_same_path(one, path, converged, 1e-6)


def test_paths_of_a_model_are_those_of_ase_with_its_calculator(systems, potential):
    found = all_of(systems, potential, fmax=0.05, steps=12, batch_size=5, paths=True)
    for one, structure in zip(found, systems, strict=True):
        calculator = PotentialCalculator(potential, "net", nan_energy=True)
        path, converged = ase_path(structure, calculator, LBFGS(), 0.05, 12)
        assert_same_path(one, path, converged, 1e-6)


@pytest.mark.long
def test_fifty_systems_relax_as_with_ase_one_by_one(tmp_path, potential):
    source = data_source("mini_oc_tiny", tmp_path, train_systems=36, workers=2)
    structures = [s for split in source.splits() for s in initial(source.relaxations(split))]
    assert len(structures) >= 50
    found = all_of(structures, EMT, fmax=0.03, steps=200, batch_size=16, paths=True)
    whole = 0
    for one, structure in zip(found, structures, strict=True):
        path, converged = ase_path(structure, EMTOracle().calculator(), LBFGS(), 0.03, 200)
        mine = np.array([pos for pos, _, _ in one.path])
        assert np.abs(mine[:30] - path[:30]).max() < 1e-6
        if converged:  # the others wander, where the last bit of a dot product grows without bound
            assert_same_path(one, path, True, 1e-4)
            whole += 1
    assert whole >= 30
    found = all_of(structures, potential, fmax=0.05, steps=15, batch_size=16, paths=True)
    for one, structure in zip(found, structures, strict=True):
        path, converged = ase_path(
            structure, PotentialCalculator(potential, "net", nan_energy=True), LBFGS(), 0.05, 15
        )
        assert_same_path(one, path, converged, 1e-6)


def test_on_the_oracle_a_path_is_the_same_to_the_bit_in_any_batch(systems):
    """Each structure's forces come from a call of its own, and every sum is over its own atoms."""
    together = all_of(systems, EMT, fmax=0.03, steps=12, batch_size=len(systems), paths=True)
    for size in (1, 3):
        for one, other in zip(
            together,
            all_of(systems, EMT, fmax=0.03, steps=12, batch_size=size, paths=True),
            strict=True,
        ):
            assert len(one.path) == len(other.path)
            for mine, theirs in zip(one.path, other.path, strict=True):
                assert np.array_equal(mine[0], theirs[0])
                assert mine[1] == theirs[1]
    backwards = list(relax(systems[::-1], EMT, fmax=0.03, steps=12, batch_size=4))
    for one in backwards:
        twin = together[len(systems) - 1 - one.index]
        assert np.array_equal(one.structure.pos, twin.structure.pos)


def test_with_a_model_a_path_is_the_same_to_rounding_in_any_batch(systems, potential):
    """A matrix product of another height may round otherwise, so not to the bit."""
    together = all_of(systems, potential, fmax=0.05, steps=10, batch_size=len(systems))
    for one, other in zip(
        together, all_of(systems, potential, fmax=0.05, steps=10, batch_size=2), strict=True
    ):
        assert one.steps == other.steps
        assert np.abs(one.structure.pos - other.structure.pos).max() < 1e-9


class Counting:
    """A potential that remembers which systems it was asked for together."""

    device = torch.device("cpu")

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def refusal(self, structure):
        return self.inner.refusal(structure)

    def __call__(self, batch):
        self.asked.append(batch.sid.tolist())
        return self.inner(batch)


def test_who_is_done_leaves_and_the_next_one_enters(systems):
    counting = Counting(EMT)
    found = list(relax(systems, counting, fmax=0.05, steps=30, batch_size=3))
    assert sorted(one.index for one in found) == list(range(len(systems)))
    assert max(map(len, counting.asked)) == 3
    waiting = {s.sid for s in systems}
    for asked in counting.asked:
        waiting -= set(asked)
        assert len(asked) == 3 or not waiting
    calls = [sum(s.sid in asked for asked in counting.asked) for s in systems]
    steps = {one.index: one.steps for one in found}
    assert calls == [steps[index] + 1 for index in range(len(systems))]
    assert [one.index for one in found] != sorted(one.index for one in found)


def test_structures_are_read_when_there_is_room_for_them(systems):
    taken = []

    def reading():
        for structure in systems:
            taken.append(structure.sid)
            yield structure

    results = relax(reading(), EMT, fmax=0.0, steps=1, batch_size=2)
    next(results)
    assert len(taken) == 2


def test_fixed_atoms_stay_where_they_are_and_free_ones_end_below_fmax(systems):
    found = all_of(systems[:3], EMT, fmax=0.05, steps=200)
    for one, structure in zip(found, systems, strict=False):
        held = structure.fixed
        assert held.any()
        assert np.array_equal(one.structure.pos[held], structure.pos[held])
        assert not np.array_equal(one.structure.pos[~held], structure.pos[~held])
        energy, forces = EMTOracle()(one.structure)
        assert np.allclose(one.structure.forces, forces, atol=1e-9)
        assert one.structure.energy == pytest.approx(energy)
        largest = np.linalg.norm(forces[~held], axis=1).max()
        assert one.fmax == pytest.approx(largest)
        assert one.converged == (largest < 0.05)


def test_fmax_zero_takes_all_steps_and_zero_steps_only_looks(systems):
    for one in all_of(systems[:2], EMT, fmax=0.0, steps=7):
        assert (one.steps, one.converged, one.fault) == (7, False, None)
    for one, structure in zip(all_of(systems[:2], EMT, steps=0), systems, strict=False):
        assert one.steps == 0
        assert np.array_equal(one.structure.pos, structure.pos)
        assert one.structure.forces is not None


def test_what_is_relaxed_already_takes_no_step(systems):
    (first,) = relax(systems[1:2], EMT, fmax=0.05, steps=200)
    assert first.converged
    (again,) = relax([first.structure], EMT, fmax=0.05, steps=200)
    assert (again.steps, again.converged) == (0, True)
    assert np.array_equal(again.structure.pos, first.structure.pos)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), 9.0 * np.eye(3)])
def test_a_single_atom_feels_nothing(cell):
    atom = of_atoms(Atoms("Cu", cell=cell, pbc=cell.any()))
    (one,) = relax([atom], EMT, fmax=0.05)
    assert (one.steps, one.converged, one.fmax) == (0, True, 0.0)
    (one,) = relax([atom], EMT, fmax=0.0, steps=4)  # ASE divides 0 by 0 here
    assert one.steps == 4
    assert np.array_equal(one.structure.pos, atom.pos)


def test_if_every_atom_is_fixed_there_is_nothing_to_do():
    (one,) = relax([replace(dimer(), fixed=np.ones(2, bool))], EMT, fmax=0.0, steps=5)
    assert (one.steps, one.converged) == (0, True)


def test_no_structures_give_no_results():
    assert list(relax([], EMT)) == []


class Sick:
    """EMT that loses its mind over one system after a few calls."""

    device = torch.device("cpu")

    def __init__(self, sid, calls, value):
        self.sid, self.calls, self.value = sid, calls, value

    def refusal(self, structure):
        return None

    def __call__(self, batch):
        found = EMT(batch)
        ill = (batch.sid == self.sid)[batch.batch]
        if ill.any():
            self.calls -= 1
            if self.calls < 0:
                found.forces[ill, 1] = self.value
        return Forces(found.energy, found.forces, found.faults)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_force_that_is_not_finite_ends_that_relaxation_alone(systems, value):
    well = all_of(systems, EMT, fmax=0.03, steps=15, batch_size=4)
    ill = all_of(systems, Sick(systems[2].sid, 3, value), fmax=0.03, steps=15, batch_size=4)
    for one, other in zip(well, ill, strict=True):
        if one.index == 2:
            assert other.structure.sid == systems[2].sid
            assert "NaN or infinite" in other.fault
            assert (other.steps, other.converged) == (3, False)
        else:
            assert other.fault is None
            assert np.array_equal(one.structure.pos, other.structure.pos)


def test_unusable_structures_fail_with_a_sentence_and_the_others_go_on(potential):
    krypton = of_atoms(Atoms("Kr2", positions=[(0, 0, 0), (0, 0, 2)], cell=[8] * 3, pbc=True))
    twins = of_atoms(Atoms("N2", positions=[(0, 0, 0), (0, 0, 0)], cell=[8] * 3, pbc=True))
    lonely = of_atoms(Atoms("N", cell=[20] * 3, pbc=True))
    lost = replace(dimer(), pos=np.full((2, 3), np.nan))
    found = all_of([krypton, dimer(), twins, lonely, lost], potential, steps=2, batch_size=2)
    told = [one.fault for one in found]
    assert "Kr" in told[0]
    assert told[1] is None
    assert found[1].steps == 2
    assert "apart" in told[2]
    assert "no edges" in told[3]
    assert "NaN" in told[4]
    assert not any(one.converged for one in found)


def test_emt_names_the_element_that_it_does_not_know():
    iron = of_atoms(Atoms("Fe2", positions=[(0, 0, 0), (0, 0, 2)], cell=[8] * 3, pbc=True))
    found = all_of([iron, dimer()], EMT, steps=3)
    assert "26" in found[0].fault
    assert found[1].fault is None


class Springs(ForceField):
    """Pulls every atom to the origin; its memory holds few structures."""

    cutoff = None
    max_neighbors = None

    def __init__(self, room):
        super().__init__()
        self.stiffness = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.room, self.refused = room, 0

    def forward(self, batch):
        if len(batch.natoms) > self.room:
            self.refused += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (fake)")
        energy = 0.5 * torch.zeros(len(batch.natoms), dtype=torch.float64).index_add(
            0, batch.batch, (batch.pos**2).sum(1)
        )
        return Prediction(energy=energy, forces=-self.stiffness * batch.pos)


def test_when_memory_runs_out_the_batch_is_evaluated_in_parts():
    structures = [dimer(1.0 + 0.1 * number, sid=number) for number in range(11)]
    roomy = all_of(structures, ModelPotential(Springs(99)), fmax=1e-3, steps=9, batch_size=11)
    small = Springs(3)
    found = all_of(structures, ModelPotential(small), fmax=1e-3, steps=9, batch_size=11)
    assert small.refused == 2  # 11 and 5, and never again
    for one, other in zip(roomy, found, strict=True):
        assert np.array_equal(one.structure.pos, other.structure.pos)
        assert one.structure.energy == other.structure.energy
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(relax(structures, ModelPotential(Springs(0))))


def test_a_part_in_which_no_structure_can_be_evaluated_shifts_no_energies():
    structures = [dimer(1.4), dimer(1.1), dimer(1.2)]
    model = Springs(99)
    model.cutoff = 1.3  # the first has no edges
    whole, parts = ModelPotential(model), ModelPotential(model)
    parts._most = 1
    batch = GraphDataset(InMemoryDataset(structures), None).batch(np.arange(3))
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    one, other = whole(copy(batch)), parts(copy(batch))
    assert list(one.faults) == list(other.faults) == [0]
    assert torch.equal(one.energy[1:], other.energy[1:])
    assert len(other.energy) == 3
    assert torch.isnan(other.energy[0])
    assert torch.isnan(other.forces[:2]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"fmax": -1.0}, "fmax"), ({"steps": -1}, "steps"), ({"batch_size": 0}, "batch_size")],
)
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        list(relax([dimer()], EMT, **options))
    with pytest.raises(ValueError, match="maxstep"):
        LBFGS(maxstep=0.0)
