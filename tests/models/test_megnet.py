"""MegNet: the contract, its sizes, its equations by loops, and what it knows of a structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atomsweep.build import UserError, build
from atomsweep.graph.edges import edge_vectors
from atomsweep.models.megnet import edge_features, graph_variables
from tests.contracts.compose import build_model, model_config, num_parameters
from tests.contracts.graphs import Atoms, make_batch, random_atoms, turned
from tests.contracts.model_contract import ModelContract, Symmetry, assert_close
from tests.models.oracles import image_vectors
from tests.models.slabs import NUM_ADSORBED, slab, wrapped

TINY = [
    "model=megnet_986k",
    "model.num_layers=2",
    "model.encoder_channels=[12,8]",
    "model.block_channels=[10,8]",
    "model.output_channels=[6,5]",
    "model.set2set_layers=2",
    "model.set2set_steps=3",
]


class TestMegNet(ModelContract):
    overrides = TINY
    rotation = Symmetry.EXACT
    conservative = True
    smooth_cutoff = False  # its messages have no cutoff weight
    extensive = False  # means and softmaxes: two copies have the energy of one
    local = False

    def batch_for(self, model, structures, **options):
        """Light elements are the adsorbate."""
        batch = super().batch_for(model, structures, **options)
        batch.tags = torch.where(batch.atomic_numbers < 10, 2, 0)
        return batch


class TestMegNetWithoutAdsorbate(TestMegNet):
    batch_for = ModelContract.batch_for


@pytest.mark.long
class TestMegNet986k(TestMegNet):
    overrides = ["model=megnet_986k"]


@pytest.mark.long
class TestMegNet1M2(TestMegNet):
    overrides = ["model=megnet_1_2m"]


def made(overrides=TINY):
    torch.manual_seed(0)
    return build_model(overrides).double().eval()


def tagged(atoms, num_adsorbed, cutoff=4.0):
    """A batch of one structure whose last atoms are the adsorbate."""
    batch = make_batch([atoms], cutoff)
    batch.tags[len(atoms.pos) - num_adsorbed :] = 2
    return batch


def variables(batch):
    edge_vec = edge_vectors(batch)
    return graph_variables(batch, edge_vec, edge_features(batch, edge_vec))


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["model=megnet_986k"], 985_697),
        (["model=megnet_1_2m"], 1_251_937),
        (["model=megnet_1_2m", "model.set2set_layers=4"], 1_185_377),
    ],
)
def test_size_is_that_of_the_preset(overrides, count):
    assert num_parameters(*overrides) == count


@pytest.mark.parametrize("num_adsorbed", [0, 2])
def test_energy_is_that_of_loops_over_atoms_and_edges(num_adsorbed):
    model = made()
    for atoms in (random_atoms(1), random_atoms(2, repeats=(1, 1, 2))):
        batch = tagged(atoms, num_adsorbed)
        expected = energy_by_loops(model, batch)
        assert abs(model(batch).energy.item() - expected) < 1e-9 * abs(expected)


def test_dropout_drops_in_training_only():
    model = made([*TINY, "model.dropout=0.4"])
    batch = tagged(slab(), NUM_ADSORBED)
    assert torch.equal(model(batch).energy, made()(batch).energy)
    model.train()
    assert not torch.equal(model(batch).energy, model(batch).energy)


# What is known of a structure


def test_graph_variables_of_a_molecule_are_those_of_plain_statistics():
    """Where every pair is an edge: the last is the distance of the weighted centres."""
    atoms = replace(random_atoms(3), pbc=(False,) * 3)
    batch = tagged(atoms, 3, cutoff=100.0)
    z, pos = atoms.atomic_numbers.astype(float), atoms.pos
    expected = []
    for part in (slice(-3, None), slice(0, -3)):
        expected += [z[part].mean(), z[part].std()]
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
    dist = np.array([np.linalg.norm(pos[i] - pos[j]) for i, j in pairs])
    mass = np.array([z[i] * z[j] / (z[i] + z[j]) for i, j in pairs])
    centres = [np.average(pos[part], axis=0, weights=z[part]) for part in (np.s_[-3:], np.s_[:-3])]
    expected += [dist.mean(), mass.mean(), dist.std(), mass.std()]
    expected += [np.linalg.norm(centres[0] - centres[1])]
    np.testing.assert_allclose(variables(batch)[0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("num_adsorbed", [0, 1, 14])
def test_graph_variables_of_what_is_not_there_are_zero(num_adsorbed):
    found = variables(tagged(slab(), num_adsorbed))[0]
    adsorbate, rest, apart = found[:2], found[2:4], found[8]
    assert (adsorbate == 0).all() == (num_adsorbed == 0)
    assert (adsorbate[1] == 0) == (num_adsorbed <= 1)
    assert (rest == 0).all() == (num_adsorbed == 14)
    assert (apart == 0) == (num_adsorbed != 1)


@pytest.mark.parametrize("atoms", [1, 2, 3], ids=["atom", "dimer", "triangle"])
def test_structures_whose_distances_are_all_alike_have_finite_derivatives(atoms):
    """One atom has no edges; of the others the deviation of the distance is 0."""
    pos = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.75, 0.75 * 3**0.5, 0.0]])[:atoms]
    numbers = np.array([8, 8, 8])[:atoms]
    model, batch = made(), make_batch([Atoms(pos, numbers, 40 * np.eye(3), (False,) * 3)], 4.0)
    del batch.tags  # as data may have none
    prediction = model(batch)
    assert torch.isfinite(prediction.energy).all()
    assert (variables(batch)[0, [1, 3, 7]] == 0).all() or atoms == 3
    assert (prediction.forces.abs().max() > 0) == (atoms > 1)
    loss = prediction.energy.sum() + (prediction.forces - 1.0).square().sum()
    loss.backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_data_without_tags_are_as_those_without_an_adsorbate():
    model, batch = made(), tagged(slab(), 0)
    before = model(batch)
    del batch.tags
    assert torch.equal(model(batch).energy, before.energy)
    assert torch.equal(model(batch).forces, before.forces)


def test_a_slab_shifted_across_the_cell_and_wrapped_is_the_same():
    model, atoms = made(), slab()
    before = tagged(atoms, NUM_ADSORBED)
    after = tagged(wrapped(atoms, [2.9, 1.7, 8.0]), NUM_ADSORBED)
    assert not torch.equal(before.cell_offsets, after.cell_offsets)
    assert_close(variables(after), variables(before))
    assert_close(model(after).energy, model(before).energy)
    assert_close(model(after).forces, model(before).forces)


def test_a_mirror_image_has_the_same_energy_and_mirrored_forces():
    model, mirror = made(), np.diag([1.0, -1.0, 1.0])
    before = model(tagged(slab(), NUM_ADSORBED))
    after = model(tagged(turned(slab(), mirror), NUM_ADSORBED))
    assert_close(after.energy, before.energy)
    assert_close(after.forces, before.forces @ torch.tensor(mirror))


def test_forces_know_that_the_centres_are_apart():
    """Forces of the ninth variable alone, which no perceptron on edges can make up for."""
    batch = tagged(slab(), NUM_ADSORBED)

    def apart(pos):
        moved = batch.clone()
        moved.pos = pos
        return variables(moved)[0, 8]

    pos = batch.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(apart, pos, eps=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(apart, pos, eps=1e-5, atol=1e-6, fast_mode=True)
    (slope,) = torch.autograd.grad(apart(pos), pos)
    assert slope[-NUM_ADSORBED:].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("num_layers=0", "model.num_layers must be positive"),
        ("cutoff=-1.0", "model.cutoff must be positive"),
        ("max_neighbors=0", "model.max_neighbors must be positive"),
        ("set2set_layers=0", "model.set2set_layers must be positive"),
        ("set2set_steps=-1", "model.set2set_steps must be positive"),
        ("output_channels=[]", "model.output_channels must be positive"),
        ("block_channels=[0,64]", "model.block_channels must be positive"),
        ("block_channels=[64,32]", "must end alike, because blocks have skips, got 64 and 32"),
        ("dropout=1.0", "model.dropout must be at least 0 and below 1, got 1"),
    ],
)
def test_what_makes_no_network_is_refused_by_name(override, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        build(model_config(["model=megnet_986k", f"model.{override}"]), "model")
    assert "\n" not in str(error.value)


# The network by loops


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


class Loops:
    """Perceptrons and Set2Set of a model's weights, on one row after the other."""

    def __init__(self, model):
        self.weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
        self.model = model

    def dense(self, name, x, act_last=True):
        """Linear layers `name`.*, softplus between them."""
        stem = name + "."
        found = {k[len(stem) :].split(".")[0] for k in self.weights if k.startswith(stem)}
        layers = sorted(int(layer) for layer in found)
        for layer in layers:
            x = self.weights[f"{stem}{layer}.weight"] @ x + self.weights[f"{stem}{layer}.bias"]
            if act_last or layer != layers[-1]:
                x = softplus(x)
        return x

    def summary(self, name, rows):
        part = getattr(self.model, name)
        size = part.channels
        hidden = [np.zeros(size) for _ in part.cells]
        memory = [np.zeros(size) for _ in part.cells]
        q_star = np.zeros(2 * size)
        for _ in range(part.num_steps):
            x = q_star
            for n in range(len(part.cells)):
                w = {k: self.weights[f"{name}.cells.{n}.{k}"] for k in LSTM_WEIGHTS}
                gates = w["input_linear.weight"] @ x + w["input_linear.bias"]
                gates = gates + w["hidden_linear.weight"] @ hidden[n] + w["hidden_linear.bias"]
                i, f, g, o = np.split(gates, 4)
                memory[n] = sigmoid(f) * memory[n] + sigmoid(i) * np.tanh(g)
                x = hidden[n] = sigmoid(o) * np.tanh(memory[n])
            scores = np.array([np.exp(row @ x) for row in rows])
            read = sum(score * row for score, row in zip(scores / scores.sum(), rows, strict=True))
            q_star = np.concatenate([x, read])
        return q_star


