"""ForceNet's first weights: the paper's, the public code's, and those set from a batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.structure import Structure
from atomsweep.engine.initial import initialise
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models.forcenet import EDGE_SPREAD
from atomsweep.tasks.normalize import NormalizedModel, Normalizer
from tests.contracts.compose import build_model, compose
from tests.contracts.graphs import make_batch, random_atoms

SMALL = ["model=forcenet", "model.hidden_channels=24", "model.num_layers=2"]
BASES = ["sph", "sine", "gauss", "linact", "identity", "none"]


def model_of(*overrides, seed=0):
    torch.manual_seed(seed)
    return build_model([*SMALL, *overrides])


@pytest.fixture(scope="module")
def batch():
    atoms = [random_atoms(seed) for seed in range(3)]
    return make_batch(atoms, 6.0, 50, dtype=torch.float32)


def entering(model, block, batch):
    """What the edges bring into the first layer of F_e, (E, D), by its matrices."""
    x = model._embed_edges(batch).basis
    if block.basis_linear is not None:
        x = F.linear(x, block.basis_linear.weight)
    return F.linear(x, block.pair_linear.weight[:, : block.pair_linear.edge_dim])


@pytest.mark.parametrize("basis", BASES)
def test_auto_sets_the_spread_of_every_block(basis, batch):
    model = model_of(f"basis={basis}", "model.edge_init_scale=auto")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.initialise(batch)
    for block in model.blocks:
        spread = entering(model, block, batch).detach().var(0).mean().sqrt()
        assert float(spread) == pytest.approx(EDGE_SPREAD, rel=1e-4)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    wanted = "pair_linear.weight" if basis == "none" else "basis_linear.weight"
    assert changed == {f"blocks.{i}.{wanted}" for i in range(2)}
    if basis == "none":  # what sees the atoms stays
        width = model.edge_basis.out_dim
        for name in changed:
            now = dict(model.named_parameters())[name]
            assert torch.equal(now[:, width:], before[name][:, width:])


def test_null_leaves_what_the_seed_gives_and_a_number_is_the_spread(batch):
    plain, auto = model_of(), model_of("model.edge_init_scale=auto")
    assert not plain.initialised_from_data
    plain.initialise(batch)
    assert all(
        torch.equal(p, q) for p, q in zip(plain.parameters(), auto.parameters(), strict=True)
    )
    wide = model_of("model.edge_init_scale=1.5")
    wide.initialise(batch)
    spread = entering(wide, wide.blocks[0], batch).detach().var(0).mean().sqrt()
    assert float(spread) == pytest.approx(1.5, rel=1e-4)
    with pytest.raises(Exception, match="edge_init_scale must be positive, got 0"):
        model_of("model.edge_init_scale=0")


def test_a_shared_linear_layer_is_scaled_once(batch):
    model = model_of("model.share_basis_linear=true", "model.edge_init_scale=auto")
    before = model.shared_basis_linear.weight.detach().clone()
    model.initialise(batch)
    ratio = model.shared_basis_linear.weight / before
    assert float(ratio.std()) < 1e-5
    assert float(ratio.mean()) != pytest.approx(1.0, rel=1e-2)


def test_edges_that_do_not_differ_leave_the_weights():
    model = model_of("basis=identity", "model.edge_init_scale=auto")
    lone = make_batch([random_atoms(0)], 0.1, 5, dtype=torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    model.initialise(lone)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_the_batch_is_drawn_by_the_seed_and_reaches_a_normalised_network():
    structures = []
    for seed in range(40):
        made = random_atoms(seed)
        number = len(made.pos)
        flags = np.zeros(number, dtype=np.int64)
        structures.append(
            Structure(
                made.atomic_numbers,
                made.pos,
                made.cell,
                np.array(made.pbc),
                flags,
                flags == 1,
                np.zeros((number, 3)),
                0.0,
                seed,
                0,
            )
        )
    train = GraphDataset(InMemoryDataset(structures), RadiusGraph(6.0, 50))

    def first(seed, weights=0):
        model = model_of("model.edge_init_scale=auto", "model.energy_head=true", seed=weights)
        wrapped = NormalizedModel(model, Normalizer(0.0, 1.0, 1.0))
        initialise(wrapped, train, seed)
        return model.blocks[0].basis_linear.weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))  # other structures, nearly the same factor
    torch.testing.assert_close(first(0), first(1), rtol=0.2, atol=0)


def test_xavier_is_the_papers_and_port_leaves_what_the_public_code_leaves():
    paper, port = model_of("model.init=xavier"), model_of()
    own = {"node_linear", "post_encoder.0", "edge_basis.radial"}
    for name, layer in paper.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6), name
        assert not layer.bias.any(), name
        assert bool(port.get_submodule(name).bias.any()) == (name in own), name


def test_published_size_keeps_the_papers_and_small_takes_ours():
    published, small = compose(["model=forcenet"]), compose(["model=forcenet", "size=small"])
    laptop = compose([])
    assert (published.model.edge_init_scale, published.model.init) == (None, "port")
    assert small.model.edge_init_scale == laptop.model.edge_init_scale == "auto"
    shares = [cfg.task.squared_until for cfg in (published, small, laptop)]
    assert shares == [None, 0.3, 0.3]
    gauss = [
        compose([*own, "basis=gauss"]).model.basis.num_gaussians for own in ([], ["model=forcenet"])
    ]
    assert gauss == [10, 50]
    assert compose(["model=gns"]).model.init == "xavier"
