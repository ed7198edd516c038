import pytest
import torch
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import Prediction
from atomsweep.tasks.s2f import S2F
from atomsweep.tracking import schema


def batch_of(forces, fixed, tags=None):
    fixed = torch.tensor(fixed)
    tags = torch.where(fixed, 0, 1) if tags is None else torch.tensor(tags)
    return Batch(forces=torch.tensor(forces), fixed=fixed, tags=tags)


def objective(task, prediction, batch):
    return float(task.totals(prediction, batch)["forces"] / task.counts(batch)["forces"])


def test_a_fixed_atom_off_by_one_costs_its_weight_over_the_sum_of_weights():
    batch = batch_of([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]], [True, False])
    prediction = Prediction(forces=torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert objective(S2F(0.05), prediction, batch) == pytest.approx(0.05 / 1.05)
    assert objective(S2F(0.0), prediction, batch) == 0.0
    assert objective(S2F(1.0), prediction, batch) == pytest.approx(0.5)


def test_weights_by_tags_follow_tag_zero_and_not_the_flag():
    batch = batch_of([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]], [False, False], tags=[0, 2])
    prediction = Prediction(forces=torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert objective(S2F(0.05, "tags"), prediction, batch) == pytest.approx(0.05 / 1.05)
    assert objective(S2F(0.05, "flag"), prediction, batch) == pytest.approx(0.5)


def at(progress, batch):
    batch[keys.PROGRESS] = progress
    return batch


def test_squared_errors_train_up_to_their_share_of_the_budget_and_l1_afterwards():
    forces = torch.tensor([[1.0, -3.0, 0.0], [0.5, 0.0, 0.0]])
    guess = torch.tensor([[2.0, -3.0, 0.5], [0.5, 0.0, 4.0]])
    batch = batch_of(forces.tolist(), [False, True])
    prediction, task = Prediction(forces=guess), S2F(0.05, squared_until=0.3)
    squared = (1.0 + 0.25 + 0.05 * 16.0) / (2 * (4.05 + 0.05 * 0.6))  # by hand, of the docstring
    assert objective(task, prediction, at(0.0, batch)) == pytest.approx(squared)
    assert objective(task, prediction, at(0.2999, batch)) == pytest.approx(squared)
    whole = objective(S2F(0.05), prediction, batch)
    assert objective(task, prediction, at(0.3, batch)) == pytest.approx(whole)
    assert objective(S2F(0.05, squared_until=1.0), prediction, at(1.0, batch)) == whole


@pytest.mark.parametrize(("size", "ratio"), [(50.0, 1.0), (1.0, 1.0), (1e-3, 0.016), (0.0, 0.0)])
def test_gradients_of_squared_errors_are_of_the_size_of_those_of_l1_or_smaller(size, ratio):
    """For a model that predicts zeros, as one does at the Median."""
    generator = torch.Generator().manual_seed(2)
    batch = batch_of((size * torch.randn(400, 3, generator=generator)).tolist(), [False] * 400)
    at(0.0, batch)

    def mean_gradient(task):
        guess = torch.zeros(400, 3, requires_grad=True)
        total = task.totals(Prediction(forces=guess), batch)["forces"]
        (total / task.counts(batch)["forces"]).backward()
        return float(guess.grad.abs().mean())

    of_l1 = 1 / 1200  # each component's, unless its error is exactly 0
    assert mean_gradient(S2F(squared_until=0.5)) == pytest.approx(ratio * of_l1, rel=0.05)


def test_a_batch_without_forces_or_without_atoms_that_count_costs_nothing():
    batch = at(0.0, batch_of([[0.0, 0.0, 0.0]], [True]))
    prediction = Prediction(forces=torch.zeros(1, 3))
    assert objective(S2F(0.0, squared_until=0.5), prediction, batch) == 0.0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="squared_until must lie in"):
        S2F(squared_until=share)


def test_metrics_equal_a_slow_loop_over_free_atoms():
    generator = torch.Generator().manual_seed(0)
    forces = torch.randn(20, 3, generator=generator)
    guess = torch.randn(20, 3, generator=generator)
    fixed = torch.rand(20, generator=generator) < 0.4
    batch = Batch(forces=forces, fixed=fixed, tags=torch.ones(20))
    got = {k: m.value() for k, m in S2F().metrics(Prediction(forces=guess), batch).items()}
    sums = {"mae": 0.0, "x": 0.0, "cos": 0.0, "norm": 0.0}
    free = 0
    for f, g, held in zip(forces.tolist(), guess.tolist(), fixed.tolist(), strict=True):
        if held:
            continue
        free += 1
        sums["mae"] += sum(abs(a - b) for a, b in zip(f, g, strict=True)) / 3
        sums["x"] += abs(f[0] - g[0])
        nf, ng = (sum(a * a for a in v) ** 0.5 for v in (f, g))
        sums["cos"] += sum(a * b for a, b in zip(f, g, strict=True)) / (nf * ng)
        sums["norm"] += abs(nf - ng)
    assert got[schema.FORCES_MAE] == pytest.approx(sums["mae"] / free)
    assert got[schema.FORCES_X_MAE] == pytest.approx(sums["x"] / free)
    assert got[schema.FORCES_COS] == pytest.approx(sums["cos"] / free)
    assert got[schema.FORCES_MAGNITUDE] == pytest.approx(sums["norm"] / free)


def test_metrics_of_two_batches_merge_to_those_of_the_whole():
    generator = torch.Generator().manual_seed(1)
    forces, guess = torch.randn(2, 30, 3, generator=generator)
    fixed = torch.rand(30, generator=generator) < 0.3
    tags = torch.ones(30)

    def metrics(part):
        batch = Batch(forces=forces[part], fixed=fixed[part], tags=tags[part])
        return S2F().metrics(Prediction(forces=guess[part]), batch)

    whole = metrics(slice(None))
    first, second = metrics(slice(0, 7)), metrics(slice(7, None))
    for name, mean in whole.items():
        assert (first[name] + second[name]).value() == pytest.approx(mean.value())


def test_the_cosine_of_a_zero_force_is_zero():
    batch = batch_of([[0.0, 0.0, 0.0]], [False])
    metrics = S2F().metrics(Prediction(forces=torch.ones(1, 3)), batch)
    assert metrics[schema.FORCES_COS].value() == 0.0


def test_a_weight_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        S2F(1.5)


def test_a_model_without_forces_is_refused():
    batch = batch_of([[0.0, 0.0, 0.0]], [False])
    with pytest.raises(ValueError, match="predicts forces"):
        S2F().metrics(Prediction(energy=torch.zeros(1)), batch)


def test_a_batch_in_which_no_atom_counts_has_a_loss_of_zero():
    forces = torch.ones(3, 3, requires_grad=True)
    batch = Batch(
        forces=torch.zeros(3, 3), fixed=torch.ones(3, dtype=torch.bool), tags=torch.zeros(3)
    )
    task = S2F(0.0)
    loss = task.totals(Prediction(forces=forces), batch)["forces"] / task.counts(batch)["forces"]
    loss.backward()
    assert float(loss) == 0.0
    assert (forces.grad == 0).all()
