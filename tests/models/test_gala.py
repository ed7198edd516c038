from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from atomsweep.build import UserError, build
from atomsweep.graph.clouds import adsorbate_clouds
from atomsweep.models import gala
from atomsweep.nn.geometric_algebra import SMOOTH
from atomsweep.nn.running_norm import DECAY, RunningNorm
from tests.contracts.compose import build_model, compose, num_parameters
from tests.contracts.graphs import make_batch, random_atoms, turned
from tests.contracts.model_contract import ROTATION, ModelContract, Symmetry, assert_close
from tests.nn.test_geometric_algebra import BASIS

SMALL = ["model=gala", "model.hidden_channels=8", "model.num_layers=1"]


class TestGala(ModelContract):
    overrides = SMALL
    rotation = Symmetry.EXACT
    conservative = True
    extensive = False  # a cloud has each atom once
    local = False


@cache
def config(*overrides):
    return compose([*SMALL, *overrides]).model


def made(*overrides):
    torch.manual_seed(0)
    model = instantiate(config(*overrides)).double()
    model.train()
    model(slabs())
    return model.eval()


def slabs(turn=None, **changes):
    """A slab with an adsorbate of two atoms and one of one atom, so that places stay empty."""
    structures = [replace(random_atoms(seed), **changes) for seed in (1, 2)]
    if turn is not None:
        structures = [turned(atoms, turn) for atoms in structures]
    batch = make_batch(structures, None)
    batch.tags = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1, 0, 1, 0, 0, 2])
    return batch


OTHERS = [
    [],
    ["model.equivariant=separate", "model.merge=mean", "model.equivariant_products=single"],
    ["model.equivariant=none", "model.join=mean", "model.invariant_products=partial"],
    ["model.normalised_products=false", "model.residual=false", "model.sample_size=6"],
    [f"model.{part}_norm=none" for part in ("invariant", "equivariant", "value", "score", "block")],
]


@pytest.mark.parametrize("overrides", OTHERS)
def test_every_choice_turns_with_its_structure_and_batches(overrides):
    model, batch = made(*overrides), slabs()
    prediction, turned_one = model(batch), model(slabs(turn=ROTATION))
    assert_close(turned_one.energy, prediction.energy)
    assert_close(turned_one.forces, prediction.forces @ torch.tensor(ROTATION).T)
    for number in range(2):
        single = make_batch([random_atoms(number + 1)], None)
        single.tags = batch.tags[batch.batch == number]
        alone = model(single)
        assert_close(alone.energy, prediction.energy[[number]])
        assert_close(alone.forces, prediction.forces[batch.batch == number])


@pytest.mark.parametrize(("equivariant", "kept"), [("tied", False), ("none", True)])
def test_a_reflection_is_seen_through_the_trivector_alone(equivariant, kept):
    model = made(f"model.equivariant={equivariant}")
    mirror = np.diag([1.0, 1.0, -1.0])
    change = (model(slabs(turn=mirror)).energy - model(slabs()).energy).abs().max()
    assert bool(change < 1e-9) == kept


def test_a_slab_that_is_shifted_and_wrapped_is_the_same():
    model, batch = made(), slabs()
    moved = slabs()
    inverse = torch.linalg.inv(moved.cell)[moved.batch]
    place = torch.einsum("ni,nij->nj", moved.pos + torch.tensor([1.9, 3.1, 0.4]), inverse)
    place[:, :2] %= 1.0
    moved.pos = torch.einsum("ni,nij->nj", place, moved.cell[moved.batch])
    before, after = model(batch), model(moved)
    assert_close(after.energy, before.energy)
    assert_close(after.forces, before.forces)


def test_empty_places_contribute_nothing():
    """To energy, gradients or statistics, whatever stands there."""
    model, batch = made(), slabs()
    model.train()
    clouds = adsorbate_clouds(batch, 80, 0)
    wider = clouds._replace(
        member=torch.cat([clouds.member, clouds.centre[:, None].expand(-1, 3)], 1),
        mask=torch.cat([clouds.mask, torch.zeros(3, 3, dtype=torch.bool)], 1),
        offsets=torch.cat([clouds.offsets, torch.zeros(3, 3, 3).double()], 1),
    )
    results = []
    for some in (clouds, wider):
        model.load_state_dict(made().state_dict())
        energy = model.energy(batch, some, some.displacements(batch))
        gradients = torch.autograd.grad(energy.sum(), list(model.parameters()))
        results.append([energy, *gradients, *model.buffers()])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_clouds_in_pieces_give_the_same(monkeypatch):
    model, batch = made(), slabs()
    whole = model(batch)
    monkeypatch.setattr(gala, "CHUNK", 1)
    pieces = model(batch)
    assert_close(pieces.forces, whole.forces)
    assert_close(
        torch.autograd.grad(pieces.forces.square().sum(), model.up_project.weight)[0],
        torch.autograd.grad(whole.forces.square().sum(), model.up_project.weight)[0],
    )


# One block, by loops over pairs, with matrices in place of multivectors


def length(x):
    return (x @ x + SMOOTH**2) ** 0.5


