import pytest
import torch

from atomsweep.nn.edge_features import EdgeFeatures

EDGE = (torch.tensor([[0.0, 3.0, 4.0]]), torch.tensor([[1], [0]]), torch.tensor([29, 8]))
COPPER, OXYGEN = 1.35, 0.60  # Slater's radii, Å; copper is the target, oxygen the source


def test_full_features_are_direction_and_four_distances_over_the_cutoff():
    features, dist = EdgeFeatures(6.0, "full", min_distance=None)(*EDGE)
    expected = [0.0, 0.6, 0.8, 5 / 6, (5 - OXYGEN) / 6, (5 - COPPER) / 6, (5 - OXYGEN - COPPER) / 6]
    torch.testing.assert_close(features, torch.tensor([expected]))
    torch.testing.assert_close(dist, torch.tensor([5.0]))


@pytest.mark.parametrize(
    ("features", "kept"), [("only_dist", [3, 4, 5, 6]), ("no_atomic_radii", [0, 1, 2, 3])]
)
def test_ablations_keep_part_of_the_features(features, kept):
    full, _ = EdgeFeatures(6.0, "full", 1e-3)(*EDGE)
    part = EdgeFeatures(6.0, features, 1e-3)
    value, _ = part(*EDGE)
    assert torch.equal(value, full[:, kept])
    assert part.out_dim == len(kept)


def test_distances_of_bonded_atoms_are_clamped_and_directions_are_not():
    vec, index, numbers = torch.tensor([[-1.5, 0.0, 0.0]]), *EDGE[1:]
    clamped, _ = EdgeFeatures(6.0, "full", min_distance=1e-3)(vec, index, numbers)
    free, _ = EdgeFeatures(6.0, "full", min_distance=None)(vec, index, numbers)
    assert clamped[0, 0] == -1.0
    assert clamped[0, 6] == pytest.approx(1e-3)
    assert free[0, 6] == pytest.approx((1.5 - OXYGEN - COPPER) / 6)


def test_unit_range_moves_directions_alone():
    plain, _ = EdgeFeatures(6.0, "full", 1e-3)(*EDGE)
    moved, _ = EdgeFeatures(6.0, "full", 1e-3, unit_range=True)(*EDGE)
    torch.testing.assert_close(moved[:, :3], (plain[:, :3] + 1) / 2)
    assert torch.equal(moved[:, 3:], plain[:, 3:])


def test_unknown_feature_set_lists_the_known():
    with pytest.raises(ValueError, match=r"full.*no_atomic_radii.*only_dist.*got 'distance'"):
        EdgeFeatures(6.0, "distance", None)
