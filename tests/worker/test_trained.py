"""A trained model from Python: three lines, an ASE calculator, relaxations."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms, FixCartesian, FixedLine
from ase.optimize import LBFGS

import atomsweep
from atomsweep.build import UserError
from atomsweep.data.atoms import structure_to_atoms
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.relax.calculator import PotentialCalculator
from atomsweep.tasks.relax.potentials import ModelPotential
from atomsweep.tracking.run import RunDirectory
from tests.contracts.compose import build_model
from tests.places import REPOSITORY


@pytest.fixture(scope="module")
def model(tiny_run):
    return atomsweep.load(tiny_run.path, dtype="float64", device="cpu")


@pytest.fixture
def atoms(mini_oc_tiny):
    found = structure_to_atoms(mini_oc_tiny.relaxations("val_id")[0])
    found.calc = None
    return found


def test_the_package_imports_nothing_heavy():
    code = "import sys, atomsweep; print({'torch', 'ase', 'numpy', 'hydra'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_what_trains_imports_no_compiler_and_no_data_sets_of_pyg():
    """Each is a second of every start. What was put off is there for who asks for it."""
    code = (
        "import sys, atomsweep.engine.fit, atomsweep.models.forcenet, atomsweep.tasks.s2f\n"
        "print({'atomsweep.engine.compiled', 'pandas'} & set(sys.modules))\n"
        "import torch_geometric\n"
        "print(torch_geometric.datasets.FakeDataset(num_graphs=1)[0].num_nodes > 0)"
    )
    env = {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "set()\nTrue\n", done.stderr


def test_a_run_is_found_by_directory_name_and_identity(tiny_run):
    root = tiny_run.path.parent
    found = [
        atomsweep.load(tiny_run.path),
        atomsweep.load(str(tiny_run.path)),
        atomsweep.load(tiny_run.name, root=root),
        atomsweep.load(tiny_run.identity, root=root),
    ]
    assert {one.run.path for one in found} == {tiny_run.path}
    assert found[0].step == tiny_run.result["checkpoint_step"]
    assert not found[0].model.training


def test_an_unknown_run_or_one_without_a_model_is_a_sentence(tiny_run, tmp_path):
    with pytest.raises(UserError, match="there is no run nowhere"):
        atomsweep.load("nowhere", root=tmp_path)
    config = (tiny_run.path / "config.yaml").read_text()
    empty = RunDirectory.create(tmp_path / "a-000000000000", config, {"identity": "0" * 12})
    with pytest.raises(UserError, match=r"no best checkpoint yet \(it is queued\)"):
        atomsweep.load(empty.path)
    with pytest.raises(UserError, match="dtype"):
        atomsweep.load(tiny_run.path, dtype="int8")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_neighbors: 20", "max_neighbors: 2", "is not the config that run .* was made of"),
        ("cutoff: 4.0", "cutoff: 4.5", "is not the config that run .* was made of"),
        ("model:", "mode:", "cannot be loaded|is not the config"),
        ("seed: 0", "seed: 0", None),
        ("threads: 1", "threads: 2", None),
    ],
)
def test_a_config_that_was_changed_makes_no_other_model(tiny_run, tmp_path, old, new, told):
    """No weight tells a cutoff; the identity does."""
    copy = tmp_path / tiny_run.name
    shutil.copytree(tiny_run.path, copy)
    text = (copy / "config.yaml").read_text()
    assert old in text
    (copy / "config.yaml").write_text(text.replace(old, new))
    if told is None:
        assert atomsweep.load(copy, device="cpu").step == tiny_run.result["checkpoint_step"]
        return
    with pytest.raises(UserError, match=told):
        atomsweep.load(copy, device="cpu")


def test_it_predicts_what_the_run_reported(tiny_run, mini_oc_tiny):
    """Force MAE of the result, from the calculator, one structure after the other."""
    model = atomsweep.load(tiny_run.path, device="cpu")
    split = mini_oc_tiny.split("val_id")
    errors = []
    for index in range(len(split)):
        structure = split[index]
        atoms = structure_to_atoms(structure)
        atoms.calc = model.calculator()
        forces = atoms.get_forces(apply_constraint=False)
        errors.append(np.abs(forces - structure.forces)[~structure.fixed])
    reported = tiny_run.result["metrics"]["val_id/forces_mae"]
    assert np.concatenate(errors).mean() == pytest.approx(reported, rel=1e-4)


def test_forces_do_not_see_wrapping_shifts_or_the_order_of_atoms(model, atoms):
    atoms.calc = model.calculator()
    before = atoms.get_forces(apply_constraint=False)
    moved = atoms.copy()
    rng = np.random.default_rng(0)
    images = rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    moved.set_positions(atoms.positions + images + [0.3, -7.0, 20.0], apply_constraint=False)
    moved.calc = model.calculator()
    assert np.allclose(moved.get_forces(apply_constraint=False), before, atol=1e-9)
    moved.wrap()
    assert np.allclose(moved.get_forces(apply_constraint=False), before, atol=1e-9)
    order = rng.permutation(len(atoms))
    mixed = atoms[order]
    mixed.calc = model.calculator()
    assert np.allclose(mixed.get_forces(apply_constraint=False), before[order], atol=1e-9)


def test_constraints_hold_and_the_calculator_notices_moves(model, atoms):
    atoms.calc = model.calculator()
    held = atoms.constraints[0].index
    assert np.array_equal(atoms.get_forces()[held], np.zeros((len(held), 3)))
    before = atoms.get_forces(apply_constraint=False)
    assert np.abs(before[held]).max() > 0.0
    atoms.set_constraint()
    atoms.positions[-1] += 0.1
    assert not np.allclose(atoms.get_forces(), before)


def test_a_result_is_kept_until_anything_that_a_model_may_read_changes(atoms):
    """Not ASE's list of changes alone: tags and constraints are inputs of models too."""
    well = Well()
    calls = []
    well.register_forward_pre_hook(lambda *_: calls.append(1))
    atoms.calc = PotentialCalculator(ModelPotential(well), "well")
    atoms.get_forces()
    atoms.get_forces()
    assert len(calls) == 1
    changes = {
        "tags": lambda: atoms.set_tags(1 - np.minimum(atoms.get_tags(), 1)),
        "fixed": lambda: atoms.set_constraint(FixAtoms([0])),
        "fewer fixed": lambda: atoms.set_constraint(),
        "numbers": lambda: atoms.set_atomic_numbers(atoms.numbers + 1),
        "cell": lambda: atoms.set_cell(atoms.cell.array * 1.01),
        "pbc": lambda: atoms.set_pbc([True, False, True]),
        "pos": lambda: atoms.rattle(0.01),
    }
    for number, change in enumerate(changes.values(), 2):
        change()
        atoms.get_forces()
        atoms.get_forces()
        assert len(calls) == number, list(changes)[number - 2]


