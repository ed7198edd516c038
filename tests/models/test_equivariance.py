"""Networks on spherical harmonics: rotations, what they do for DeNS, derivatives."""

import numpy as np
import pytest
import torch

from tests.contracts.compose import build_model
from tests.contracts.graphs import Atoms, make_batch, random_atoms, turned
from tests.contracts.model_contract import ROTATION
from tests.models.test_equiformer import TINY as EQUIFORMER
from tests.models.test_equiformer_v2 import TINY as EQUIFORMER_V2
from tests.models.test_escn import TINY as ESCN

STRUCTURES = [random_atoms(1), random_atoms(2, repeats=(1, 2, 3))]
EXACT = {
    "gates": [*EQUIFORMER_V2, "model.activation=gate"],
    "gates, l=6, m=2": [
        *EQUIFORMER_V2, "model.activation=gate", "model.l_max=6", "model.m_max=2"
    ],
    "rms": [*EQUIFORMER_V2, "model.activation=gate", "model.norm=rms"],
    "equiformer": EQUIFORMER,
}  # fmt: skip
GRID = {"v2": EQUIFORMER_V2, "escn": ESCN}


def made(overrides, dtype=torch.float64):
    torch.manual_seed(0)
    return build_model([*overrides, "model.dens=true"]).to(dtype).eval()


def batch_of(model, structures, dtype=torch.float64, turn=None):
    """With forces to encode on every second atom."""
    batch = make_batch(structures, model.cutoff, None, dtype=dtype)
    forces = torch.randn(batch.pos.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    batch.dens_forces = forces if turn is None else forces @ turn.T
    batch.dens_mask = torch.arange(len(forces)) % 2 == 0
    return batch


def differences(model, dtype):
    """Largest changes of energies, forces and noise under a rotation, over their largest value."""
    turn = torch.tensor(ROTATION, dtype=dtype)
    before = model(batch_of(model, STRUCTURES, dtype))
    after = model(batch_of(model, [turned(a, ROTATION) for a in STRUCTURES], dtype, turn))
    wanted = (before.energy, before.forces @ turn.T, before.noise @ turn.T)
    return [
        ((found - expected).abs().max() / expected.abs().max()).item()
        for found, expected in zip(after, wanted, strict=True)
    ]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_energies_forces_and_noise_turn_with_the_structure(name, dtype, tolerance):
    assert max(differences(made(EXACT[name], dtype), dtype)) < tolerance


def test_error_of_the_grid_falls_with_its_resolution():
    errors = [
        max(differences(made([*EQUIFORMER_V2, f"model.grid_resolution={n}"]), torch.float64))
        for n in (8, 12, 24)
    ]
    assert 1e-9 < errors[0] < 1e-2
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 1e-3 * errors[0]


@pytest.mark.parametrize("overrides", [*EXACT.values(), *GRID.values()])
def test_only_masked_forces_are_encoded_and_none_is_like_zero(overrides):
    model = made(overrides)
    batch = batch_of(model, STRUCTURES)
    with_forces = model(batch)
    batch.dens_forces[~batch.dens_mask] = 7.0
    assert torch.equal(model(batch).energy, with_forces.energy)
    batch.dens_forces = torch.zeros_like(batch.dens_forces)
    nothing = model(batch)
    assert (nothing.energy - with_forces.energy).abs().min() > 1e-12
    del batch.dens_forces, batch.dens_mask
    plain = model(batch)
    assert torch.equal(plain.energy, nothing.energy)
    assert plain.noise.shape == batch.pos.shape


@pytest.mark.parametrize("overrides", [EQUIFORMER_V2, ESCN, EQUIFORMER])
def test_without_dens_there_is_no_noise_and_no_support(overrides):
    model = build_model(overrides).double().eval()
    assert not model.supports_dens
    assert model(make_batch(STRUCTURES, model.cutoff)).noise is None
    assert made(overrides).supports_dens


@pytest.mark.parametrize("overrides", [EQUIFORMER_V2, ESCN])
def test_scale_of_the_noise_is_encoded_if_asked(overrides):
    torch.manual_seed(0)
    model = build_model([*overrides, "model.dens=true", "model.sigma_encoding=true"]).eval()
    assert model.supports_sigma
    batch = make_batch(STRUCTURES, model.cutoff, dtype=torch.float32)
    plain = model(batch).energy
    batch.dens_sigma = torch.zeros(len(batch.pos))
    assert torch.equal(model(batch).energy, plain)
    batch.dens_sigma += 0.5
    assert not torch.equal(model(batch).energy, plain)
    with pytest.raises(Exception, match="sigma_encoding belongs to dens"):
        build_model([*overrides, "model.sigma_encoding=true"])


def along_y(offset):
    """Atoms with edges along +y and -y, or `offset` beside."""
    pos = np.array([[0, 0, 0], [offset, 2.1, 0], [0, -1.9, offset], [1.5, 0.3, 0.9]])
    return Atoms(pos, np.array([29, 8, 1, 46]), 40 * np.eye(3), (False,) * 3)


@pytest.mark.parametrize("offset", [0.0, 1e-6])
@pytest.mark.parametrize(
    "overrides", [EXACT["gates, l=6, m=2"], EQUIFORMER_V2, EQUIFORMER], ids=["gate", "grid", "v1"]
)
def test_gradient_of_the_energy_is_right_with_edges_along_y(overrides, offset):
    model = made([*overrides, "model.num_layers=1"])
    batch = make_batch([along_y(offset)], model.cutoff)

    def energy(pos):
        moved = batch.clone()
        moved.pos = pos
        return model(moved).energy.sum()

    pos = batch.pos.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(pos), pos, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), pos)
    assert torch.isfinite(second).all()
    step = 1e-5
    for atom, axis in [(0, 1), (1, 0), (2, 2)]:
        shift = torch.zeros_like(pos)
        shift[atom, axis] = step
        with torch.no_grad():
            expected = (energy(pos + shift) - energy(pos - shift)) / (2 * step)
        assert (slope[atom, axis] - expected).abs() < 1e-5 * slope.abs().max()


