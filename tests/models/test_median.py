import numpy as np
import pytest
import torch

from atomsweep.tasks.is2re import IS2RE
from atomsweep.tasks.normalize import Normalizer
from tests.contracts.compose import build_model, compose
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry


class TestMedianBaseline(ModelContract):
    overrides = ["model=median"]
    rotation = Symmetry.LEARNED
    extensive = False


@pytest.mark.parametrize("num_structures", [3, 4])
def test_median_is_over_free_atoms_of_all_batches(num_structures):
    batches = [make_batch([random_atoms(seed)] * seed, None) for seed in range(1, num_structures)]
    model = build_model(["model=median"]).double()
    model.fit_statistics(iter(batches))
    free = np.concatenate([batch.forces[~batch.fixed].numpy() for batch in batches])
    expected = np.median(free, axis=0)
    np.testing.assert_allclose(model(batches[0]).forces.numpy()[-1], expected)


def test_no_free_atom_is_refused():
    batch = make_batch([random_atoms(1)], None)
    batch.fixed[:] = True
    with pytest.raises(ValueError, match="at least one free atom"):
        build_model(["model=median"]).fit_statistics([batch])


def test_unfitted_median_says_what_to_do():
    with pytest.raises(RuntimeError, match="fit_statistics"):
        build_model(["model=median"])(make_batch([random_atoms(1)], None))


def test_asks_for_no_graph_no_basis_and_no_activation():
    assert build_model(["model=median"]).cutoff is None
    assert set(compose(["model=median"]).model) == {"_target_"}


def test_the_energy_is_the_median_of_the_training_energies():
    batches = [make_batch([random_atoms(seed)] * seed, None) for seed in (1, 2, 3)]
    for batch in batches:
        batch.energy = torch.arange(len(batch.cell), dtype=torch.float64) ** 2 + len(batch.cell)
    model = build_model(["model=median"]).double()
    model.fit_statistics(iter(batches))
    energies = np.concatenate([batch.energy.numpy() for batch in batches])
    assert model(batches[1]).energy.tolist() == [np.median(energies)] * 2


def test_with_energies_alone_it_is_a_baseline_of_is2re():
    batches = [make_batch([random_atoms(seed)] * seed, None) for seed in (1, 2, 3)]
    for batch in batches:
        batch.energy = torch.linspace(-4.0, 9.0, len(batch.cell), dtype=torch.float64)
        del batch.forces
    task = IS2RE(Normalizer(None, None, "energy"))
    model = task.adapt(build_model(["model=median"]).double())
    model.fit_statistics(iter(batches))
    energies = torch.cat([batch.energy for batch in batches])
    prediction = model(batches[2])
    assert prediction.forces is None
    assert prediction.energy.tolist() == [float(np.median(energies))] * 3  # in eV, not normalised
    error = task.metrics(prediction, batches[2])["energy_mae"].value()
    expected = (prediction.energy - batches[2].energy).abs().mean()
    assert error == pytest.approx(float(expected))


def test_weights_of_before_load_without_an_energy():
    batches = [make_batch([random_atoms(1)], None)]
    model = build_model(["model=median"])
    model.load_state_dict({"median": torch.tensor([1.0, 2.0, 3.0])})
    prediction = model(batches[0])
    assert prediction.energy is None
    assert prediction.forces[0].tolist() == [1.0, 2.0, 3.0]
