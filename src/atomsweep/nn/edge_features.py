"""Inputs of an edge as ForceNet and GNS read them: direction and distances."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from atomsweep.nn.elements import atomic_radii, elements_without_radius

EdgeFeatureSet = Literal["full", "only_dist", "no_atomic_radii"]
_NUM_FEATURES: dict[str, int] = {"full": 7, "only_dist": 4, "no_atomic_radii": 4}


class EdgeFeatures(nn.Module):
    """Edge inputs e_st = [n_st, p_st], with p_st = [d, d - a_s, d - a_t, d - a_s - a_t] / c.

    n is the unit vector from target to source, d its length, a an atomic radius, c the cutoff.
    ForceNet, arXiv:2103.01436, Sec. 3.1.1. The distance between surfaces is negative for most
    bonded pairs; the public code clamps every component of p from below, the paper does not say so.

    Args:
        cutoff: c, Å.
        features: "full" is n and p, "only_dist" p, "no_atomic_radii" n and d / c.
        min_distance: lower clamp of p; None for no clamp.
        unit_range: move n from [-1, 1] to [0, 1].
    """

    def __init__(
        self,
        cutoff: float,
        features: EdgeFeatureSet,
        min_distance: float | None,
        unit_range: bool = False,
    ) -> None:
        super().__init__()
        if features not in _NUM_FEATURES:
            raise ValueError(
                f"edge_features must be one of {sorted(_NUM_FEATURES)}, got {features!r}"
            )
        self.out_dim = _NUM_FEATURES[features]
        self.has_direction = features != "only_dist"
        self.has_radii = features != "no_atomic_radii"
        self.cutoff = cutoff
        self.min_distance = min_distance
        self.unit_range = unit_range
        self.register_buffer("radii", atomic_radii(), persistent=False)
        self.radii: Tensor

    def unsupported_elements(self) -> frozenset[int]:
        """Atomic numbers without the radius that these features need."""
        return elements_without_radius() if self.has_radii else frozenset()

    def forward(self, edge_vec: Tensor, edge_index: Tensor, atomic_numbers: Tensor) -> "EdgeInput":
        """Shape: (E, 3) Å, (2, E), (N,) -> (E, out_dim), (E,) Å."""
        dist = torch.linalg.vector_norm(edge_vec, dim=-1)  # (E,)
        columns = []
        if self.has_direction:
            unit = edge_vec / dist[:, None]
            columns.append((unit + 1) / 2 if self.unit_range else unit)
        distances = dist[:, None]
        if self.has_radii:
            radius = self.radii[atomic_numbers]
            source, target = radius[edge_index[0]], radius[edge_index[1]]
            corrected = torch.stack([source, target, source + target], dim=-1)
            distances = torch.cat([distances, distances - corrected], dim=-1)  # (E, 4)
        distances = distances / self.cutoff
        if self.min_distance is not None:
            distances = distances.clamp(min=self.min_distance)
        return EdgeInput(torch.cat([*columns, distances], dim=-1), dist)


class EdgeInput(NamedTuple):
    """Features of the edges (E, F) and their lengths (E,) Å."""

    features: Tensor
    dist: Tensor
