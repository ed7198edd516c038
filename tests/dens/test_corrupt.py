import numpy as np
import pytest
import torch
from scipy import stats

from atomsweep.graph.batch import rebuild_edges
from atomsweep.graph.neighbors import RadiusGraph
from tests.dens.toys import SEED, STRUCTURES, batch_of, dens

COPIES = 400


@pytest.fixture(scope="module")
def batch():
    return batch_of()


def places(batch):
    return torch.arange(len(batch.cell))


def draws(batch, settings, count=COPIES):
    return [settings.draw(batch, seed, places(batch)) for seed in range(count)]


def test_fixed_atoms_and_standard_structures_never_move(batch):
    for draw in draws(batch, dens(encode_fixed=True), 50):
        still = batch.fixed | ~draw.structures[batch.batch] | ~draw.moved
        assert not draw.moved[batch.fixed].any()
        assert (draw.noise[still] == 0).all()
        assert (draw.noise[draw.moved] != 0).all()


def test_structures_are_corrupted_with_p_and_free_atoms_of_them_with_r(batch):
    made = draws(batch, dens(prob=0.25, ratio=0.4))
    chosen = torch.stack([d.structures for d in made])  # (COPIES, B)
    assert stats.binomtest(int(chosen.sum()), chosen.numel(), 0.25).pvalue > 1e-3
    assert len({tuple(row.tolist()) for row in chosen}) > 50  # each structure by itself
    free = torch.stack([d.structures[batch.batch] & ~batch.fixed for d in made])
    moved = torch.stack([d.moved for d in made])
    assert stats.binomtest(int(moved.sum()), int(free.sum()), 0.4).pvalue > 1e-3


def test_the_noise_is_normal_with_the_one_sigma(batch):
    made = draws(batch, dens(prob=1.0, ratio=1.0, sigma_high=0.25), 100)
    noise = torch.cat([d.noise[d.moved] for d in made]).flatten()
    assert stats.kstest(noise.numpy() / 0.25, "norm").pvalue > 1e-3
    assert all((d.sigma == 0.25).all() for d in made)


