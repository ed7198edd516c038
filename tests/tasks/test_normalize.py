import io

import numpy as np
import pytest
import torch

from atomsweep.data.normalizer import LabelStatistics
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.normalize import NormalizedModel, Normalizer
from atomsweep.tasks.s2ef import S2EF
from tests.contracts.graphs import make_batch, random_atoms
from tests.dens.toys import Toy

STRUCTURES = [random_atoms(seed, repeats=(1, 2, 1 + seed % 3)) for seed in range(12)]


def batches(offset=0.0):
    made = []
    for start in (0, 5):
        batch = make_batch(STRUCTURES[start : start + 5 + start], None, dtype=torch.float32)
        batch.energy = batch.energy + offset * torch.zeros(len(batch.cell)).index_add_(
            0, batch.batch, batch.atomic_numbers.float()
        )
        made.append(batch)
    return made


def of_free_atoms(parts):
    return np.concatenate([b.forces[~b.fixed].double().numpy() for b in parts])


class Constant(ForceField):
    cutoff, max_neighbors = None, None

    def forward(self, batch):
        return Prediction(torch.ones(len(batch.cell)), torch.ones_like(batch.pos))


def fitted(parts, **options):
    normalizer = Normalizer(**options)
    model = NormalizedModel(Constant(), normalizer)
    model.fit_labels(lambda: labels_of(parts))
    return model, normalizer


def labels_of(parts):
    statistics = LabelStatistics()
    for batch in parts:
        if "energy" in batch:
            arrays = (batch[name].numpy() for name in ("energy", "atomic_numbers", "natoms"))
            statistics.add_energies(*arrays)
        statistics.add_forces(batch.forces.numpy(), batch.fixed.numpy())
    return statistics.result()


def test_statistics_are_those_of_all_training_labels_over_free_atoms():
    parts = batches()
    _, normalizer = fitted(parts)
    energies = np.concatenate([b.energy.double().numpy() for b in parts])
    assert float(normalizer.energy_mean) == pytest.approx(energies.mean(), rel=1e-6)
    assert float(normalizer.energy_std) == pytest.approx(energies.std(), rel=1e-6)
    forces = of_free_atoms(parts)
    assert float(normalizer.forces_std) == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-6)


def test_what_is_given_is_not_fitted_and_nothing_is_read():
    def never():
        raise AssertionError

    normalizer = Normalizer(-0.5, 2.0, 3.0)
    NormalizedModel(Constant(), normalizer).fit_labels(never)
    assert [float(b) for b in (normalizer.energy_mean, normalizer.energy_std)] == [-0.5, 2.0]
    _, partly = fitted(batches(), energy_std=2.0)
    assert float(partly.energy_std) == 2.0
    assert np.isfinite(float(partly.energy_mean))


def test_forces_can_share_the_spread_of_the_energies():
    _, normalizer = fitted(batches(), forces_std="energy")
    assert normalizer.forces_std == normalizer.energy_std
    assert float(Normalizer(0.0, 4.0, "energy").forces_std) == 4.0


def test_references_of_as_many_elements_as_structures_are_refused():
    """They pass through every label: what is left is rounding, and no unit for a loss."""
    part = make_batch(STRUCTURES[:3], None, dtype=torch.float32)
    kinds = len(part.atomic_numbers.unique())
    assert kinds > 3
    with pytest.raises(ValueError, match="3 energies of elements from 3 training structures"):
        fitted([part], references="fit")
    fitted([part], references="none")


def test_references_take_out_what_each_element_adds():
    """Total energies of 7 eV for each proton; references leave the rest, as it was."""
    parts = batches(offset=7.0)
    model, normalizer = fitted(parts, references="fit")
    plain = batches()
    spread = np.concatenate([b.energy.numpy() for b in plain]).std()
    assert float(normalizer.energy_std) <= spread * (1 + 1e-4)
    table = np.zeros((12, 119))
    energies = np.concatenate([b.energy.double().numpy() for b in parts])
    for row, atoms in enumerate(STRUCTURES[:5] + STRUCTURES[5:15]):
        np.add.at(table[row], atoms.atomic_numbers, 1)
    expected = table @ np.linalg.lstsq(table, energies, rcond=1e-10)[0]
    rest = energies - expected
    predicted = torch.cat([model(b).energy for b in parts]).numpy()
    np.testing.assert_allclose(predicted, expected + rest.mean() + rest.std(), rtol=1e-4)


