import pytest
import torch
from torch.nn import functional as F

from atomsweep.build import UserError
from tests.contracts.compose import build_model
from tests.contracts.graphs import make_batch, random_atoms
from tests.contracts.model_contract import ModelContract, Symmetry

SMALL = ["model.hidden_channels=16", "model.num_layers=2", "model.decoder_channels=16"]
BASES = ["sph", "sine", "gauss", "linact", "identity", "none"]
ABLATIONS = [
    "only_dist",
    "no_atomic_radii",
    "no_node_emb",
    "only_filter",
    "edge_linear_bn",
    "node_linear_bn",
    "no_self_message",
]


class TestForceNet(ModelContract):
    overrides = ["model=forcenet", *SMALL]
    rotation = Symmetry.LEARNED


class TestForceNetWithEnergyHead(ModelContract):
    overrides = ["model=forcenet", *SMALL, "model.energy_head=true"]
    rotation = Symmetry.LEARNED
    extensive = False  # the head's bias is added once for each structure


class TestForceNetThatDenoises(ModelContract):
    overrides = [*TestForceNetWithEnergyHead.overrides, "model.force_encoding=edge_projection"]
    rotation = Symmetry.LEARNED
    extensive = False

    def test_forces_are_read_only_where_the_batch_has_them(self, model, batch):
        plain = model(batch)
        batch.dens_forces = torch.zeros_like(batch.pos)
        assert torch.equal(model(batch).noise, plain.noise)
        batch.dens_forces[0, 0] = 1.0
        assert not torch.equal(model(batch).noise, plain.noise)


class TestForceNetOnGaussiansWithReLU(ModelContract):
    overrides = ["model=forcenet", *SMALL, "basis=gauss", "act=relu"]
    rotation = Symmetry.LEARNED


def concatenated(model, batch):
    """Forces by the equations of the paper: every edge's input to F_e is made and multiplied."""
    source, target = batch.edge_index
    shift = torch.stack(
        [
            offset.to(batch.pos.dtype) @ batch.cell[batch.batch[atom]]
            for offset, atom in zip(batch.cell_offsets, target, strict=True)
        ]
    )
    vec = batch.pos[source] - batch.pos[target] + shift
    features, dist = model.edge_input(vec, batch.edge_index, batch.atomic_numbers)
    basis = model.edge_basis(features)
    alpha = torch.cos(torch.pi * dist / 2 / model.cutoff)[:, None]
    h = model.node_linear(model.node_basis(model.element_properties[batch.atomic_numbers]))
    for block in model.blocks:
        basis_linear = block.basis_linear or model.shared_basis_linear
        edge = basis if basis_linear is None else basis_linear(basis)
        if block.pair_linear.node_dim:
            edge = torch.cat([edge, h[source], h[target]], dim=1)
        edge = F.linear(edge, block.pair_linear.weight, block.pair_linear.bias)
        message = alpha * block.edge_mlp(edge)
        sent = torch.ones_like(h) if block.source_linear is None else block.source_linear(h)
        message = message * sent[source]
        total = torch.stack([message[target == atom].sum(dim=0) for atom in range(len(h))])
        if block.self_weight is not None:
            total = total + block.self_weight * sent
        h = h + block.node_mlp(total)
    return model.decoder(model.post_encoder(h))


@pytest.mark.parametrize(
    "chosen",
    [
        *([f"basis={basis}"] for basis in BASES),
        *([f"ablation={ablation}"] for ablation in ABLATIONS),
        ["ablation=only_filter", "model.keep_self_bias=true"],
        ["ablation=no_node_emb", "basis=none"],
        ["model.share_basis_linear=true", "model.post_encoder_linear=false"],
    ],
    ids=" ".join,
)
def test_outputs_and_gradients_are_those_of_the_concatenation(chosen):
    torch.manual_seed(0)
    model = build_model(["model=forcenet", *SMALL, *chosen]).double().train()
    batch = make_batch([random_atoms(1), random_atoms(2)], model.cutoff, max_neighbors=12)
    weights = torch.randn(len(batch.pos), 3, dtype=torch.float64)
    results = []
    for forces in (model(batch).forces, concatenated(model, batch)):
        parameters = list(model.parameters())
        loss = (weights * forces).sum()
        results.append([forces, *torch.autograd.grad(loss, parameters)])
    for folded, slow in zip(*results, strict=True):
        torch.testing.assert_close(folded, slow, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["act=none"], "needs an activation.*act=swish"),
        (["act=none", "basis=linact"], "needs an activation.*act=swish"),
        (["model.basis=null"], "needs a basis.*basis=sph"),
        (["model.edge_features=only_dist"], "needs the direction.*basis=sine"),
        (["model.filter_only=true"], "self_message=false"),
        (["model.keep_self_bias=true"], "filter_only=true"),
        (["model.cutoff=0.0"], "must be positive"),
        (["model.edge_features=distance"], "edge_features must be Literal.*got .distance."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_contradictory_choices_are_refused_with_a_remedy(chosen, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        build_model(["model=forcenet", *SMALL, *chosen])


def test_only_dist_chooses_sines_and_refuses_harmonics():
    assert type(build_model([*SMALL, "ablation=only_dist"]).edge_basis).__name__ == "SineBasis"
    with pytest.raises(Exception, match="needs the direction"):
        build_model([*SMALL, "ablation=only_dist", "basis=sph"])


def test_radii_matter_only_where_they_are_read():
    krypton = 36
    assert krypton in build_model(SMALL).unsupported_elements()
    without = build_model([*SMALL, "ablation=no_atomic_radii"])
    assert krypton not in without.unsupported_elements()
    assert 85 in without.unsupported_elements()


def test_initial_weights_are_xavier_where_the_public_code_has_them():
    torch.manual_seed(0)
    model = build_model(["model=forcenet", "model.hidden_channels=64", "model.num_layers=1"])

    def bound(weight):
        return (6 / (weight.shape[0] + weight.shape[1])) ** 0.5

    block = model.blocks[0]
    for linear in (block.basis_linear, block.pair_linear, block.source_linear, model.decoder[0]):
        assert linear.weight.abs().max() <= bound(linear.weight)
        assert linear.weight.abs().max() > 0.98 * bound(linear.weight)
        assert not linear.bias.any()
    assert (
        0.5 * bound(block.self_weight) < block.self_weight.abs().max() <= bound(block.self_weight)
    )
    for linear in (model.node_linear, model.edge_basis.radial, model.post_encoder[0]):
        assert linear.weight.abs().max() <= linear.in_features**-0.5
        assert linear.bias.any()


def test_directions_are_moved_to_the_unit_range_for_gaussians_only():
    batch = make_batch([random_atoms(1)], 6.0, 12, dtype=torch.float32)
    for basis in BASES:
        model = build_model([*SMALL, f"basis={basis}"])
        assert model.edge_input.unit_range == (basis == "gauss")
        assert model(batch).forces.isfinite().all()
