"""Equiformer: attention with depth-wise tensor products (Liao and Smidt, arXiv:2206.11990).

The network for MD17 and its denoising variant (arXiv:2403.09549): exactly SE(3)-equivariant, forces
are -dE/dx. Irreps of e3nn are lists over l of (N, 2l + 1, C_l) here, and all parities even, as in
the papers' SE(3) variant. Everything runs in full precision, since forces are derivatives.
"""

from copy import copy
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.graph.edges import edge_vectors
from atomsweep.models.base import ForceField, Prediction, dens_forces
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_softmax, segment_sum
from atomsweep.nn.so3.activation import LEAKY, SILU, SmoothLeakyReLU, gate_degrees
from atomsweep.nn.so3.harmonics import spherical_harmonics
from atomsweep.nn.so3.linear import force_harmonics
from atomsweep.nn.so3.norm import DegreesNorm
from atomsweep.nn.so3.radial import ExpNormalSmearing
from atomsweep.nn.so3.tensor_product import (
    Degrees,
    DegreesLinear,
    DepthwiseProduct,
    EdgeProduct,
    add_degrees,
    sum_degrees,
)

Init = Literal["normal", "uniform"]


class _Sizes(NamedTuple):
    channels: list[int]
    head_channels: list[int]
    ffn_channels: list[int]
    num_heads: int
    num_basis: int
    radial_channels: int
    attention: bool
    layer_norm: bool
    init: Init
    mean_degree: float

    @property
    def l_max(self) -> int:
        return len(self.channels) - 1


class _Edges(NamedTuple):
    """Pairs (2, E), radial basis (E, K), matrices of the tensor products for each l1."""

    pairs: Tensor
    radial: Tensor
    matrices: Degrees

    def part(self, numbers: Tensor) -> "_Edges":
        """The edges of these numbers."""
        radial, *matrices = (x.index_select(0, numbers) for x in (self.radial, *self.matrices))
        return _Edges(self.pairs.index_select(1, numbers), radial, matrices)


