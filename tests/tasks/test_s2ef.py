import pytest
import torch
from torch_geometric.data import Batch

from atomsweep.models.base import Prediction
from atomsweep.models.gns import GNS
from atomsweep.tasks.normalize import Normalizer
from atomsweep.tasks.s2ef import S2EF
from atomsweep.tracking import schema


def task(**options):
    return S2EF(Normalizer(1.0, 2.0, 4.0), 2.0, 100.0, **options)


def batch_of(energy, forces, fixed, natoms):
    natoms = torch.tensor(natoms)
    return Batch(
        pos=torch.zeros(len(fixed), 3),
        cell=torch.zeros(len(natoms), 3, 3),
        natoms=natoms,
        batch=torch.repeat_interleave(torch.arange(len(natoms)), natoms),
        energy=torch.tensor(energy),
        forces=torch.tensor(forces),
        fixed=torch.tensor(fixed),
    )


# Energy errors 1 and 3; force errors (3, 4, 0), fixed, (0, 0, 2)
BATCH = batch_of([1.0, 3.0], [[3.0, 4, 0], [9, 9, 9], [0, 0, 2]], [False, True, False], [2, 1])
ZERO = Prediction(torch.zeros(2), torch.zeros(3, 3))


def objective(task, prediction, batch):
    counts = task.counts(batch)
    return {
        name: float(total / counts[name]) for name, total in task.totals(prediction, batch).items()
    }


@pytest.mark.parametrize(
    ("options", "energy", "forces"),
    [
        ({}, (1 + 3) / 2 / 2, (5 + 2) / 4 / 2),
        ({"energy_loss": "mse"}, (1 + 9) / 4 / 2, 7 / 8),
        ({"per_atom_energy": True}, (1 / 2 + 3) / 2 / 2, 7 / 8),
        ({"forces_loss": "l1"}, 1.0, (7 / 3 + 2 / 3) / 4 / 2),
        ({"forces_loss": "mse"}, 1.0, (25 / 3 + 4 / 3) / 16 / 2),
        ({"free_atoms_only": False}, 1.0, (5 + 243**0.5 + 2) / 4 / 3),
    ],
    ids=str,
)
def test_each_loss_has_its_value_by_hand(options, energy, forces):
    found = objective(task(**options), ZERO, BATCH)
    assert found == {"energy": pytest.approx(energy), "forces": pytest.approx(forces)}


def test_coefficients_are_those_of_the_terms():
    assert task().coefficients == {"energy": 2.0, "forces": 100.0}
    with pytest.raises(ValueError, match="must not be negative"):
        S2EF(Normalizer(), -1.0, 1.0)


def test_two_halves_have_the_totals_and_counts_of_the_whole():
    parts = [
        batch_of([1.0], [[3.0, 4, 0], [9, 9, 9]], [False, True], [2]),
        batch_of([3.0], [[0.0, 0, 2]], [False], [1]),
    ]
    zeros = [Prediction(torch.zeros(1), torch.zeros(len(b.pos), 3)) for b in parts]
    for what in ("totals", "counts"):

        def values(prediction, batch, what=what):
            one = task()
            return one.counts(batch) if what == "counts" else one.totals(prediction, batch)

        whole = values(ZERO, BATCH)
        halves = [values(*pair) for pair in zip(zeros, parts, strict=True)]
        for name, value in whole.items():
            assert float(halves[0][name] + halves[1][name]) == pytest.approx(float(value))


def test_metrics_by_hand():
    found = {name: mean.value() for name, mean in task().metrics(ZERO, BATCH).items()}
    assert found[schema.ENERGY_MAE] == 2.0
    assert found[schema.FORCES_MAE] == pytest.approx((7 + 2) / 6)
    assert found[schema.FORCES_COS] == 0.0
    assert found[schema.EFWT] == 0.0


@pytest.mark.parametrize(
    ("energy", "force", "fixed_force", "within"),
    [
        (0.019, 0.029, 5.0, 1.0),  # fixed atoms do not count
        (0.0201, 0.0, 0.0, 0.0),
        (0.0, 0.0301, 0.0, 0.0),
        (-0.019, -0.029, 0.0, 1.0),
    ],
)
def test_efwt_asks_for_energy_within_20_mev_and_every_component_within_30(
    energy, force, fixed_force, within
):
    batch = batch_of(
        [energy, 1.0],
        [[0.0, 0, 0], [force, 0, 0], [fixed_force, 0, 0], [0, 0, 0]],
        [False, False, True, False],
        [3, 1],
    )
    prediction = Prediction(torch.zeros(2), torch.zeros(4, 3))
    mean = task().metrics(prediction, batch)[schema.EFWT]
    assert float(mean.total) == within  # the second structure is off by 1 eV
    assert float(mean.count) == 2


def test_a_model_without_energy_is_refused_in_one_sentence():
    gns = GNS(torch.nn.ReLU, 8, 1, 4.0, None, None)
    with pytest.raises(ValueError, match="GNS predicts none; choose another model"):
        task().adapt(gns)
    with pytest.raises(ValueError, match="this one predicts none"):
        task().metrics(Prediction(forces=torch.zeros(3, 3)), BATCH)
    with pytest.raises(ValueError, match="this one predicts none"):
        task().totals(Prediction(energy=torch.zeros(2)), BATCH)


def test_a_label_that_the_data_lack_is_named():
    batch = BATCH.clone()
    del batch.energy
    with pytest.raises(ValueError, match="needs the label energy"):
        task().metrics(ZERO, batch)
    with pytest.raises(ValueError, match="needs the label energy"):
        task().totals(ZERO, batch)
