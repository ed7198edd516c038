"""The objective of DeNS: limits, hand-computed values of each switch, gradients part by part."""

import pytest
import torch
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.augment import RotateSO3, StepRandom
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.normalize import Normalizer
from atomsweep.tasks.s2f import S2F
from tests.dens.toys import SEED, STRUCTURES, Toy, batch_of, dens, s2ef


@pytest.fixture(scope="module")
def batch():
    made = batch_of()
    made.places = torch.arange(len(made.cell))
    return made


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Toy().double()


def wrapped(settings, model, **options):
    task = settings.around(s2ef(**options))
    return task, task.adapt(model).double()


def prepared(task, batch, places=None, seed=SEED):
    if places is not None:
        batch.places = places
    return task.prepare(batch, seed)


def loss_of(task, prediction, batch, counts=None):
    counts = task.counts(batch) if counts is None else counts
    totals = task.totals(prediction, batch)
    return sum(task.coefficients[name] * total / counts[name] for name, total in totals.items())


def gradient(task, model, batch, counts=None):
    loss = loss_of(task, model(batch), batch, counts)
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(1) if p is None else p.flatten() for p in parts])


# Limits


def test_without_corruption_it_is_the_plain_task_to_the_bit(batch, model):
    task, force_field = wrapped(dens(prob=0.0), model)
    plain = s2ef()
    assert prepared(task, batch) is batch
    assert torch.equal(
        gradient(task, force_field, prepared(task, batch)),
        gradient(plain, plain.adapt(model).double(), batch),
    )


@pytest.mark.parametrize("reduction", ["joint", "separate"])
def test_a_batch_that_the_coin_spares_has_the_loss_of_the_plain_task(batch, model, reduction):
    task, force_field = wrapped(dens(prob=0.3, coin="batch", reduction=reduction), model)
    seed = next(
        s for s in range(50) if not prepared(task, batch, seed=s)[keys.DENS_STRUCTURES].any()
    )
    spared = prepared(task, batch, seed=seed)
    assert torch.equal(spared.pos, batch.pos)
    prediction = force_field(batch)
    assert loss_of(task, prediction, spared) == loss_of(task.task, prediction, batch)


def test_all_corrupted_leaves_energy_and_noise_alone(batch, model):
    task, force_field = wrapped(dens(prob=1.0, ratio=1.0), model)
    corrupted = prepared(task, batch)
    totals = task.totals(force_field(corrupted), corrupted)
    assert totals["forces"] == 0
    assert totals["noise"] > 0
    assert torch.equal(corrupted[keys.DENS_MOVED], ~batch.fixed)


# What the model and the loss see


def test_labels_stay_those_of_the_original_structure_and_the_batch_is_left_alone(batch, model):
    before = batch.clone()
    task, _ = wrapped(dens(), model)
    corrupted = prepared(task, batch)
    assert torch.equal(corrupted.energy, batch.energy)
    assert torch.equal(corrupted.forces, batch.forces)
    assert not torch.equal(corrupted.pos, batch.pos)
    for name in before.keys():  # noqa: SIM118
        assert torch.equal(batch[name], before[name]), name
    assert set(batch.keys()) == set(before.keys())


def test_forces_are_encoded_where_atoms_moved_and_nowhere_else(batch, model):
    corrupted = prepared(wrapped(dens(), model)[0], batch)
    moved = corrupted[keys.DENS_MOVED]
    assert 0 < moved.sum() < len(moved)
    assert torch.equal(corrupted[keys.DENS_FORCES][moved], batch.forces[moved])
    assert (corrupted[keys.DENS_FORCES][~moved] == 0).all()
    assert torch.equal(corrupted[keys.DENS_MASK], moved)