@pytest.mark.parametrize("name", ["megnet_986k", "gala"])
def test_models_that_read_tags_see_them_change(name, atoms):
    data = ["data=mini_oc_tiny", "task=is2re", "metric=energy_mae"]
    torch.manual_seed(0)
    potential = ModelPotential(build_model([f"model={name}", "size=small", *data]).double().eval())
    atoms.calc = PotentialCalculator(potential, name)
    before = atoms.get_potential_energy()
    atoms.set_tags([2] * len(atoms))
    assert atoms.get_potential_energy() != before
    atoms.calc = PotentialCalculator(potential, name)
    again = atoms.get_potential_energy()
    atoms.calc.results = {}
    assert atoms.get_potential_energy() == again


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Atoms("Cu2", positions=[(0, 0, 0), (0, 0, np.nan)]), "pos of atom 1 is NaN or Inf"),
        (Atoms("Cu", positions=[(0, np.inf, 0)]), "pos of atom 0 is NaN or Inf"),
        (Atoms("Cu", cell=[1, 0, 0], pbc=True), "no volume along the periodic directions"),
        (Atoms("X", positions=[(0, 0, 0)]), "atomic number 0"),
        (Atoms(), "it has no atoms"),
    ],
)
def test_atoms_that_nothing_can_be_said_of_are_a_sentence(model, wrong, told):
    wrong.calc = model.calculator()
    with pytest.raises(ValueError, match=told):
        wrong.get_forces()


def test_one_structure_relaxes_without_a_list(model, atoms):
    alone = model.relax(atoms, steps=2)
    (listed,) = model.relax([atoms], steps=2)
    assert np.array_equal(alone.positions, listed.positions)
    assert alone.info["relaxation_steps"] == 2