LSTM_WEIGHTS = [
    f"{part}_linear.{kind}" for part in ("input", "hidden") for kind in ("weight", "bias")
]


def variables_by_loops(batch):
    numbers, tags = batch.atomic_numbers.tolist(), batch.tags.tolist()
    found = []
    for part in (True, False):
        z = np.array([n for n, tag in zip(numbers, tags, strict=True) if (tag == 2) is part])
        found += [z.mean(), z.std()] if len(z) else [0.0, 0.0]
    dist, mass, apart, total = [], [], np.zeros(3), 0.0
    vectors = image_vectors(batch, batch.pos).numpy()
    for (s, t), vec in zip(batch.edge_index.T.tolist(), vectors, strict=True):
        dist.append(np.linalg.norm(vec))
        mass.append(numbers[s] * numbers[t] / (numbers[s] + numbers[t]))
        if (tags[s] == 2) != (tags[t] == 2):
            weight = numbers[s] * numbers[t]
            apart += (weight if tags[t] == 2 else -weight) * vec
            total += weight
    length = np.linalg.norm(apart / total) if total else 0.0
    found += [np.mean(dist), np.mean(mass), rounded(np.std(dist)), np.std(mass), rounded(length)]
    return np.array(found)


def rounded(x):
    return x**2 / np.sqrt(x**2 + 0.01**2)