def test_forces_are_encoded_raw_in_the_unit_that_is_asked_for(batch, model):
    plain = prepared(wrapped(dens(), model)[0], batch)
    scaled = prepared(
        wrapped(dens(force_scale=23.0), model, normalizer=Normalizer(0.0, 5.0, 7.0))[0], batch
    )
    assert torch.equal(scaled[keys.DENS_FORCES], 23.0 * plain[keys.DENS_FORCES])


def test_without_force_encoding_zeros_are_encoded_and_the_noise_is_still_asked_for(batch, model):
    task, force_field = wrapped(dens(encode_forces=False), model)
    corrupted = prepared(task, batch)
    assert (corrupted[keys.DENS_FORCES] == 0).all()
    assert corrupted[keys.DENS_MOVED].any()
    assert task.totals(force_field(corrupted), corrupted)["noise"] > 0


def test_the_noise_target_is_the_displacement_over_the_chosen_scale(batch, model):
    many = {"sigma_low": 0.01, "sigma_high": 0.5, "num_sigmas": 50}
    high = prepared(wrapped(dens(**many), model)[0], batch)
    own = prepared(wrapped(dens(**many, noise_norm="sigma"), model)[0], batch)
    shift = high.pos - batch.pos
    torch.testing.assert_close(high[keys.DENS_NOISE], shift / 0.5)
    draw = dens(**many).draw(batch, SEED, torch.arange(8))
    torch.testing.assert_close(own[keys.DENS_NOISE], shift / draw.sigma[batch.batch][:, None])
    assert not torch.allclose(own[keys.DENS_NOISE], high[keys.DENS_NOISE])


def test_the_scale_is_told_only_when_asked_and_only_of_corrupted_structures(batch, model):
    assert keys.DENS_SIGMA not in prepared(wrapped(dens(), model)[0], batch)
    told = prepared(wrapped(dens(sigma_encoding=True), model)[0], batch)
    inside = told[keys.DENS_STRUCTURES][batch.batch]
    assert told[keys.DENS_SIGMA].tolist() == [0.1 if yes else 0.0 for yes in inside.tolist()]


def test_the_graph_is_rebuilt_or_kept(batch, model):
    kept = prepared(wrapped(dens(sigma_high=0.4, graph="keep"), model)[0], batch)
    assert kept.edge_index is batch.edge_index
    rebuilt = prepared(wrapped(dens(sigma_high=0.4), model)[0], batch)
    assert torch.equal(rebuilt.pos, kept.pos)
    assert rebuilt.edge_index.shape != kept.edge_index.shape
    structure = int(rebuilt[keys.DENS_STRUCTURES].nonzero()[0])
    atoms = batch.batch == structure
    pairs, _ = RadiusGraph(4.0, None)(
        rebuilt.pos[atoms].numpy(), batch.cell[structure].numpy(), batch.pbc[structure].numpy()
    )
    assert pairs.shape[1] == int((rebuilt.batch[rebuilt.edge_index[1]] == structure).sum())


# Values by hand: 2 structures of 2 atoms, the second corrupted in its first atom


def hand_batch(**fields):
    return Batch(
        pos=torch.zeros(4, 3),
        cell=torch.zeros(2, 3, 3),
        natoms=torch.tensor([2, 2]),
        batch=torch.tensor([0, 0, 1, 1]),
        fixed=torch.tensor([False, True, False, False]),
        energy=torch.tensor([1.0, 2.0]),
        forces=torch.tensor([[3.0, 0, 4], [1, 1, 1], [0, 0, 0], [0, 2, 0]]),
        dens_structures=torch.tensor([False, True]),
        dens_mask=torch.tensor([False, False, True, False]),
        dens_moved=torch.tensor([False, False, True, False]),
        dens_noise=torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 3, 4], [0, 0, 0]]),
        progress=fields.get("progress", 0.0),
    )


ZERO = Prediction(torch.zeros(2), torch.zeros(4, 3), torch.zeros(4, 3))
# Errors: energies 1 and 2, forces of free atoms 5 and 2 (the moved one's does not count), noise 5