class Equiformer(ForceField):
    """Blocks of attention over neighbours and of gated feed-forward networks; forces are -dE/dx.

    Args:
        num_layers: blocks.
        channels: C_l of an atom for l = 0 … L.
        head_channels: the same of one attention head.
        ffn_channels: the same inside the feed-forward networks.
        scalar_channels: l = 0 channels behind the last block; with `dens` its other degrees have
            the same multiple of `channels`.
        num_heads: attention heads.
        num_basis: radial basis functions.
        radial_channels: hidden channels of the radial perceptrons.
        attention: weigh messages by attention; else their sum over the root of `mean_degree`.
        layer_norm: norms in front of every half block and of the head.
        init: of the matrices; without attention and norms the authors need "uniform".
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        num_elements: rows of the embedding; row Z is element Z.
        mean_degree: sums over edges are divided by its root: edges of an atom in QM9.
        mean_natoms: the sum of atomic energies is divided by its root: atoms of a QM9 molecule.
        dens: encode forces and predict noise.
    """

    conservative = True
    equivariant = True

    def __init__(
        self,
        num_layers: int,
        channels: list[int],
        head_channels: list[int],
        ffn_channels: list[int],
        scalar_channels: int,
        num_heads: int,
        num_basis: int,
        radial_channels: int,
        attention: bool,
        layer_norm: bool,
        init: Init,
        cutoff: float,
        max_neighbors: int | None,
        num_elements: int,
        mean_degree: float,
        mean_natoms: float,
        dens: bool,
    ) -> None:
        super().__init__()
        channels, head_channels = list(channels), list(head_channels)
        ffn_channels = list(ffn_channels)
        if not len(channels) == len(head_channels) == len(ffn_channels) >= 2:
            raise ValueError(
                "channels, head_channels and ffn_channels must name the same degrees, l = 0 and 1 "
                f"at least, got {channels}, {head_channels} and {ffn_channels}"
            )
        self.supports_dens = dens
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.mean_natoms = mean_natoms
        sizes = _Sizes(
            channels,
            head_channels,
            ffn_channels,
            num_heads,
            num_basis,
            radial_channels,
            attention,
            layer_norm,
            init,
            mean_degree,
        )
        self.l_max = sizes.l_max
        features = [scalar_channels] + [0] * sizes.l_max
        if dens:
            features = [count * scalar_channels // channels[0] for count in channels]
        self.smearing = ExpNormalSmearing(cutoff, num_basis)
        self.edge_product = EdgeProduct(sizes.l_max)
        self.embedding = nn.Embedding(num_elements, channels[0])
        self.embedding_bias = nn.Parameter(torch.zeros(channels[0]))
        self.edge_degree = EdgeDegree(sizes)
        ones = [1] * len(channels)
        self.force_encoding = DegreesLinear(ones, channels, init=init) if dens else None
        last = num_layers - 1
        self.blocks = nn.ModuleList(
            Block(sizes, features if index == last else channels) for index in range(num_layers)
        )
        self.norm = DegreesNorm(features) if layer_norm else nn.Identity()
        self.energy_head = nn.ModuleList(
            DegreesLinear(features[:1], [width], init=init) for width in (scalar_channels, 1)
        )
        self.noise_head = VectorAttention(sizes, features) if dens else None

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding."""
        return frozenset(range(self.embedding.num_embeddings, MAX_ATOMIC_NUMBER + 1))

    def forward(self, batch: Batch) -> Prediction:
        """Energies (B,) eV, forces (N, 3) eV/Å, and with `dens` the noise (N, 3).

        The graph for second derivatives is kept where gradients are on when it is called.
        """
        self.check_elements_on_cpu(batch.atomic_numbers)
        keep = torch.is_grad_enabled()
        with torch.enable_grad(), full_precision(batch.pos):
            moved = copy(batch)
            moved.pos = (
                batch.pos if batch.pos.requires_grad else batch.pos.detach().requires_grad_()
            )
            energy, x, edges = self._energy(moved)
            (gradient,) = torch.autograd.grad(energy.sum(), moved.pos, create_graph=keep)
            noise = None
            if self.noise_head is not None:
                if keys.DENS_MOVED_EDGES in batch:  # the noise of other atoms is in no loss
                    edges = edges.part(batch[keys.DENS_MOVED_EDGES])
                noise = self.noise_head(x, edges)
        if not keep:
            energy, noise = energy.detach(), None if noise is None else noise.detach()
        return Prediction(energy, -gradient, noise)

    def _energy(self, batch: Batch) -> tuple[Tensor, Degrees, _Edges]:
        vec = edge_vectors(batch)
        dist = vec.norm(dim=-1)
        harmonics = spherical_harmonics(vec / dist[:, None], self.l_max)
        edges = _Edges(batch.edge_index, self.smearing(dist), self.edge_product(harmonics))
        x = self.edge_degree(edges, len(batch.pos))
        scalar = self.embedding(batch.atomic_numbers) + self.embedding_bias
        x = [x[0] + scalar[:, None], *x[1:]]
        if self.force_encoding is not None:
            encoded = force_harmonics(dens_forces(batch), self.l_max)[..., None]
            parts = encoded.split([2 * degree + 1 for degree in range(self.l_max + 1)], 1)
            x = add_degrees(x, self.force_encoding(list(parts)))
        for block in self.blocks:
            x = block(x, edges)
        x = self.norm(x)
        first, second = self.energy_head
        (hidden,) = first(x[:1])
        (energy,) = second([F.silu(hidden) * SILU])  # (N, 1, 1)
        energy = segment_sum(energy[:, 0], batch.batch, batch.cell.shape[0]).squeeze(-1)
        return energy * self.mean_natoms**-0.5, x, edges


def _with_gates(channels: list[int]) -> list[int]:
    return [sum(channels), *channels[1:]]


class RadialMLP(nn.Module):
    """Linear, LayerNorm, SiLU, twice, then Linear: weights of a depth-wise product.

    Args:
        sizes: of the network.
        num_weights: outputs.

    Shape: (E, K) -> (E, num_weights).
    """

    def __init__(self, sizes: _Sizes, num_weights: int) -> None:
        super().__init__()
        width = sizes.radial_channels
        self.hidden = nn.Sequential(
            nn.Linear(sizes.num_basis, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.SiLU(),
        )
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(width, num_weights)  # its bias starts uniform, as torch has it

    def forward(self, radial: Tensor, num_weights: int | None = None) -> Tensor:
        """All weights, or the first `num_weights`."""
        rows = slice(None, num_weights)
        return F.linear(self.hidden(radial), self.last.weight[rows], self.last.bias[rows])


class EdgeDegree(nn.Module):
    """What an atom's surroundings look like: a product of constants with harmonics, summed.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: _Sizes) -> None:
        super().__init__()
        self.mean_degree = sizes.mean_degree
        self.constant = nn.Parameter(torch.empty(sizes.channels[0]).normal_())
        self.constant_bias = nn.Parameter(torch.zeros(sizes.channels[0]))
        self.product = DepthwiseProduct(sizes.l_max, sizes.channels)
        self.radial = RadialMLP(sizes, self.product.num_weights)
        self.project = DegreesLinear(self.product.out_channels, sizes.channels, init=sizes.init)

    def forward(self, edges: _Edges, num_atoms: int) -> Degrees:
        """Coefficients of the atoms; constants have only l = 0, so only its paths are needed."""
        constant = (self.constant + self.constant_bias).expand(len(edges.radial), 1, -1)
        paths = self.product.paths.by_input[0]
        weights = self.radial(edges.radial, len(paths) * constant.shape[2])
        message = self.product([constant], edges.matrices, weights)
        message = [
            F.linear(part, weight[:, : part.shape[2]])
            for part, weight in zip(message, self.project.weights, strict=True)
        ]
        message[0] = message[0] + self.project.bias
        total = sum_degrees(message, edges.pairs[1], num_atoms)
        return [part * self.mean_degree**-0.5 for part in total]


class Attention(nn.Module):
    """Messages from two depth-wise products with a gate between, weighed by attention.

    arXiv:2206.11990, Sec. 4: linear maps of source and target are added; the first product's
    weights come from the edge's length, its scalars give the logits; the second has weights of its
    own. Without attention messages are summed over the root of the mean degree.

    Args:
        sizes: of the network.
        in_channels: of each degree of the input.
        out_channels: of each degree of the result.
        used: how many degrees of the result are read; matrices of the others stay untrained.
    """

    def __init__(
        self, sizes: _Sizes, in_channels: list[int], out_channels: list[int], used: int
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.used = used
        channels, init = sizes.channels, sizes.init
        heads = [count * sizes.num_heads for count in sizes.head_channels]
        self.source = DegreesLinear(in_channels, channels, init=init)
        self.target = DegreesLinear(in_channels, channels, bias=False, init=init)
        self.product1 = DepthwiseProduct(sizes.l_max, channels)
        self.radial = RadialMLP(sizes, self.product1.num_weights)
        wide = self.product1.out_channels
        self.linear1 = DegreesLinear(wide, _with_gates(channels), init=init)
        if sizes.attention:
            self.alpha = DegreesLinear(wide[:1], heads[:1], init=init)
            self.alpha_act = SmoothLeakyReLU(0.2)
            self.alpha_dot = nn.Parameter(torch.empty(sizes.num_heads, sizes.head_channels[0]))
            nn.init.xavier_uniform_(self.alpha_dot)
        self.product2 = DepthwiseProduct(sizes.l_max, channels)
        self.weights2 = nn.Parameter(torch.empty(self.product2.num_weights).normal_())
        self.linear2 = DegreesLinear(self.product2.out_channels, heads, init=init)
        self.project = DegreesLinear(heads, out_channels, bias=out_channels[0] > 0, init=init)
        for layer in (self.linear2, self.project):
            for weight in layer.weights[used:]:
                weight.requires_grad_(False)

    def forward(self, x: Degrees, edges: _Edges) -> Degrees:
        """Sum of messages of each atom."""
        return self.project(self._messages(x, edges))

    def _messages(self, x: Degrees, edges: _Edges) -> Degrees:
        source, target = edges.pairs
        num_atoms = len(x[0])
        message = [
            s.index_select(0, source) + t.index_select(0, target)
            for s, t in zip(self.source(x), self.target(x), strict=True)
        ]
        wide = self.product1(message, edges.matrices, self.radial(edges.radial))
        value = gate_degrees(self.linear1(wide), self.sizes.channels)
        value = self.product2(value, edges.matrices, self.weights2)
        value = self.linear2(value[: self.used])
        if not self.sizes.attention:
            total = sum_degrees(value, target, num_atoms)
            return [part * self.sizes.mean_degree**-0.5 for part in total]
        (alpha,) = self.alpha(wide[:1])
        alpha = self.alpha_act(alpha[:, 0].unflatten(1, self.alpha_dot.shape)) * LEAKY
        alpha = segment_softmax((alpha * self.alpha_dot).sum(-1), target, num_atoms)  # (E, heads)
        value = [
            (part.unflatten(2, (self.sizes.num_heads, -1)) * alpha[:, None, :, None]).flatten(2)
            for part in value
        ]
        return sum_degrees(value, target, num_atoms)


class VectorAttention(Attention):
    """The l = 1 row of one channel: a vector for each atom. Matrices of other rows stay untrained.

    Args:
        sizes: of the network.
        in_channels: of each degree of the input.

    Shape: `Degrees` -> (N, 3).
    """

    def __init__(self, sizes: _Sizes, in_channels: list[int]) -> None:
        super().__init__(sizes, in_channels, [0, 1], used=2)
        self.linear2.weights[0].requires_grad_(False)
        assert self.linear2.bias is not None
        self.linear2.bias.requires_grad_(False)

    def forward(self, x: Degrees, edges: _Edges) -> Tensor:  # type: ignore[override]
        """A vector for each atom."""
        return F.linear(self._messages(x, edges)[1], self.project.weights[1]).squeeze(-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); a linear shortcut where sizes change.

    Args:
        sizes: of the network.
        out_channels: of each degree of the result.
    """

    def __init__(self, sizes: _Sizes, out_channels: list[int]) -> None:
        super().__init__()
        self.ffn_channels, channels, init = sizes.ffn_channels, sizes.channels, sizes.init
        norm = DegreesNorm if sizes.layer_norm else nn.Identity
        self.attention_norm = norm(channels)
        self.used = sum(count > 0 for count in out_channels)
        self.attention = Attention(sizes, channels, channels, self.used)
        self.ffn_norm = norm(channels)
        self.ffn1 = DegreesLinear(channels, _with_gates(sizes.ffn_channels), init=init)
        self.ffn2 = DegreesLinear(sizes.ffn_channels, out_channels, init=init)
        if out_channels == channels:
            self.shortcut = None
        else:
            self.shortcut = DegreesLinear(channels, out_channels, init=init)
        for weight in self.ffn1.weights[self.used :]:
            weight.requires_grad_(False)  # reaches no degree of the result

    def forward(self, x: Degrees, edges: _Edges) -> Degrees:
        """Update the atoms."""
        x = add_degrees(x, self.attention(self.attention_norm(x), edges))
        hidden = gate_degrees(self.ffn1(self.ffn_norm(x)), self.ffn_channels)
        update = self.ffn2(hidden[: self.used])
        shortcut = x if self.shortcut is None else self.shortcut(x[: self.used])
        return add_degrees(shortcut, update)
