import numpy as np
import torch
from scipy import stats

from atomsweep.graph.clouds import adsorbate_clouds
from tests.contracts.graphs import make_batch, random_atoms


def slabs(*tags):
    """A structure for each list of tags, atoms on a grid."""
    structures = [random_atoms(1, repeats=(1, len(list_), 1)) for list_ in tags]
    batch = make_batch(structures, None)
    batch.tags = torch.tensor([tag for list_ in tags for tag in list_])
    return batch


def members(clouds, number):
    """Atoms of the cloud of one centre, sorted."""
    return sorted(clouds.member[number][clouds.mask[number]].tolist())


def test_centres_are_the_adsorbate_and_members_all_of_it_the_surface_and_a_sample_below():
    batch = slabs([0] * 12 + [1, 1, 1] + [2, 2], [1, 2], [0, 0, 1])
    clouds = adsorbate_clouds(batch, 8, seed=0)
    assert clouds.centre.tolist() == [15, 16, 18, 19, 20, 21]  # the last slab has no adsorbate
    assert clouds.structure.tolist() == [0, 0, 1, 2, 2, 2]
    first = members(clouds, 0)
    assert first == members(clouds, 1)
    assert len(set(first)) == 8
    assert first[3:] == [12, 13, 14, 15, 16]
    assert members(clouds, 2) == [17, 18]
    assert members(clouds, 5) == [19, 20, 21]


def test_adsorbate_and_surface_are_never_left_out():
    clouds = adsorbate_clouds(slabs([0] * 5 + [1] * 6 + [2] * 3), 4, seed=0)
    assert members(clouds, 0) == list(range(5, 14))


def test_without_tags_every_atom_is_a_centre():
    batch = slabs([0] * 6)
    del batch.tags
    assert adsorbate_clouds(batch, 80, seed=0).centre.tolist() == list(range(6))


def test_atoms_below_are_drawn_uniformly_without_replacement():
    """Chi-square of the counts of atoms, and bounds on those of pairs, over 3000 structures."""
    total, drawn, structures = 10, 4, 3000
    batch = slabs([0] * total + [1, 2])
    pair_counts = np.zeros((total, total))
    batch = batch_of_copies(batch, structures)
    clouds = adsorbate_clouds(batch, drawn + 2, seed=3)
    inside = np.zeros((structures, total + 2))
    atoms = clouds.member - batch.ptr[:-1, None]
    inside[np.arange(structures)[:, None], atoms.numpy()] = 1
    assert (inside.sum(1) == drawn + 2).all()
    assert inside[:, total:].all()
    pair_counts = inside[:, :total].T @ inside[:, :total]
    expected = structures * drawn / total
    # variance of a count without replacement, sum over atoms constrained: n p (1 - p) T / (T - 1)
    variance = expected * (1 - drawn / total) * total / (total - 1)
    statistic = ((np.diag(pair_counts) - expected) ** 2).sum() / variance
    assert 1e-3 < stats.chi2.sf(statistic, total - 1) < 1 - 1e-3
    likely = expected * (drawn - 1) / (total - 1)
    pairs = pair_counts[np.triu_indices(total, 1)]
    spread = np.sqrt(likely * (1 - likely / structures))
    assert (np.abs(pairs - likely) < 5 * spread).all()


def batch_of_copies(batch, copies):
    """Of other elements each."""
    size = len(batch.pos)
    generator = torch.Generator().manual_seed(0)
    batch.atomic_numbers = torch.randint(1, 90, (size * copies,), generator=generator)
    for name in ("pos", "tags", "cell", "pbc", "natoms"):
        batch[name] = batch[name].repeat(copies, *[1] * (batch[name].ndim - 1))
    batch.ptr = size * torch.arange(copies + 1)
    batch.batch = torch.arange(copies).repeat_interleave(size)
    return batch


def test_the_sample_hangs_on_the_seed_and_the_structure_alone():
    tags = [0] * 30 + [1, 2]
    alone = slabs(tags)
    expected = members(adsorbate_clouds(alone, 10, seed=0), 0)
    together = slabs([0] * 40 + [2], tags)
    together.pos = together.pos + 0.3 * torch.randn(together.pos.shape, dtype=torch.double)
    together.atomic_numbers[41:] = alone.atomic_numbers
    together.sid, alone.sid = torch.tensor([3, 1]), torch.tensor([0])  # numbers in a list
    beside = members(adsorbate_clouds(together, 10, seed=0), 1)
    assert [atom - 41 for atom in beside] == expected
    assert members(adsorbate_clouds(alone, 10, seed=1), 0) != expected
    alone.atomic_numbers[3] = 26
    assert members(adsorbate_clouds(alone, 10, seed=0), 0) != expected


def test_displacements_are_to_the_nearest_images_and_zero_where_empty():
    batch = slabs([0, 0, 1, 2], [1, 2])
    clouds = adsorbate_clouds(batch, 80, seed=0)
    vectors = clouds.displacements(batch).view(*clouds.member.shape, 3)
    assert not vectors[~clouds.mask].any()
    assert (~clouds.mask).any()
    for number, centre in enumerate(clouds.centre.tolist()):
        cell = batch.cell[clouds.structure[number]]
        for place in clouds.mask[number].nonzero().flatten().tolist():
            straight = batch.pos[clouds.member[number, place]] - batch.pos[centre]
            images = [
                straight + i * cell[0] + j * cell[1] for i in range(-4, 5) for j in range(-4, 5)
            ]
            nearest = min(images, key=torch.linalg.vector_norm)
            torch.testing.assert_close(vectors[number, place], nearest)