@pytest.mark.parametrize("overrides", [EXACT["gates"], ESCN])
def test_edges_along_y_turn_like_others_in_single_precision(overrides):
    model = made(overrides, torch.float32)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # y to z
    at_pole = make_batch([along_y(0.0)], model.cutoff, dtype=torch.float32)
    beside = make_batch([turned(along_y(0.0), quarter)], model.cutoff, dtype=torch.float32)
    torch.testing.assert_close(model(at_pole).energy, model(beside).energy, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("overrides", [EQUIFORMER_V2, EXACT["gates"], ESCN])
def test_gradients_in_bfloat16_point_where_those_in_single_precision_do(overrides):
    model = made(overrides, torch.float32)
    batch = batch_of(model, STRUCTURES, torch.float32)

    def gradient():
        model.zero_grad()
        prediction = model(batch)
        loss = prediction.energy.sum()
        if overrides is not ESCN:  # whose first forces are what is left of values that cancel
            loss = prediction.forces.square().sum() + prediction.noise.square().sum()
        loss.backward()
        return model.embedding.weight.grad.flatten()

    exact = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradient()
    assert torch.cosine_similarity(exact, rough, dim=0) > 0.95


@pytest.mark.long
@pytest.mark.parametrize("overrides", [EQUIFORMER_V2, ESCN], ids=["v2", "escn"])
def test_forward_and_backward_compile_into_one_graph_each(overrides):
    """With DeNS: as many edges are listed as atoms were moved, another number in every step."""
    model = made([*overrides, "model.num_layers=1"], torch.float32)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for structures in (STRUCTURES[:1], STRUCTURES):  # two sizes, one graph
        batch = batch_of(model, structures, torch.float32)
        into_moved = batch.dens_mask[batch.edge_index[1]]
        batch.dens_moved_edges = into_moved.nonzero().squeeze(1)
        batch.dens_left_edges = (~into_moved).nonzero().squeeze(1)
        results = []
        for network in (model, compiled):
            model.zero_grad()
            energy, forces, noise = network(batch)
            (energy.sum() + forces.square().sum() + noise.square().sum()).backward()
            results.append((forces, noise, model.embedding.weight.grad.clone()))
        for eager, fused in zip(*results, strict=True):
            torch.testing.assert_close(fused, eager, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("overrides", [EQUIFORMER_V2, EQUIFORMER], ids=["v2", "v1"])
@pytest.mark.parametrize("some", [True, False], ids=["some", "none"])
def test_what_no_loss_reads_is_left_out_and_the_rest_is_the_same(overrides, some):
    model = made([*overrides, "model.num_layers=1"])
    batch = batch_of(model, STRUCTURES[:1])
    moved = (torch.arange(len(batch.pos)) % 3 == 0) & some
    into_moved = moved[batch.edge_index[1]]

    def results():
        model.zero_grad()
        noise, forces = (getattr(model(batch), name) for name in ("noise", "forces"))
        (noise[moved].square().sum() + forces[~moved].square().sum()).backward()
        return noise[moved], forces[~moved], [p.grad for p in model.parameters()], noise[~moved]

    *expected, rest = results()
    assert rest.abs().min() > 0
    batch.dens_moved_edges = into_moved.nonzero().squeeze(1)
    batch.dens_left_edges = (~into_moved).nonzero().squeeze(1)
    *found, rest = results()
    assert not rest.any()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