@pytest.mark.parametrize(
    ("change", "decay", "expected"),
    [
        ({}, 1.0, 2 * 3 / 2 + (100 * (5 + 2) + 10 * 5) / 3),
        ({"reduction": "separate"}, 1.0, 2 * 3 / 2 + 100 * (5 + 2) / 2 + 10 * 5 / 1),
        ({"corrupted_energy": False}, 1.0, 2 * 1 / 2 + (100 * 7 + 10 * 5) / 3),
        ({"noise_loss": "mse"}, 1.0, 2 * 3 / 2 + (100 * 7 + 10 * 25) / 3),
        ({"coefficient": 25.0}, 1.0, 2 * 3 / 2 + (100 * 7 + 25 * 5) / 3),
        ({"decay": "linear"}, 0.25, 2 * 3 / 2 + (100 * 7 + 0.25 * 10 * 5) / 3),
    ],
    ids=str,
)
def test_each_switch_has_its_exact_value(change, decay, expected):
    task = dens(**change).around(s2ef())
    assert float(loss_of(task, ZERO, hand_batch(progress=1 - decay))) == pytest.approx(
        expected, rel=1e-6
    )


def test_labels_are_normalised_in_the_errors_and_the_noise_is_not():
    task = dens().around(s2ef(normalizer=Normalizer(0.7, 2.0, 4.0)))
    expected = 2 * (3 / 2) / 2 + (100 * 7 / 4 + 10 * 5) / 3
    assert float(loss_of(task, ZERO, hand_batch())) == pytest.approx(expected, rel=1e-6)


def test_separate_means_without_atoms_are_nothing_and_no_nan():
    batch = hand_batch()
    batch.dens_moved = torch.zeros(4, dtype=torch.bool)
    task = dens(reduction="separate").around(s2ef())
    assert float(loss_of(task, ZERO, batch)) == pytest.approx(2 * 1.5 + 100 * 7 / 3, rel=1e-6)


@pytest.mark.parametrize("reduction", ["joint", "separate"])
def test_a_batch_without_free_atoms_has_the_loss_of_its_energies(batch, model, reduction):
    """Alone in a batch, such structures would divide zero by zero."""
    held = batch.clone()
    held.fixed = torch.ones_like(batch.fixed)
    task, force_field = wrapped(dens(prob=1.0, reduction=reduction, encode_fixed=True), model)
    corrupted = prepared(task, held)
    assert corrupted[keys.DENS_MASK].any()
    assert torch.equal(corrupted.pos, held.pos)
    for mine in (task, task.task):
        prediction = force_field(corrupted)
        expected = 2 * mine.totals(prediction, corrupted)["energy"] / 8
        assert torch.equal(loss_of(mine, prediction, corrupted), expected)
        assert gradient(mine, force_field, corrupted).isfinite().all()


def test_the_coefficient_decays_linearly_with_progress(batch, model):
    task, force_field = wrapped(dens(decay="linear"), model)
    noise = []
    for progress in (0.0, 0.25, 1.0):
        corrupted = prepared(task, batch)
        corrupted[keys.PROGRESS] = progress
        noise.append(task.totals(force_field(corrupted), corrupted)["noise"].item())
    assert noise[1] == pytest.approx(0.75 * noise[0])
    assert noise[2] == 0.0


# One backward for both objectives


