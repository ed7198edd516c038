import numpy as np
import pytest

from tests.contracts.compose import build_model, compose
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry


class TestMedianBaseline(ModelContract):
    overrides = ["model=median"]
    rotation = Symmetry.LEARNED


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