def parts(matrix):
    """The eight components of a 2 x 2 matrix: traces with the basis, which is unitary."""
    return np.einsum("aij,ij->a", BASIS.conj(), matrix).real / 2


def perceptron(net, x):
    *first, last = net
    x = first[0].weight.numpy() @ x + first[0].bias.numpy()
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return last.weight.numpy() @ (x / (1 + np.exp(-x))) + last.bias.numpy()


def slow_pair(attention, r_j, r_k, v_j, v_k):
    """v_jk, its score, and its multivector."""
    matrices = [np.einsum("a,aij->ij", r, BASIS) for r in (r_j, r_k)]
    products = [parts(matrices[0] @ matrices[1]), r_j, r_k]
    read = [[p[0], length(p[1:4]) - SMOOTH, length(p[4:7]) - SMOOTH, p[7]] for p in products]
    read += [np.array(q) / length(p) for q, p in zip(read, products, strict=True)]
    q = (np.concatenate(read) - attention.norm.mean.numpy()) / attention.norm.scale.numpy()
    merge, join = (
        [k.numpy().T for k in part.kernels] for part in (attention.merge, attention.join)
    )
    value = join[0] @ perceptron(attention.value_net, q)
    value = value + join[1] @ (merge[0] @ v_j + merge[1] @ v_k)
    score = perceptron(attention.score_net, value)[0]
    if attention.gives == "values":
        return value, score, None
    products += [p / length(p) for p in products]
    made = sum(a * p for a, p in zip(attention.weights.numpy(), products, strict=True))
    return value, score, perceptron(attention.scale_net, value)[0] * made


@pytest.mark.parametrize("number", [0, 1])
def test_a_block_is_what_loops_over_pairs_give(number):
    """Block 0 gives v' and r', block 1 reduces its cloud."""
    model = made()
    attention = model.blocks[number][0].requires_grad_(False)
    attention.norm.scale.clamp_(min=0.5)
    generator = torch.Generator().manual_seed(2)
    r, v = (torch.randn(1, 4, 8, dtype=torch.double, generator=generator) for _ in range(2))
    mask = torch.tensor([[True, True, False, True]])
    turned, new = attention(r, v, mask)
    there = [0, 1, 3]
    table = {
        (j, k): slow_pair(attention, *r[0, [j, k]].numpy(), *v[0, [j, k]].numpy())
        for j in there
        for k in there
    }
    groups = [list(table)] if attention.reduce else [[(j, k) for k in there] for j in there]
    for place, group in enumerate(groups):
        weight = np.exp([table[pair][1] for pair in group])
        weight /= weight.sum()
        found = new[0] if attention.reduce else new[0, there[place]]
        expected = sum(w * table[pair][0] for w, pair in zip(weight, group, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        if not attention.reduce:
            expected = sum(w * table[pair][2] for w, pair in zip(weight, group, strict=True))
            np.testing.assert_allclose(turned[0, there[place]], expected, rtol=1e-6, atol=1e-9)


# Counts


def test_counts_are_the_public_ones_but_for_what_nothing_reads():
    """The example with 100 elements, with 200 inputs for them, and the configuration of 2024."""
    for hidden, layers, inputs, public in [
        (128, 5, 100, 1_951_158),
        (128, 5, 200, 1_976_758),
        (64, 2, 100, 273_179),
    ]:
        with torch.device("meta"):
            model = build_model(
                ["model=gala", f"model.hidden_channels={hidden}", f"model.num_layers={layers}"]
            )
        attention = model.blocks[0][0]
        twice = count(attention.value_net) + count(attention.score_net)  # built, read by nothing
        unread = (layers + 1) * twice + count(attention.scale_net) + attention.weights.numel()
        assert count(model) + unread + 2 * (inputs - 100) * hidden == public


def test_published_size():
    assert num_parameters("model=gala") == 1_482_409


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_running_statistics_are_means_over_batches_and_stand_still_in_evaluation():
    norm = RunningNorm(3).double()
    rows = torch.randn(300, 5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    weight = (torch.arange(5) < 4).double()[:, None]
    for batch in rows[:60]:
        norm.update(batch, weight)
    torch.testing.assert_close(norm.mean, rows[:60, :4].mean((0, 1)))
    expected = rows[:60, :4].std(1, correction=0).mean(0)
    torch.testing.assert_close(norm.scale, expected)
    for batch in rows[60:]:
        norm.update(batch, weight)
    before = norm.mean.clone()
    norm.update(torch.zeros(1, 3), torch.ones(1, 1))
    torch.testing.assert_close(norm.mean, DECAY * before)
    norm.eval()
    norm.update(torch.ones(1, 3), torch.ones(1, 1))
    torch.testing.assert_close(norm.mean, DECAY * before)


def test_sizes_that_make_no_network_are_refused():
    for name in ("hidden_channels", "num_layers", "dilation", "sample_size"):
        refused = {**config(), name: 0.0 if name == "dilation" else 0}
        with pytest.raises(UserError, match=rf"model\.{name} must be positive, got 0"):
            build(refused, "model")