@pytest.mark.parametrize("conservative", [False, True])
@pytest.mark.parametrize("reduction", ["joint", "separate"])
def test_the_gradient_of_a_mixed_batch_is_the_sum_of_its_parts(batch, conservative, reduction):
    """Standard ones by the plain task, corrupted ones alone; counts are those of the whole."""
    torch.manual_seed(0)
    model = Toy(conservative=conservative).double()
    task, force_field = wrapped(dens(reduction=reduction), model)
    mixed = prepared(task, batch)
    assert 0 < int(mixed[keys.DENS_STRUCTURES].sum()) < 8
    counts = task.counts(mixed)
    parts = []
    for place, atoms in enumerate(STRUCTURES):
        single = batch_of([atoms])
        mine = batch.batch == place
        single.energy = batch.energy[place : place + 1]
        single.forces, single.fixed = batch.forces[mine], batch.fixed[mine]
        if mixed[keys.DENS_STRUCTURES][place]:
            single = prepared(task, single, places=torch.tensor([place]))
            parts.append(gradient(task, force_field, single, counts))
        else:
            parts.append(gradient(task.task, force_field, single, counts))
    whole = gradient(task, force_field, mixed)
    assert all(part.norm() > 0 for part in parts)
    torch.testing.assert_close(whole, torch.stack(parts).sum(0), rtol=1e-9, atol=1e-10)


def test_every_output_has_a_gradient_in_every_step(batch, model):
    task, force_field = wrapped(dens(prob=1e-9), model)
    standard = prepared(task, batch)
    outputs = [x.detach().requires_grad_() for x in force_field(standard)]
    loss_of(task, Prediction(*outputs), standard).backward()
    assert all(output.grad is not None for output in outputs)
    assert (outputs[2].grad == 0).all()


def test_the_loss_of_a_rotated_batch_is_the_same(batch, model):
    """Corrupted first and turned then, with the forces that are encoded and the noise."""
    task, force_field = wrapped(dens(graph="keep"), model)
    corrupted = prepared(task, batch)
    rotate = RotateSO3()
    turned = rotate(corrupted, StepRandom.alone(0, 8))
    by_atom = StepRandom.alone(0, 8).rows(rotate.draw).to(batch.pos)[batch.batch]
    for name in (keys.DENS_FORCES, keys.DENS_NOISE):
        turned[name] = torch.einsum("nij,nj->ni", by_atom, corrupted[name])
    before, after = (loss_of(task, force_field(b), b) for b in (corrupted, turned))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=0)


def test_inference_needs_no_forces_and_is_in_the_units_of_the_labels(batch, model):
    task, force_field = wrapped(dens(), model, normalizer=Normalizer(-0.5, 2.0, 4.0))
    bare = batch.clone()
    del bare.forces, bare.energy
    with torch.no_grad():
        prediction, raw = force_field(bare), model(bare)
    torch.testing.assert_close(prediction.energy, 2.0 * raw.energy - 0.5)
    torch.testing.assert_close(prediction.forces, 4.0 * raw.forces)
    names = {name: mean.value() for name, mean in task.metrics(prediction, batch).items()}
    plain = task.task.metrics(prediction, batch)
    assert names == {name: mean.value() for name, mean in plain.items()}


# Refusals


def test_what_cannot_denoise_is_refused(model):
    class NoNoise(Toy):
        supports_dens = False
        supports_sigma = False

    class NoEnergy(Toy):
        predicts_energy = False

    with pytest.raises(ValueError, match="NoNoise cannot encode forces; choose dens=none"):
        wrapped(dens(), NoNoise())
    NoNoise.supports_dens = True
    with pytest.raises(ValueError, match="dens.sigma_encoding=false"):
        wrapped(dens(sigma_encoding=True), NoNoise())
    with pytest.raises(ValueError, match="NoEnergy predicts none"):
        wrapped(dens(), NoEnergy())
    with pytest.raises(ValueError, match="choose task=s2ef or dens=none"):
        dens().around(S2F())


def test_a_model_that_forgets_the_noise_is_told(batch):
    class Forgets(ForceField):
        supports_dens, cutoff, max_neighbors = True, 4.0, None

        def forward(self, batch):
            return Prediction(batch.energy, batch.forces)

    task, force_field = wrapped(dens(), Forgets())
    corrupted = prepared(task, batch)
    with pytest.raises(ValueError, match="this one predicts none"):
        task.totals(force_field(corrupted), corrupted)