def test_scales_are_geometric_and_equally_likely(batch):
    made = draws(batch, dens(prob=1.0, sigma_low=0.01, sigma_high=0.5, num_sigmas=50))
    sigmas = torch.cat([d.sigma for d in made]).numpy()
    expected = [0.01 * (0.5 / 0.01) ** (k / 49) for k in range(50)]
    found, counts = np.unique(sigmas, return_counts=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert stats.chisquare(counts).pvalue > 1e-3
    scaled = torch.cat([d.noise[d.moved] / d.sigma[batch.batch][d.moved, None] for d in made])
    assert stats.kstest(scaled.flatten().numpy()[:20_000], "norm").pvalue > 1e-3


def test_one_coin_for_the_batch_corrupts_all_or_none(batch):
    made = draws(batch, dens(coin="batch", prob=0.3))
    each = [d.structures.unique().tolist() for d in made]
    assert all(len(values) == 1 for values in each)
    heads = sum(values == [True] for values in each)
    assert stats.binomtest(heads, COPIES, 0.3).pvalue > 1e-3


def test_p_and_r_at_their_limits(batch):
    all_of_it = dens(prob=1.0, ratio=1.0).draw(batch, SEED, places(batch))
    assert all_of_it.structures.all()
    assert torch.equal(all_of_it.moved, ~batch.fixed)
    nothing = dens(prob=0.0).draw(batch, SEED, places(batch))
    assert not nothing.structures.any()
    assert not nothing.encoded.any()
    assert (nothing.noise == 0).all()


def test_the_released_code_encodes_fixed_atoms_as_well(batch):
    settings = dens(prob=1.0, ratio=1.0)
    assert torch.equal(settings.draw(batch, SEED, places(batch)).encoded, ~batch.fixed)
    released = dens(prob=1.0, ratio=1.0, encode_fixed=True).draw(batch, SEED, places(batch))
    assert released.encoded.all()
    assert torch.equal(released.moved, ~batch.fixed)


def test_a_structure_draws_the_same_alone_as_in_any_batch(batch):
    settings = dens(sigma_low=0.01, num_sigmas=50)
    whole = settings.draw(batch, SEED, places(batch))
    for place, atoms in enumerate(STRUCTURES):
        single = batch_of([atoms])
        single.fixed = batch.fixed[batch.batch == place]
        alone = settings.draw(single, SEED, torch.tensor([place]))
        assert alone.structures[0] == whole.structures[place]
        assert torch.equal(alone.noise, whole.noise[batch.batch == place])
        assert torch.equal(alone.moved, whole.moved[batch.batch == place])


def test_structures_with_a_large_force_are_left(batch):
    norms = [float(batch.forces[batch.batch == s].norm(dim=-1).max()) for s in range(8)]
    limit = sorted(norms)[3]
    draw = dens(prob=1.0, max_force=limit).draw(batch, SEED, places(batch))
    assert draw.structures.tolist() == [norm <= limit for norm in norms]


def test_structures_of_which_too_much_would_be_corrupted_are_left(batch):
    free = dens(prob=1.0, ratio=0.6, encode_fixed=True)
    limited = dens(prob=1.0, ratio=0.6, encode_fixed=True, max_ratio=0.6)
    share = torch.tensor(
        [
            float(free.draw(batch, SEED, places(batch)).encoded[batch.batch == s].double().mean())
            for s in range(8)
        ]
    )
    draw = limited.draw(batch, SEED, places(batch))
    assert draw.structures.tolist() == (share <= 0.6).tolist()
    assert 0 < draw.structures.sum() < 8


def test_the_graph_of_corrupted_structures_is_that_of_their_positions(batch):
    graph = RadiusGraph(4.0, None)
    draw = dens(sigma_high=0.4).draw(batch, SEED, places(batch))
    moved = batch.clone()
    moved.pos = batch.pos + draw.noise
    rebuild_edges(moved, graph, draw.structures)
    assert 0 < draw.structures.sum() < 8

    def edges(of, structure):
        mine = of.batch[of.edge_index[1]] == structure
        columns = torch.cat([of.edge_index[:, mine].T, of.cell_offsets[mine].long()], 1)
        return sorted(map(tuple, columns.tolist()))

    changed = 0
    for structure in range(8):
        if not draw.structures[structure]:
            assert edges(moved, structure) == edges(batch, structure)
            continue
        atoms = (moved.batch == structure).nonzero().flatten()
        pairs, offsets = graph(
            moved.pos[atoms].numpy(), batch.cell[structure].numpy(), batch.pbc[structure].numpy()
        )
        found = torch.from_numpy(pairs).T + atoms[0]
        expected = torch.cat([found, torch.from_numpy(offsets).long()], 1)
        assert edges(moved, structure) == sorted(map(tuple, expected.tolist()))
        changed += edges(moved, structure) != edges(batch, structure)
    assert changed > 0
    assert (moved.edge_index[1].diff() >= 0).all()


def test_atoms_that_came_to_coincide_keep_the_edges_that_they_had(batch):
    moved = batch.clone()
    moved.pos = batch.pos.clone()
    moved.pos[1] = moved.pos[0]
    chosen = torch.zeros(8, dtype=torch.bool)
    chosen[0] = True
    rebuild_edges(moved, RadiusGraph(4.0, None), chosen)
    assert torch.equal(moved.edge_index, batch.edge_index)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prob": 1.5}, r"dens.prob must lie in \[0, 1\]"),
        ({"ratio": 0.0}, "dens.ratio"),
        ({"sigma_high": 0.0}, "dens.sigma_high must be positive"),
        ({"sigma_low": 0.2, "num_sigmas": 50}, "dens.sigma_low lie between"),
        ({"sigma_low": 0.01}, "dens.num_sigmas must be 1"),
        ({"num_sigmas": 50}, "dens.num_sigmas must be 1"),
        ({"coefficient": -1.0}, "dens.coefficient"),
        ({"force_scale": 0.0}, "dens.force_scale"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dens(**change)


def test_frames_of_dynamics_stay_as_they_are_where_that_is_asked(batch):
    """Their fid is negative (`formats.ocp_lmdb.S2EF.dynamics`)."""
    mixed = batch.clone()
    mixed.fid = torch.tensor(
        [number if number % 2 else -1 - number for number in range(len(STRUCTURES))]
    )
    moving = mixed.fid < 0
    assert moving.any()
    for draw in draws(mixed, dens(prob=1.0, dynamics=False), 20):
        assert draw.structures.tolist() == (~moving).tolist()
        assert not draw.moved[moving[mixed.batch]].any()
    assert all(d.structures.all() for d in draws(mixed, dens(prob=1.0), 5))
