"""eSCN: spherical channels mixed by SO(2) convolutions (Passaro and Zitnick, arXiv:2302.03655).

Built in: translation, permutation, rotation (up to the aliasing of its grid and of the points that
energy and forces are read from, docs/models.md). Not built in: energy conservation. Order of
operations and shapes of parameters are those of the public code. With `dens` the network also
encodes forces and predicts noise (DeNS, arXiv:2403.09549).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.graph.edges import edge_vectors
from atomsweep.models.base import (
    ForceField,
    Prediction,
    dens_forces,
    dens_sigma,
    refuse_sigma_without_dens,
)
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum
from atomsweep.nn.so3.constants import ConstantModule
from atomsweep.nn.so3.grid import SphereGrid, default_resolution
from atomsweep.nn.so3.harmonics import harmonics_table
from atomsweep.nn.so3.layout import num_degrees
from atomsweep.nn.so3.linear import ForceEncoding
from atomsweep.nn.so3.radial import ElementPair, GaussianSmearing
from atomsweep.nn.so3.rotations import EdgeRotations, Rotations

ENERGY_SCALE = 0.001  # of the public code
FORCE_ENCODING_BOUND = 0.001  # the same, for DeNS


class ESCN(ForceField):
    """Layers of messages aligned with edges, each followed by a perceptron on the sphere.

    Args:
        num_layers: layers.
        l_max: highest degree L of an atom's coefficients.
        m_max: highest order M of what is aligned with an edge.
        channels: C of every coefficient.
        hidden_channels: channels inside an SO(2) block.
        edge_channels: channels of the edge's features.
        num_basis: Gaussians.
        basis_width: their width in units of their distance.
        num_samples: points on the sphere from which energy and forces are read.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        num_elements: rows of the embeddings; row Z is element Z.
        dens: encode forces and predict noise.
        sigma_encoding: with `dens`, also encode the scale of the noise (2403.09549, Table 1e).
    """

    equivariant = True

    def __init__(
        self,
        num_layers: int,
        l_max: int,
        m_max: int,
        channels: int,
        hidden_channels: int,
        edge_channels: int,
        num_basis: int,
        basis_width: float,
        num_samples: int,
        cutoff: float,
        max_neighbors: int | None,
        num_elements: int,
        dens: bool,
        sigma_encoding: bool = False,
    ) -> None:
        super().__init__()
        refuse_sigma_without_dens(dens, sigma_encoding)
        self.supports_dens, self.supports_sigma = dens, sigma_encoding
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.num_rows = (l_max + 1) ** 2
        self.smearing = GaussianSmearing(cutoff, num_basis, basis_width)
        self.rotations = EdgeRotations(l_max, m_max, rescale=False)
        self.embedding = nn.Embedding(num_elements, channels)
        self.force_encoding = ForceEncoding(channels, l_max, FORCE_ENCODING_BOUND) if dens else None
        self.sigma_encoding = nn.Linear(1, channels) if sigma_encoding else None
        layers = [
            Layer(channels, hidden_channels, edge_channels, l_max, m_max, num_basis, num_elements)
            for _ in range(num_layers)
        ]
        if not dens:
            layers[0].freeze_vectors()
        self.layers = nn.ModuleList(layers)
        self.samples = SphereSamples(num_samples, l_max)
        self.energy_head = SampleMLP(channels)
        self.force_head = SampleMLP(channels)
        self.noise_head = SampleMLP(channels) if dens else None

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding."""
        return frozenset(range(self.embedding.num_embeddings, MAX_ATOMIC_NUMBER + 1))

    def forward(self, batch: Batch) -> Prediction:
        """Energies (B,) eV, forces (N, 3) eV/Å, and with `dens` the noise (N, 3)."""
        self.check_elements_on_cpu(batch.atomic_numbers)
        edges = self._edges(batch)
        x = F.pad(self.embedding(batch.atomic_numbers)[:, None], (0, 0, 0, self.num_rows - 1))
        if self.force_encoding is not None:
            x = x + self.force_encoding(dens_forces(batch))
        if self.sigma_encoding is not None:
            sigma = self.sigma_encoding(dens_sigma(batch))[:, None]
            x = x + F.pad(sigma, (0, 0, 0, self.num_rows - 1))
        for index, layer in enumerate(self.layers):
            x = x + layer(x, edges) if index else layer(x, edges)
        with full_precision(batch.pos):
            values = self.samples(x.to(batch.pos.dtype))  # (N, S, C)
            energy = self.energy_head(values).mean(1)  # (N,)
            energy = segment_sum(energy[:, None], batch.batch, batch.cell.shape[0]).squeeze(-1)
            forces = self.samples.vector(self.force_head(values))
            noise = None
            if self.noise_head is not None:
                noise = self.samples.vector(self.noise_head(values))
        return Prediction(ENERGY_SCALE * energy, forces, noise)

    def _edges(self, batch: Batch) -> "_Edges":
        with full_precision(batch.pos):
            vec = edge_vectors(batch)
            dist = vec.norm(dim=-1)
            source, target = batch.edge_index
            return _Edges(
                batch.edge_index,
                (batch.atomic_numbers[source], batch.atomic_numbers[target]),
                self.smearing(dist),
                self.rotations(vec / dist[:, None]),
            )