def test_forces_of_a_conservative_network_stay_the_gradient_of_the_energy():
    torch.manual_seed(0)
    network = Toy(conservative=True).double()
    model = NormalizedModel(network, Normalizer(0.3, 2.0, 5.0)).double().eval()
    batch = make_batch(STRUCTURES[:2], 4.0)
    forces, step = model(batch).forces, 1e-5
    for atom, axis in [(0, 0), (1, 2)]:
        energies = []
        for sign in (1, -1):
            moved = batch.clone()
            moved.pos[atom, axis] += sign * step
            energies.append(model(moved).energy.sum())
        slope = (energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis].item() == pytest.approx(-slope.item(), rel=1e-5, abs=1e-8)


def test_statistics_are_saved_with_the_weights():
    parts = batches()
    model, _ = fitted(parts)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = NormalizedModel(Constant(), Normalizer())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(parts[0]).energy, model(parts[0]).energy)
    assert torch.equal(other(parts[0]).forces, model(parts[0]).forces)


def test_the_network_still_fits_its_own_statistics():
    class First(Constant):
        seen = 0

        def fit_statistics(self, batches):
            next(iter(batches))
            self.seen += 1

    model = NormalizedModel(network := First(), Normalizer())
    model.fit_statistics(iter(batches()))
    assert network.seen == 1


def test_labels_that_are_missing_or_all_the_same_are_told():
    parts = batches()
    for batch in parts:
        del batch.energy
    with pytest.raises(ValueError, match="the data set has no energies"):
        fitted(parts)
    parts = batches()
    for batch in parts:
        batch.energy = torch.ones_like(batch.energy)
    with pytest.raises(ValueError, match="cannot be normalised; set task.normalizer.energy_std"):
        fitted(parts)
    with pytest.raises(ValueError, match="energy_std must be positive"):
        Normalizer(energy_std=0.0)


ELECTRONIC = 13_605.7  # eV for each proton: all-electron totals of a slab lie near 10⁷ eV


def electronic_totals():
    """Totals whose spread is 0.1 eV behind an energy of each element."""
    parts = batches()
    rng = np.random.default_rng(0)
    for part in parts:
        rest = torch.from_numpy(rng.normal(0.0, 0.1, len(part.cell)))
        total = torch.zeros(len(part.cell), dtype=torch.float64)
        by_atom = -ELECTRONIC * part.atomic_numbers.double() ** 1.3
        part.energy = total.index_add_(0, part.batch, by_atom) + rest
    return parts


def test_total_energies_of_all_electrons_lose_nothing_to_float32():
    parts = electronic_totals()
    model, normalizer = fitted(parts, references="fit")
    assert model.to(torch.float32).normalizer.references.dtype == torch.float64
    offset = torch.cat([normalizer.energy_offset(part) for part in parts])
    energy = torch.cat([part.energy for part in parts])
    assert energy.abs().max() > 1e6
    left = energy - offset
    assert abs(float(left.std()) / float(normalizer.energy_std) - 1) < 0.1
    predicted = torch.cat([model(part).energy for part in parts])
    assert predicted.dtype == torch.float64
    torch.testing.assert_close(predicted, offset + normalizer.energy_std, rtol=0, atol=1e-8)
    errors = torch.cat([normalizer.energy_error(model(part).energy, part) for part in parts])
    assert errors.dtype == torch.float32
    torch.testing.assert_close(
        errors.double(), 1 - left / normalizer.energy_std, rtol=1e-6, atol=1e-6
    )


def test_statistics_of_old_checkpoints_are_taken_as_they_are():
    model = NormalizedModel(Constant(), Normalizer(-0.3, 2.1, 5.0))
    old = {name: value.float() for name, value in model.state_dict().items()}
    model.load_state_dict(old)
    assert float(model.normalizer.energy_std) == np.float32(2.1)
    assert model.normalizer.energy_std.dtype == torch.float64
    meta = NormalizedModel(Constant(), Normalizer(-0.3, 2.1, 5.0)).to("meta")
    assert meta.to_empty(device="cpu").normalizer.energy_std.dtype == torch.float64


def test_energies_that_were_rounded_to_float32_before_are_refused():
    parts = batches()
    for part in parts:
        part.energy = 0.1 * torch.arange(len(part.cell)) - 17_617.0  # float32: steps of 2 meV
    with pytest.raises(ValueError, match=r"rounded to float32, whose steps of 0.002 eV are more"):
        fitted(parts)


def test_totals_beside_a_mean_that_is_not_theirs_are_refused():
    part = batches()[0]
    part.energy = part.energy.double() - 1e6
    with pytest.raises(ValueError, match=r"energies lie up to 5e\+06 spreads from what"):
        S2EF(Normalizer(0.0, 0.2, 1.0), 1.0, 1.0).check(part)
    S2EF(Normalizer(-1e6, 0.2, 1.0), 1.0, 1.0).check(part)
