import numpy as np
import pytest
import torch
from torch_geometric.nn import DimeNetPlusPlus as PublicDimeNetPlusPlus
from torch_geometric.nn.models import dimenet

from tests.contracts.compose import build_model, num_parameters
from tests.contracts.graphs import Atoms, make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry
from tests.models.oracles import forces_of, image_vectors, triplets

SIZES = {"hidden_channels": 16, "num_spherical": 3, "num_radial": 2}
SMALL = [
    "model.hidden_channels=16",
    "model.num_spherical=3",
    "model.num_radial=2",
    "model.num_layers=2",
    "model.triplet_channels=8",
    "model.basis_channels=4",
    "model.output_channels=12",
    "model.output_initializer=glorot_orthogonal",  # zeros would hide everything
]


class TestDimeNetPlusPlus(ModelContract):
    overrides = ["model=dimenet_pp", *SMALL, "model.cutoff=4.0"]
    rotation = Symmetry.EXACT
    conservative = True


@pytest.mark.parametrize(
    ("model", "count"), [("dimenet_pp", 1_809_414), ("dimenet_pp_large", 10_716_806)]
)
def test_published_size(model, count):
    assert num_parameters(f"model={model}") == count


@pytest.fixture(scope="module")
def public():
    """torch_geometric's own; its basis is derived symbolically, which takes a second or two."""
    torch.manual_seed(1)
    return PublicDimeNetPlusPlus(
        out_channels=1,
        num_blocks=2,
        int_emb_size=8,
        basis_emb_size=4,
        out_emb_channels=12,
        cutoff=4.0,
        output_initializer="glorot_orthogonal",
        **SIZES,
    ).double()


def with_weights_of(public, *overrides):
    model = build_model(["model=dimenet_pp", *SMALL, "model.cutoff=4.0", *overrides]).double()
    model.load_state_dict(public.state_dict())
    return model


def test_molecule_has_the_energy_and_forces_of_torch_geometric(public, monkeypatch):
    atoms = random_atoms(1, repeats=(3, 2, 1), pbc=(False, False, False))
    batch = make_batch([atoms], 4.0)
    edges = batch.edge_index
    monkeypatch.setattr(dimenet, "radius_graph", lambda *args, **options: edges)

    def listed(edge_index, num_nodes):
        kj, ji = triplets(edge_index, batch.cell_offsets)
        source, target = edge_index
        return target, source, target[ji], source[ji], source[kj], kj, ji

    monkeypatch.setattr(dimenet, "triplets", listed)
    pos = batch.pos.clone().requires_grad_()
    energy = public(batch.atomic_numbers, pos, batch.batch).squeeze(-1)
    prediction = with_weights_of(public)(batch)
    torch.testing.assert_close(prediction.energy, energy, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(prediction.forces, forces_of(energy, pos), rtol=1e-5, atol=1e-6)


def periodic_energy(public, batch, pos, detached=False):
    """Energy with torch_geometric's blocks, over a list of triplets and their angles."""
    source, target = batch.edge_index
    kj, ji = triplets(batch.edge_index, batch.cell_offsets)
    vec = image_vectors(batch, pos)
    dist = vec.norm(dim=-1)
    vec = vec.detach() if detached else vec
    cross = torch.linalg.cross(vec[ji], vec[kj]).norm(dim=-1)
    angle = torch.atan2(cross, (vec[ji] * vec[kj]).sum(-1))
    rbf = public.rbf(dist)
    sbf = public.sbf(dist, angle, kj)
    x = public.emb(batch.atomic_numbers, rbf, target, source)
    atoms = public.output_blocks[0](x, rbf, target, len(pos))
    for block, output in zip(public.interaction_blocks, public.output_blocks[1:], strict=True):
        x = block(x, rbf, sbf, kj, ji)
        atoms = atoms + output(x, rbf, target, len(pos))
    return torch.stack([atoms[batch.batch == b].sum() for b in range(len(batch.cell))])


@pytest.mark.parametrize("max_neighbors", [None, 7])
def test_cells_have_the_energy_and_forces_of_listed_triplets(public, max_neighbors):
    """With a limit on neighbours some edges have no way back."""
    structures = [random_atoms(1), random_atoms(3, repeats=(1, 1, 2), pbc=(True, True, True))]
    batch = make_batch(structures, 4.0, max_neighbors)
    pos = batch.pos.clone().requires_grad_()
    energy = periodic_energy(public, batch, pos)
    prediction = with_weights_of(public)(batch)
    torch.testing.assert_close(prediction.energy, energy, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(prediction.forces, forces_of(energy, pos), rtol=1e-5, atol=1e-6)


def test_gradients_of_a_force_loss_are_those_of_listed_triplets(public):
    batch = make_batch([random_atoms(2, repeats=(2, 1, 2))], 4.0, 9)
    weights = torch.randn(len(batch.pos), 3, dtype=torch.float64)
    pos = batch.pos.clone().requires_grad_()
    energy = periodic_energy(public, batch, pos).sum()
    theirs = -torch.autograd.grad(energy, pos, create_graph=True)[0]
    model = with_weights_of(public)
    ours = model(batch).forces
    wanted = dict(public.named_parameters())
    wanted.pop("output_blocks.2.lin.bias", None)
    slow = torch.autograd.grad((weights * theirs).sum(), list(wanted.values()))
    named = dict(model.named_parameters())
    fast = torch.autograd.grad((weights * ours).sum(), [named[name] for name in wanted])
    for name, one, two in zip(wanted, fast, slow, strict=True):
        scale = two.abs().max().clamp(min=1e-9)
        torch.testing.assert_close(one / scale, two / scale, rtol=0, atol=1e-5, msg=name)


def test_single_precision_keeps_the_digits_of_short_edges(public):
    """j_6 of 1 Å by recursion in single precision would be wrong in the first digit."""
    chain = np.array([[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [1.2, 1.1, 0.2]])
    atoms = Atoms(chain, np.array([1, 6, 8]), np.eye(3), (False,) * 3)
    torch.manual_seed(0)
    model = build_model(["model=dimenet_pp", "model.output_initializer=glorot_orthogonal"])
    rough = model(make_batch([atoms], 6.0, dtype=torch.float32)).forces
    exact = model.double()(make_batch([atoms], 6.0)).forces
    assert (rough - exact).abs().max() < 1e-4 * exact.abs().max()


def test_with_detached_angles_the_energy_is_the_same_and_forces_lack_that_part(public):
    """As in the Open Catalyst code, whose angles are of detached positions."""
    batch = make_batch([random_atoms(2, repeats=(2, 1, 2))], 4.0)
    whole, detached = with_weights_of(public), with_weights_of(public, "model.detached_angles=true")
    assert torch.equal(whole(batch).energy, detached(batch).energy)
    pos = batch.pos.clone().requires_grad_()
    energy = periodic_energy(public, batch, pos, detached=True)
    torch.testing.assert_close(detached(batch).forces, forces_of(energy, pos), rtol=1e-5, atol=1e-6)
    assert (whole(batch).forces - detached(batch).forces).abs().max() > 1e-4


def test_the_bias_of_the_open_catalyst_code_is_768_parameters():
    assert num_parameters("model=dimenet_pp", "model.lin_up_bias=true") == 1_809_414 + 768
    small = build_model(["model=dimenet_pp", *SMALL, "model.lin_up_bias=true"])
    bias = small.output_blocks[0].lin_up.bias
    assert 0 < bias.abs().max() <= 16**-0.5