def energy_by_loops(model, batch):
    """Of one structure."""
    net = Loops(model)
    numbers, pairs = batch.atomic_numbers.tolist(), batch.edge_index.T.tolist()
    features = []
    for (s, t), vec in zip(pairs, image_vectors(batch, batch.pos).numpy(), strict=True):
        mass = numbers[s] * numbers[t] / (numbers[s] + numbers[t])
        features.append(np.array([np.linalg.norm(vec), mass]))
    e = [net.dense("edge_encoder", feature) for feature in features]
    table = net.weights["embedding.weight"]
    v = [net.dense("node_encoder", table[number]) for number in numbers]
    u = net.dense("graph_encoder", variables_by_loops(batch))
    for block in range(len(model.blocks)):
        stem, before = f"blocks.{block}", (e, v, u)
        if block:
            e = [net.dense(f"{stem}.fronts.0", row) for row in e]
            v = [net.dense(f"{stem}.fronts.1", row) for row in v]
            u = net.dense(f"{stem}.fronts.2", u)
        weight, bias = (net.weights[f"{stem}.pair_linear.{kind}"] for kind in ("weight", "bias"))
        new_e = []
        for (s, t), row in zip(pairs, e, strict=True):
            first = softplus(weight @ np.concatenate([row, u, v[s], v[t]]) + bias)
            new_e.append(net.dense(f"{stem}.edge_mlp", first))
        new_v = []
        for atom, row in enumerate(v):
            into = [new_e[k] for k, (_, t) in enumerate(pairs) if t == atom]
            parts = [row, np.mean(into, axis=0), u]
            new_v.append(net.dense(f"{stem}.node_mlp", np.concatenate(parts)))
        means = [np.mean(new_e, axis=0), np.mean(new_v, axis=0)]
        new_u = net.dense(f"{stem}.graph_mlp", np.concatenate([u, *means]))
        e = [old + new for old, new in zip(before[0], new_e, strict=True)]
        v = [old + new for old, new in zip(before[1], new_v, strict=True)]
        u = before[2] + new_u
    summaries = [net.summary("node_summary", v), net.summary("edge_summary", e), u]
    return net.dense("output", np.concatenate(summaries), act_last=False).item()
