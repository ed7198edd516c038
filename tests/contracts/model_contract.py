"""What every model must do. A model's test subclasses `ModelContract` and states its symmetries."""

import copy
import io
from dataclasses import replace
from enum import Enum, auto
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.contracts.compose import build_model
from tests.contracts.graphs import Atoms, make_batch, permuted, random_atoms, repeated, turned

ROTATION = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
ROTATION *= np.sign(np.linalg.det(ROTATION))


class Symmetry(Enum):
    """How a rotated input gives rotated forces."""

    EXACT = auto()
    LEARNED = auto()  # from augmentation, so not asserted


class ModelContract:
    """Subclass as `class TestX(ModelContract)` and set the attributes."""

    overrides: ClassVar[list[str]]
    rotation: ClassVar[Symmetry] = Symmetry.LEARNED
    conservative: ClassVar[bool] = False
    smooth_cutoff: ClassVar[bool] = True  # a neighbour that leaves the cutoff leaves no step
    extensive: ClassVar[bool] = True  # two copies have twice the energy
    local: ClassVar[bool] = True  # atoms that no path of edges joins do not feel one another
    parameter_step: ClassVar[float] = 1e-6  # of finite differences in the parameters
    crystal_force: ClassVar[float] = 1e-9  # largest one in a perfect crystal, from rounding

    structures: ClassVar[list[Atoms]] = [
        random_atoms(1),
        random_atoms(2, repeats=(1, 2, 3)),
        random_atoms(3, repeats=(3, 1, 1), pbc=(True, True, True)),
    ]

    def make_model(self):
        torch.manual_seed(0)
        return build_model(self.overrides)

    def batch_for(self, model, structures, **options):
        return make_batch(structures, model.cutoff, model.max_neighbors, **options)

    @pytest.fixture(scope="class")
    def prepared(self, request):
        """In float64 and evaluation mode, with statistics of a few training steps; and its batch.

        Made once for the class.
        """
        test = request.cls()
        model = test.make_model().double()
        batch = test.batch_for(model, test.structures)
        model.fit_statistics([batch])
        model.train()
        for _ in range(3):
            model(batch)
        return model.eval(), batch

    @pytest.fixture
    def model(self, prepared):
        """To read, since a copy takes longer than a prediction."""
        model = prepared[0]
        weights = model.state_dict(keep_vars=True).values()
        before = [weight._version for weight in weights]
        yield model
        assert [weight._version for weight in weights] == before, "a test writes: it needs `own`"
        assert not model.training, "a test changes the mode: it needs `own`"
        model.zero_grad()

    @pytest.fixture
    def own(self, prepared):
        return copy.deepcopy(prepared[0])

    @pytest.fixture
    def batch(self, prepared):
        return prepared[1].clone()

    def forces(self, model, structures):
        return model(self.batch_for(model, structures)).forces

    def test_one_force_per_atom_and_one_energy_per_structure(self, model, batch):
        prediction = model(batch)
        assert prediction.forces is not None or prediction.energy is not None
        if prediction.forces is not None:
            assert prediction.forces.shape == (len(batch.pos), 3)
            assert torch.isfinite(prediction.forces).all()
        if prediction.energy is not None:
            assert prediction.energy.shape == (len(self.structures),)
            assert torch.isfinite(prediction.energy).all()

    def test_declares_its_symmetries(self, model):
        assert model.conservative == self.conservative
        assert model.equivariant == (self.rotation is Symmetry.EXACT)

    def test_batch_gives_what_single_structures_give(self, model, batch):
        together = model(batch)
        alone = [model(self.batch_for(model, [atoms])) for atoms in self.structures]
        assert_close(together.forces, torch.cat([single.forces for single in alone]))
        if together.energy is not None:
            assert_close(together.energy, torch.cat([single.energy for single in alone]))

    def test_forces_follow_their_atoms_when_these_are_reordered(self, model):
        atoms = self.structures[0]
        order = np.random.default_rng(0).permutation(len(atoms.pos))
        before = self.forces(model, [atoms])
        assert_close(self.forces(model, [permuted(atoms, order)]), before[order])

    def test_order_of_edges_does_not_matter(self, model, batch):
        if model.cutoff is None:
            pytest.skip("reads no edges")
        order = torch.randperm(
            batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0)
        )
        before = model(batch).forces
        batch.edge_index = batch.edge_index[:, order]
        batch.cell_offsets = batch.cell_offsets[order]
        assert_close(model(batch).forces, before)

    def test_a_prepared_batch_gives_the_same_and_the_same_gradients(self, model, batch):
        if not list(model.parameters()):
            pytest.skip("nothing to train")

        def gradients(batch):
            trained = copy.deepcopy(model).train()
            prediction = trained(batch)
            prediction.forces.square().sum().backward()
            grads = [p.grad for p in trained.parameters() if p.grad is not None]
            return prediction.forces.detach(), torch.cat([grad.flatten() for grad in grads])

        for found, expected in zip(gradients(model.prepare(batch)), gradients(batch), strict=True):
            assert_close(found, expected)

    def test_translation_changes_nothing(self, model):
        shift = np.array([1.7, -0.3, 0.9])
        moved = [replace(atoms, pos=atoms.pos + shift) for atoms in self.structures]
        assert_close(self.forces(model, moved), self.forces(model, self.structures))

    def test_periodic_images_of_atoms_change_nothing(self, model):
        rng = np.random.default_rng(0)
        moved = []
        for atoms in self.structures:
            images = rng.integers(-2, 3, atoms.pos.shape) * np.array(atoms.pbc)
            moved.append(replace(atoms, pos=atoms.pos + images @ atoms.cell))
        assert_close(self.forces(model, moved), self.forces(model, self.structures))

    def test_supercell_repeats_forces_and_has_the_declared_energy(self, model):
        atoms = self.structures[0]
        one = model(self.batch_for(model, [atoms]))
        two = model(self.batch_for(model, [repeated(atoms, axis=1)]))
        assert close(two.forces, one.forces.repeat(2, 1)) == self.local
        if one.energy is not None:
            doubled = torch.allclose(two.energy, 2 * one.energy, rtol=1e-9, atol=1e-12)
            assert doubled == self.extensive

    def test_rotated_structure_has_rotated_forces(self, model):
        if self.rotation is not Symmetry.EXACT:
            pytest.skip("rotation is learned")
        rotation = torch.tensor(ROTATION)
        rotated = [turned(atoms, ROTATION) for atoms in self.structures]
        before = self.forces(model, self.structures)
        assert_close(self.forces(model, rotated), before @ rotation.T)

    def test_forces_are_the_negative_gradient_of_the_energy(self, model):
        if not self.conservative:
            pytest.skip("forces are predicted directly")
        batch = self.batch_for(model, self.structures)
        forces = model(batch).forces
        step = 1e-4
        for atom, axis in [(0, 0), (3, 2), (9, 1)]:
            energies = []
            for sign in (1, -1):
                moved = batch.clone()
                moved.pos[atom, axis] += sign * step
                energies.append(model(moved).energy.sum())
            slope = (energies[0] - energies[1]) / (2 * step)
            assert_close(forces[atom, axis], -slope, tolerance=1e-5)

    def test_forces_can_be_differentiated_again(self, model):
        """By finite differences: training on forces needs it, and elastic constants and phonons."""
        if not self.conservative:
            pytest.skip("forces are predicted directly")
        batch = self.batch_for(model, self.structures[:1])

        def forces_at(pos):
            moved = batch.clone()
            moved.pos = pos
            return model(moved).forces

        pos = batch.pos.clone().requires_grad_()
        assert torch.autograd.gradcheck(forces_at, pos, eps=1e-5, atol=1e-5, fast_mode=True)

    def test_forces_need_no_gradient_mode(self, model, batch):
        expected = model(batch)
        with torch.no_grad():
            prediction = model(batch)
        assert not prediction.forces.requires_grad
        assert_close(prediction.forces, expected.forces)
        if prediction.energy is not None:
            assert not prediction.energy.requires_grad

    def test_gradient_of_a_force_loss_is_its_slope(self, own, batch):
        """Along a random direction of all parameters, by central differences."""
        model = own
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            pytest.skip("nothing to train")
        generator = torch.Generator().manual_seed(0)
        along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

        def loss():
            return (model(batch).forces - batch.forces).square().mean()

        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        slope = sum((g * a).sum() for g, a in zip(gradients, along, strict=True) if g is not None)
        values = []
        for step in (self.parameter_step, -2 * self.parameter_step):
            with torch.no_grad():
                for parameter, direction in zip(parameters, along, strict=True):
                    parameter.add_(step * direction)
                values.append(loss())
        assert_close((values[0] - values[1]) / (2 * self.parameter_step), slope, tolerance=1e-4)

    def test_perfect_crystal_has_finite_gradients(self, model):
        """Collinear neighbours, no force: where derivatives may not exist."""
        cell = 3.7 * np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
        crystal = Atoms(np.zeros((1, 3)), np.array([29]), cell, (True,) * 3)
        crystal = repeated(repeated(crystal, axis=0), axis=1)
        forces = self.forces(model, [crystal])
        assert torch.isfinite(forces).all()
        if self.conservative:
            assert forces.abs().max() < self.crystal_force
        if not (parameters := [p for p in model.parameters() if p.requires_grad]):
            return
        loss = (forces - 1.0).square().sum()
        for gradient in torch.autograd.grad(loss, parameters, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()

    def test_step_at_the_cutoff_is_as_declared(self, model):
        if model.cutoff is None:
            pytest.skip("reads no edges")

        def forces_at(distance):
            pos = np.array([[0.0, 0.0, 0.0], [0.6, 0.0, 0.8], [0.0, 0.0, 0.0]])
            pos[1] *= distance
            pos[2, 2] = -2.0  # an atom that stays, so that batch statistics are not all alike
            numbers = np.array([29, 8, 46])
            return self.forces(model, [Atoms(pos, numbers, 40 * np.eye(3), (False,) * 3)])

        inside, outside = forces_at(model.cutoff - 1e-7), forces_at(model.cutoff + 1e-7)
        step = (inside - outside).abs().max() / inside.abs().max()
        assert (step < 1e-4) == self.smooth_cutoff, f"relative step of {step:.1e}"

    def test_atoms_beyond_the_cutoff_are_as_if_alone(self, model):
        atoms = replace(self.structures[0], pbc=(False,) * 3)
        far = replace(
            atoms,
            pos=np.concatenate([atoms.pos, [[100.0, 0.0, 0.0]]]),
            atomic_numbers=np.append(atoms.atomic_numbers, 8),
        )
        lonely = Atoms(np.zeros((1, 3)), np.array([8]), np.eye(3), (False,) * 3)
        expected = torch.cat([self.forces(model, [atoms]), self.forces(model, [lonely])])
        assert close(self.forces(model, [far]), expected) == self.local

    def test_same_input_gives_the_same_bits(self, model, batch):
        assert torch.equal(model(batch).forces, model(batch).forces)

    def test_input_is_left_as_it_was(self, model, batch):
        before = batch.clone()
        model(batch)
        assert set(batch.keys()) == set(before.keys())
        for name in before.keys():  # noqa: SIM118
            assert torch.equal(batch[name], before[name]), name

    def test_gradients_reach_every_parameter(self, model, batch):
        parameters = dict(model.named_parameters())
        if not parameters:
            pytest.skip("nothing to train")
        prediction = model(batch)
        loss = sum(
            torch.sin(torch.arange(1.0, output.numel() + 1)).double() @ output.flatten()
            for output in prediction
            if output is not None
        )
        loss.backward()
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                continue  # kept for the checkpoints of public code, and read by nothing
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert (parameter.grad != 0).any(), name

    def test_saved_weights_give_the_same_bits(self, model, batch):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        torch.manual_seed(1)
        other = build_model(self.overrides).double().eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(batch).forces, model(batch).forces)

    def test_copy_is_independent(self, model, batch):
        before = model(batch).forces
        other = copy.deepcopy(model)
        assert torch.equal(other(batch).forces, before)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        assert torch.equal(model(batch).forces, before)

    def test_seed_makes_the_initial_weights(self):
        first, second = self.make_model().state_dict(), self.make_model().state_dict()
        assert first.keys() == second.keys()
        for name, weight in first.items():
            assert torch.equal(weight.nan_to_num(), second[name].nan_to_num()), name

    def test_built_and_run_without_memory_and_without_reading_values(self, model, batch):
        """On the meta device, where anything that would wait for a GPU raises."""
        with torch.device("meta"):
            empty = build_model(self.overrides).double()
        shapes = {name: weight.shape for name, weight in model.state_dict().items()}
        assert {name: weight.shape for name, weight in empty.state_dict().items()} == shapes
        assert all(weight.is_meta for weight in empty.state_dict().values())
        assert empty.train()(batch.to("meta")).forces.shape == (len(batch.pos), 3)

    def test_bfloat16_autocast_stays_near_full_precision(self, own):
        model = own.float()
        batch = self.batch_for(model, self.structures, dtype=torch.float32)
        exact = model(batch).forces
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch).forces
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.1 * exact.norm()

    def test_element_without_data_is_refused_by_name(self, model):
        unsupported = sorted(model.unsupported_elements())
        if not unsupported:
            pytest.skip("every element has data")
        for number in (unsupported[0], unsupported[-1]):
            atoms = copy.deepcopy(self.structures[0])
            atoms.atomic_numbers[0] = number
            with pytest.raises(ValueError, match=rf"\bZ={number}\b"):
                self.forces(model, [atoms])


def close(actual, expected, tolerance=1e-9):
    return bool(
        (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-12)
    )


def assert_close(actual, expected, tolerance=1e-9):
    scale = expected.abs().max().clamp(min=1e-12)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)
