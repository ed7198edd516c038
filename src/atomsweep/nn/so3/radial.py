"""What an edge's length and elements say: Gaussians, and a perceptron on them."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.so3.constants import ConstantModule


class GaussianSmearing(ConstantModule):
    """exp(-(d - d_k)² / (2 (s Δ)²)) on `num_basis` points d_k from 0 to the cutoff, Δ apart.

    As in the public code of eSCN and EquiformerV2.

    Args:
        cutoff: last centre, Å.
        num_basis: number of Gaussians.
        width: s.

    Shape: (E,) Å -> (E, num_basis).
    """

    def __init__(self, cutoff: float, num_basis: int, width: float) -> None:
        super().__init__()
        centres = np.linspace(0.0, cutoff, num_basis)
        self.add_table("centres", centres)
        self.coefficient = -0.5 / (width * (centres[1] - centres[0])) ** 2
        self.centres: Tensor

    def forward(self, dist: Tensor) -> Tensor:
        """Gaussians of distances."""
        return torch.exp(self.coefficient * (dist[:, None] - self.centres) ** 2)


class ElementPair(nn.Module):
    """Two embeddings of elements, of an edge's source and of its target, started within ±0.001.

    Args:
        num_elements: rows; row Z is element Z.
        channels: width of each.
    """

    def __init__(self, num_elements: int, channels: int) -> None:
        super().__init__()
        self.source = nn.Embedding(num_elements, channels)
        self.target = nn.Embedding(num_elements, channels)
        nn.init.uniform_(self.source.weight, -0.001, 0.001)
        nn.init.uniform_(self.target.weight, -0.001, 0.001)


class EdgeRadial(nn.Module):
    """Perceptron of an edge: [radial basis, source element, target element] -> weights.

    Linear, LayerNorm, SiLU, Linear, LayerNorm, SiLU, Linear (EquiformerV2, arXiv:2306.12059). The
    first linear layer is split: its part for the elements is made once for each element.

    Args:
        num_basis: radial basis functions K.
        channels: hidden channels, and those of the element embeddings.
        out_dim: number of weights.
        num_elements: rows of the element embeddings.

    Shape: (E, K), and Z of sources (E,) and targets (E,) -> (E, out_dim).
    """

    def __init__(self, num_basis: int, channels: int, out_dim: int, num_elements: int) -> None:
        super().__init__()
        self.elements = ElementPair(num_elements, channels)
        self.sizes = (num_basis, channels, channels)
        self.first = nn.Linear(sum(self.sizes), channels)
        self.rest = nn.Sequential(
            nn.LayerNorm(channels),
            nn.SiLU(),
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
            nn.SiLU(),
            nn.Linear(channels, out_dim),
        )
        for layer in (self.first, *self.rest):
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, radial: Tensor, edge_elements: Sequence[Tensor]) -> Tensor:
        """Weights of each edge."""
        by_radial, by_source, by_target = self.first.weight.split(self.sizes, 1)
        source, target = edge_elements
        hidden = F.linear(radial, by_radial, self.first.bias)
        hidden = hidden + F.embedding(source, F.linear(self.elements.source.weight, by_source))
        hidden = hidden + F.embedding(target, F.linear(self.elements.target.weight, by_target))
        return self.rest(hidden)


class ExpNormalSmearing(ConstantModule):
    """f(d) exp(-β (exp(-5 d / c) - μ_k)²), f the cosine cutoff (1 + cos(π d / c)) / 2.

    PhysNet's basis (arXiv:1902.08408) as TorchMD-NET and Equiformer have it: K means μ_k from
    exp(-c / Å) to 1, β = (2 (1 - exp(-c / Å)) / K)^-2.

    Args:
        cutoff: c, Å.
        num_basis: K.

    Shape: (E,) Å -> (E, num_basis).
    """

    def __init__(self, cutoff: float, num_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        start = np.exp(-cutoff)
        self.add_table("means", np.linspace(start, 1.0, num_basis))
        self.beta = float((2 / num_basis * (1 - start)) ** -2)
        self.means: Tensor

    def forward(self, dist: Tensor) -> Tensor:
        """Basis functions of distances."""
        fade = 0.5 * (torch.cos(dist * (torch.pi / self.cutoff)) + 1) * (dist < self.cutoff)
        shape = torch.exp(dist * (-5.0 / self.cutoff))[:, None] - self.means
        return fade[:, None] * torch.exp(-self.beta * shape.square())