class _Edges(NamedTuple):
    """Pairs (2, E), their elements, radial basis (E, K), and rotations to the edges and back."""

    pairs: Tensor
    elements: tuple[Tensor, Tensor]
    radial: Tensor
    rotations: Rotations


class SphereSamples(ConstantModule):
    """Values of coefficients on a Fibonacci spiral, and averages over it.

    As the public code does, a point is not of unit length but weighted by how sparsely its
    surroundings are filled, also inside its harmonics.

    Args:
        num_samples: points S.
        l_max: highest degree.

    Shape: (N, (L + 1)², C) -> (N, S, C).
    """

    def __init__(self, num_samples: int, l_max: int) -> None:
        super().__init__()
        points = weighted_spiral(num_samples)
        self.add_table("points", points / num_samples)
        self.add_table("harmonics", harmonics_table(points, l_max) * (4 * np.pi) ** -0.5)
        self.points: Tensor
        self.harmonics: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Values at the points."""
        return torch.matmul(self.harmonics, x)

    def vector(self, values: Tensor) -> Tensor:
        """Mean of value times point. Shape: (N, S) -> (N, 3)."""
        return values @ self.points


def weighted_spiral(num_points: int) -> np.ndarray:
    """Fibonacci spiral about z, each point times its weight, mean 1. Shape: (num_points, 3)."""
    index = np.arange(num_points)
    azimuth = 4 * np.pi * index / (1 + 5**0.5)
    z = 1 - (2 * index + 1) / num_points
    across = np.sqrt(1 - z**2)
    points = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z], 1)
    distance = points[:, None] - points[None]
    weight = 1 / np.exp(-(distance**2).sum(-1) / 0.15).sum(1)
    return points * (weight / weight.mean())[:, None]


class SampleMLP(nn.Module):
    """C -> C -> C -> 1 at each point of the sphere, the last without a bias.

    Shape: (N, S, C) -> (N, S).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)
        self.fc3 = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One value at each point."""
        return self.fc3(F.silu(self.fc2(F.silu(self.fc1(x))))).squeeze(-1)


class Layer(nn.Module):
    """Messages of the neighbours, then a perceptron of atom and message on the sphere.

    The message of an edge is the SiLU on the sphere of the sum of two SO(2) blocks, one of the
    source and one of the target; arXiv:2302.03655, Sec. 4.2.

    Args:
        channels: C.
        hidden_channels: inside an SO(2) block.
        edge_channels: of the edge's features.
        l_max: highest degree.
        m_max: highest order.
        num_basis: Gaussians.
        num_elements: rows of the element embeddings.

    Shape: (N, (L + 1)², C) -> the same.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        edge_channels: int,
        l_max: int,
        m_max: int,
        num_basis: int,
        num_elements: int,
    ) -> None:
        super().__init__()
        self.elements = ElementPair(num_elements, edge_channels)
        self.edge_dist = nn.Linear(num_basis, edge_channels)
        self.edge_mix = nn.Linear(edge_channels, edge_channels)
        self.source = SO2Block(channels, hidden_channels, edge_channels, l_max, m_max)
        self.target = SO2Block(channels, hidden_channels, edge_channels, l_max, m_max)
        self.edge_grid = SphereGrid(
            l_max, m_max, default_resolution(l_max, m_max), "integral", rescale=False
        )
        self.grid = SphereGrid(l_max, None, default_resolution(l_max, l_max), "integral")
        self.mlp = nn.Sequential(
            nn.Linear(2 * channels, channels, bias=False),
            nn.SiLU(),
            nn.Linear(channels, channels, bias=False),
            nn.SiLU(),
            nn.Linear(channels, channels, bias=False),
        )

    def freeze_vectors(self) -> None:
        """Do not train what needs l > 0 in the input, which elements alone have not."""
        for block in (self.source, self.target):
            block.pairs.requires_grad_(False)

    def forward(self, x: Tensor, edges: _Edges) -> Tensor:
        """Coefficients that are added to those of the atoms."""
        source, target = edges.pairs
        edge = self.edge_dist(edges.radial)
        edge = edge + self.elements.source(edges.elements[0])
        edge = F.silu(edge + self.elements.target(edges.elements[1]))
        edge = F.silu(self.edge_mix(edge))
        message = self.source(edges.rotations.into(x, source), edge)
        message = message + self.target(edges.rotations.into(x, target), edge)
        message = edges.rotations.back(self.edge_grid.silu(message)).flatten(1)
        total = segment_sum(message, target, len(x)).unflatten(1, (*x.shape[1:2], -1))
        return self.grid.pointwise(torch.cat([x, total.to(x.dtype)], 2), self.mlp)