def test_an_energy_that_is_not_predicted_is_refused_with_a_remedy():
    atoms = Atoms("N2", positions=[(0, 0, 0), (0, 0, 1.1)])
    atoms.calc = PotentialCalculator(ModelPotential(Well(energy=False)), "well")
    with pytest.raises(PropertyNotImplementedError, match=r"no energy; ask for get_forces\(\)"):
        atoms.get_potential_energy()
    assert atoms.get_forces().shape == (2, 3)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()  # also after the forces are there
    with pytest.raises(PropertyNotImplementedError, match="nan_energy=True"):
        LBFGS(atoms, logfile=None).run(fmax=0.01, steps=50)
    atoms.calc = PotentialCalculator(ModelPotential(Well(energy=False)), "well", nan_energy=True)
    assert LBFGS(atoms, logfile=None).run(fmax=0.01, steps=50)
    assert np.isnan(atoms.get_potential_energy())


class Well(ForceField):
    """Every atom in a parabola, energy or not, forces by autograd or not."""

    cutoff = None
    max_neighbors = None

    def __init__(self, energy=True, conservative=False):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.energy = energy
        self.conservative = conservative

    def forward(self, batch):
        pos = batch.pos.detach().requires_grad_(self.conservative)
        energy = pos.new_zeros(len(batch.natoms)).index_add(
            0, batch.batch, 0.5 * self.scale * (pos**2).sum(1)
        )
        forces = -self.scale * pos
        if self.conservative:
            forces = -torch.autograd.grad(energy.sum(), pos)[0]
        return Prediction(energy=energy if self.energy else None, forces=forces)


@pytest.mark.parametrize("conservative", [False, True])
def test_a_predicted_energy_is_there_and_forces_may_be_its_gradient(conservative):
    atoms = Atoms("N2", positions=[(0, 0, 1.0), (0, 2.0, 0)])
    well = Well(conservative=conservative).requires_grad_(False)
    atoms.calc = PotentialCalculator(ModelPotential(well), "well")
    assert atoms.get_potential_energy() == pytest.approx(1.0 + 4.0)
    assert np.allclose(atoms.get_forces(), [[0, 0, -2.0], [0, -4.0, 0]])


def test_elements_without_data_are_refused_by_name(model):
    krypton = Atoms("Kr2", positions=[(0, 0, 0), (0, 0, 2)], cell=[8] * 3, pbc=True)
    krypton.calc = model.calculator()
    with pytest.raises(ValueError, match=r"has no input data for .*Kr"):
        krypton.get_forces()


def test_atoms_on_one_spot_are_refused(model):
    twins = Atoms("Cu2", positions=[(0, 0, 0)] * 2, cell=[8] * 3, pbc=True)
    twins.calc = model.calculator()
    with pytest.raises(ValueError, match="apart; remove the duplicate"):
        twins.get_forces()


def test_many_atoms_objects_relax_at_once_and_keep_what_they_carry(model, atoms):
    atoms.info["name"] = "first"
    apart = Atoms("Cu2", positions=[(0, 0, 0)] * 2, cell=[8] * 3, pbc=True)
    relaxed = model.relax([atoms, apart, atoms], fmax=0.05, steps=3, batch_size=2)
    assert [one.info["relaxation"].split(":")[0] for one in relaxed] == [
        "stopped",
        "failed",
        "stopped",
    ]
    assert relaxed[0].info["name"] == "first"
    assert relaxed[0].info["relaxation_steps"] == 3
    assert np.array_equal(relaxed[0].constraints[0].index, atoms.constraints[0].index)
    reference = atoms.copy()
    reference.calc = model.calculator(nan_energy=True)
    LBFGS(reference, logfile=None).run(fmax=0.05, steps=3)
    assert np.allclose(relaxed[2].positions, reference.positions, atol=1e-7)
    assert np.allclose(relaxed[2].get_forces(), reference.get_forces(), atol=1e-6)
    assert atoms.calc is None


def test_constraints_that_cannot_be_held_are_refused(model, atoms):
    atoms.set_constraint([FixAtoms([0]), FixedLine(1, (0, 0, 1))])
    with pytest.raises(ValueError, match="structure 0 has the constraint FixedLine"):
        model.relax([atoms])
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1, 2])])
    (relaxed,) = model.relax([atoms], steps=2)
    assert np.array_equal(relaxed.positions[:3], atoms.positions[:3])
    assert not np.array_equal(relaxed.positions, atoms.positions)


def test_forces_that_were_not_trained_are_refused(model, atoms, monkeypatch):
    monkeypatch.setattr(model, "learned", ("energy",))
    with pytest.raises(UserError, match="learned energy alone.* take a run of task=s2ef"):
        model.relax([atoms])
    with pytest.raises(UserError, match="its forces mean nothing"):
        model.calculator()