class SO2Block(nn.Module):
    """For each |m| a linear layer, a product with the edge's SiLU features, and a linear layer.

    For m > 0 the real and the imaginary part of the complex map are two such stacks, and
    y₊ = f_r(x₊) - f_i(x₋), y₋ = f_r(x₋) + f_i(x₊); arXiv:2302.03655, Sec. 4.1.

    Args:
        channels: C.
        hidden_channels: H.
        edge_channels: of the edge's features.
        l_max: highest degree.
        m_max: highest order.

    Shape: (E, R, C), (E, edge_channels) -> (E, R, C), rows m-primary.
    """

    def __init__(
        self, channels: int, hidden_channels: int, edge_channels: int, l_max: int, m_max: int
    ) -> None:
        super().__init__()
        self.sizes = num_degrees(l_max, m_max)
        self.dist0 = nn.Linear(edge_channels, hidden_channels)
        self.first0 = nn.Linear(self.sizes[0] * channels, hidden_channels, bias=False)
        self.second0 = nn.Linear(hidden_channels, self.sizes[0] * channels, bias=False)
        self.pairs = nn.ModuleList(
            PairStack(size * channels, hidden_channels, edge_channels) for size in self.sizes[1:]
        )

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        """Mix the rows of each |m|."""
        doubled = [size for size in self.sizes[1:] for _ in range(2)]
        parts = [part.flatten(1) for part in x.split([self.sizes[0], *doubled], 1)]
        outputs = [self.second0(self.first0(parts[0]) * F.silu(self.dist0(edge)))]
        for pair, plus, minus in zip(self.pairs, parts[1::2], parts[2::2], strict=True):
            outputs += pair(plus, minus, edge)
        return torch.cat(outputs, 1).unflatten(1, x.shape[1:])


class PairStack(nn.Module):
    """The complex stack of one |m| > 0 of an `SO2Block`; the arguments are widths."""

    def __init__(self, width: int, hidden_channels: int, edge_channels: int) -> None:
        super().__init__()
        self.dist = nn.Linear(edge_channels, 2 * hidden_channels)
        self.first_r = nn.Linear(width, hidden_channels, bias=False)
        self.second_r = nn.Linear(hidden_channels, width, bias=False)
        self.first_i = nn.Linear(width, hidden_channels, bias=False)
        self.second_i = nn.Linear(hidden_channels, width, bias=False)

    def forward(self, plus: Tensor, minus: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: (E, width) twice -> (E, width) twice."""
        real, imag = F.silu(self.dist(edge)).chunk(2, 1)
        second_r, second_i = self.second_r, self.second_i
        out_plus = second_r(self.first_r(plus) * real) - second_i(self.first_i(minus) * imag)
        out_minus = second_r(self.first_r(minus) * real) + second_i(self.first_i(plus) * imag)
        return out_plus, out_minus
