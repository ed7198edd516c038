"""EquiformerV2: graph attention with SO(2) convolutions (Liao et al., arXiv:2306.12059).

Built in: translation, permutation, rotation (up to the S² grid's aliasing, docs/models.md). Not
built in: energy conservation. The order of operations, normalisations and shapes of parameters are
those of the public code, so that published weights can be copied in (`tests/models`, docs/models.md
has the mapping). With `dens` the network also encodes forces and predicts noise (DeNS,
arXiv:2403.09549).
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys
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
from atomsweep.nn.scatter import segment_softmax, segment_sum
from atomsweep.nn.so3.activation import GateActivation, SeparableGridActivation, SmoothLeakyReLU
from atomsweep.nn.so3.grid import SphereGrid
from atomsweep.nn.so3.linear import DegreeLinear, ForceEncoding
from atomsweep.nn.so3.norm import RMSNorm, SeparableLayerNorm
from atomsweep.nn.so3.radial import EdgeRadial, GaussianSmearing
from atomsweep.nn.so3.rotations import AlignedEdges, EdgeRotations
from atomsweep.nn.so3.so2 import SO2Convolution


class Sizes(NamedTuple):
    """What the parts share; see `EquiformerV2` for the meaning."""

    l_max: int
    m_max: int
    channels: int
    edge_channels: int
    num_basis: int
    num_elements: int
    hidden_channels: int
    num_heads: int
    alpha_channels: int
    value_channels: int
    ffn_channels: int
    activation: Literal["grid", "gate"]
    grid_resolution: int
    alpha_drop: float
    path_drop: float


class EquiformerV2(ForceField):
    """Blocks of attention over neighbours and of a feed-forward network on the sphere.

    Args:
        num_layers: blocks.
        l_max: highest degree L of an atom's coefficients.
        m_max: highest order M of what is aligned with an edge.
        channels: C of every coefficient.
        attn_hidden_channels: channels between the two convolutions of an attention block.
        num_heads: attention heads.
        attn_alpha_channels: scalars of each head that give its logit.
        attn_value_channels: channels of each head's value.
        ffn_channels: hidden channels of the feed-forward network.
        edge_channels: hidden channels of the radial perceptrons.
        num_basis: Gaussians.
        basis_width: their width in units of their distance.
        grid_resolution: points of the sphere's grid in each angle.
        activation: "grid" is the paper's separable S² activation with a grid network in the
            feed-forward part; "gate" is exactly equivariant.
        norm: "layer" is the paper's, "rms" the public code's other choice.
        alpha_drop: dropout of attention weights.
        path_drop: stochastic depth, for each structure.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        num_elements: rows of the embeddings; row Z is element Z.
        mean_degree: messages of the first embedding are divided by it: edges of an atom in OC20.
        mean_natoms: atomic energies are divided by it: atoms of a structure in OC20.
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
        attn_hidden_channels: int,
        num_heads: int,
        attn_alpha_channels: int,
        attn_value_channels: int,
        ffn_channels: int,
        edge_channels: int,
        num_basis: int,
        basis_width: float,
        grid_resolution: int,
        activation: Literal["grid", "gate"],
        norm: Literal["layer", "rms"],
        alpha_drop: float,
        path_drop: float,
        cutoff: float,
        max_neighbors: int | None,
        num_elements: int,
        mean_degree: float,
        mean_natoms: float,
        dens: bool,
        sigma_encoding: bool = False,
    ) -> None:
        super().__init__()
        refuse_sigma_without_dens(dens, sigma_encoding)
        self.supports_dens, self.supports_sigma = dens, sigma_encoding
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.mean_degree = mean_degree
        self.mean_natoms = mean_natoms
        sizes = Sizes(
            l_max=l_max,
            m_max=m_max,
            channels=channels,
            edge_channels=edge_channels,
            num_basis=num_basis,
            num_elements=num_elements,
            hidden_channels=attn_hidden_channels,
            num_heads=num_heads,
            alpha_channels=attn_alpha_channels,
            value_channels=attn_value_channels,
            ffn_channels=ffn_channels,
            activation=activation,
            grid_resolution=grid_resolution,
            alpha_drop=alpha_drop,
            path_drop=path_drop,
        )
        self.smearing = GaussianSmearing(cutoff, num_basis, basis_width)
        self.rotations = EdgeRotations(l_max, m_max)
        self.embedding = nn.Embedding(num_elements, channels)
        self.edge_degree = EdgeRadial(
            num_basis, edge_channels, (l_max + 1) * channels, num_elements
        )
        self.force_encoding = ForceEncoding(channels, l_max) if dens else None
        self.sigma_encoding = nn.Linear(1, channels) if sigma_encoding else None
        self.blocks = nn.ModuleList(Block(sizes, norm) for _ in range(num_layers))
        self.norm = make_norm(norm, sizes)
        self.energy_head = FeedForward(sizes, 1)
        self.energy_head.freeze_vectors()
        self.force_head = VectorAttention(sizes)
        self.noise_head = VectorAttention(sizes) if dens else None

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding."""
        return frozenset(range(self.embedding.num_embeddings, MAX_ATOMIC_NUMBER + 1))

    def forward(self, batch: Batch) -> Prediction:
        """Energies (B,) eV, forces (N, 3) eV/Å, and with `dens` the noise (N, 3).

        Where a batch lists its edges into moved atoms, only these have noise, the others forces.
        """
        self.check_elements_on_cpu(batch.atomic_numbers)
        num_structures = batch.cell.shape[0]
        edges = self._edges(batch)
        x = self._embed(batch, edges)
        for block in self.blocks:
            x = block(x, edges, batch.batch, num_structures)
        x = self.norm(x)
        with full_precision(x):
            energy = self.energy_head.scalars(x) / self.mean_natoms  # (N, 1)
            energy = segment_sum(energy, batch.batch, num_structures).squeeze(-1)
        parts = [edges]
        if self.noise_head is not None and keys.DENS_MOVED_EDGES in batch:
            parts = [edges.part(batch[k]) for k in (keys.DENS_LEFT_EDGES, keys.DENS_MOVED_EDGES)]
        pairs = [part.rotations.into_pairs(x, part.pairs) for part in parts]  # heads can share one
        forces = self.force_head(pairs[0], parts[0], len(x))
        if self.noise_head is None:
            return Prediction(energy, forces)
        return Prediction(energy, forces, self.noise_head(pairs[-1], parts[-1], len(x)))

    def _edges(self, batch: Batch) -> AlignedEdges:
        with full_precision(batch.pos):
            vec = edge_vectors(batch)
            dist = vec.norm(dim=-1)
            source, target = batch.edge_index
            return AlignedEdges(
                batch.edge_index,
                (batch.atomic_numbers[source], batch.atomic_numbers[target]),
                self.smearing(dist),
                self.rotations(vec / dist[:, None]),
            )

    def _embed(self, batch: Batch, edges: AlignedEdges) -> Tensor:
        weights = self.edge_degree(edges.radial, edges.elements)
        size = self.rotations.l_max + 1
        message = edges.rotations.back(weights.unflatten(1, (size, -1)))  # of the rows m = 0
        x = segment_sum(message.flatten(1), edges.pairs[1], len(batch.pos)) / self.mean_degree
        x = x.unflatten(1, (size**2, -1))
        scalar = self.embedding(batch.atomic_numbers)[:, None]  # (N, 1, C)
        x = x + F.pad(scalar, (0, 0, 0, size**2 - 1))
        if self.force_encoding is None:
            return x
        x = x + self.force_encoding(dens_forces(batch))
        if self.sigma_encoding is None:
            return x
        return x + F.pad(self.sigma_encoding(dens_sigma(batch))[:, None], (0, 0, 0, size**2 - 1))


def make_norm(norm: Literal["layer", "rms"], sizes: Sizes) -> nn.Module:
    """The norm in front of each half block."""
    return {"layer": SeparableLayerNorm, "rms": RMSNorm}[norm](sizes.channels, sizes.l_max)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Shape: (N, (L + 1)², C) -> the same.
    """

    def __init__(self, sizes: Sizes, norm: Literal["layer", "rms"]) -> None:
        super().__init__()
        self.path_drop = sizes.path_drop
        self.attention_norm = make_norm(norm, sizes)
        self.attention = GraphAttention(sizes, sizes.channels)
        self.ffn_norm = make_norm(norm, sizes)
        self.ffn = FeedForward(sizes, sizes.channels)

    def forward(
        self, x: Tensor, edges: AlignedEdges, structure: Tensor, num_structures: int
    ) -> Tensor:
        """Update the atoms."""
        update = self.attention(self.attention_norm(x), edges)
        x = x + self._drop(update, structure, num_structures)
        return x + self._drop(self.ffn(self.ffn_norm(x)), structure, num_structures)

    def _drop(self, update: Tensor, structure: Tensor, num_structures: int) -> Tensor:
        if self.path_drop == 0.0 or not self.training:
            return update
        keep = 1 - self.path_drop
        kept = torch.empty(num_structures, device=update.device).bernoulli_(keep) / keep
        return update * kept.to(update.dtype)[structure, None, None]


class GraphAttention(nn.Module):
    """Messages from two SO(2) convolutions, weighed by attention and rotated back.

    Logits come from m = 0 scalars of the first convolution: LayerNorm ("attention
    re-normalisation"), smooth leaky ReLU, a dot product for each head; softmax over the edges of an
    atom. arXiv:2306.12059, Sec. 4.

    Args:
        sizes: see `EquiformerV2`.
        out_channels: channels of the result.

    Shape: (N, (L + 1)², C) -> (N, (L + 1)², out_channels).
    """

    def __init__(self, sizes: Sizes, out_channels: int) -> None:
        super().__init__()
        self.heads, self.alpha_channels = sizes.num_heads, sizes.alpha_channels
        hidden, l_max, m_max = sizes.hidden_channels, sizes.l_max, sizes.m_max
        self.act: SeparableGridActivation | GateActivation
        if sizes.activation == "grid":
            self.act = SeparableGridActivation(SphereGrid(l_max, m_max, sizes.grid_resolution))
        else:
            self.act = GateActivation(l_max, m_max)
        self.extra = [self.heads * self.alpha_channels, self.act.num_scalars(l_max, hidden)]
        self.conv1 = SO2Convolution(2 * sizes.channels, hidden, l_max, m_max, sum(self.extra))
        self.radial = EdgeRadial(
            sizes.num_basis, sizes.edge_channels, self.conv1.num_weights, sizes.num_elements
        )
        self.alpha_norm = nn.LayerNorm(self.alpha_channels)
        self.alpha_act = SmoothLeakyReLU(0.2)
        bound = self.alpha_channels**-0.5
        self.alpha_dot = nn.Parameter(torch.empty(self.heads, self.alpha_channels))
        nn.init.uniform_(self.alpha_dot, -bound, bound)
        self.alpha_drop = nn.Dropout(sizes.alpha_drop)
        values = self.heads * sizes.value_channels
        self.conv2 = SO2Convolution(hidden, values, l_max, m_max)
        self.project = DegreeLinear(values, out_channels, l_max)

    def forward(self, x: Tensor, edges: AlignedEdges) -> Tensor:
        """Sum of messages of each atom."""
        pair = edges.rotations.into_pairs(x, edges.pairs)  # (E, R, 2C)
        hidden, alpha = self._hidden(pair, edges, len(x))
        message, _ = self.conv2(hidden)  # (E, R, heads V)
        message = edges.rotations.back(message * alpha[:, None])
        total = segment_sum(message.flatten(1), edges.pairs[1], len(x))
        return self.project(total.unflatten(1, (x.shape[1], -1)))

    def _hidden(self, pair: Tensor, edges: AlignedEdges, num_atoms: int) -> tuple[Tensor, Tensor]:
        """Coefficients between the convolutions, and attention of each value (E, heads V)."""
        message, scalars = self.conv1(pair, self.radial(edges.radial, edges.elements))
        alpha, gates = scalars.split(self.extra, 1)
        hidden = self.act(message, gates)
        alpha = self._attention(alpha, edges.pairs[1], num_atoms).to(hidden.dtype)  # (E, heads)
        return hidden, alpha.repeat_interleave(self.conv2.out_channels // self.heads, 1)

    def _attention(self, alpha: Tensor, target: Tensor, num_atoms: int) -> Tensor:
        alpha = self.alpha_act(self.alpha_norm(alpha.unflatten(1, (self.heads, -1))))
        logits = torch.einsum("ehc,hc->eh", alpha, self.alpha_dot)
        # random numbers go through memory, whose order a traced form may choose otherwise
        return self.alpha_drop(segment_softmax(logits, target, num_atoms).contiguous())


class VectorAttention(GraphAttention):
    """The l = 1 row of one channel of a graph attention without dropout: a vector for each atom.

    Only what reaches that row is computed: of the second convolution the orders |m| <= 1. Its other
    matrices stay, as public checkpoints have them, and are not trained.

    Args:
        sizes: see `EquiformerV2`.

    Shape: source and target aligned with their edges (E, R, 2C) -> (N, 3).
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes._replace(alpha_drop=0.0), 1)
        self.conv2.pairs[1:].requires_grad_(False)
        self.project.bias.requires_grad_(False)
        if sizes.activation == "gate":
            self.conv1.pairs[1:].requires_grad_(False)  # gates mix no orders

    def forward(  # type: ignore[override]
        self, pair: Tensor, edges: AlignedEdges, num_atoms: int
    ) -> Tensor:
        """A vector for each atom."""
        hidden, alpha = self._hidden(pair, edges, num_atoms)
        message = edges.rotations.vectors_back(self.conv2.vectors(hidden) * alpha[:, None])
        total = segment_sum(message.flatten(1), edges.pairs[1], num_atoms)
        total = total.unflatten(1, (3, -1))
        return F.linear(total, self.project.weight[1]).squeeze(-1).to(edges.radial.dtype)


class FeedForward(nn.Module):
    """Linear, a perceptron at each point of the sphere, linear; l = 0 by a path of its own.

    arXiv:2306.12059, Sec. 4. With gates: linear, gate activation, linear.

    Args:
        sizes: see `EquiformerV2`.
        out_channels: channels of the result.

    Shape: (N, (L + 1)², C) -> (N, (L + 1)², out_channels).
    """

    def __init__(self, sizes: Sizes, out_channels: int) -> None:
        super().__init__()
        channels, hidden, l_max = sizes.channels, sizes.ffn_channels, sizes.l_max
        self.linear1 = DegreeLinear(channels, hidden, l_max)
        self.linear2 = DegreeLinear(hidden, out_channels, l_max)
        self.grid: SphereGrid | None = None
        if sizes.activation == "grid":
            self.grid = SphereGrid(l_max, None, sizes.grid_resolution)
            self.scalar = nn.Linear(channels, hidden)
            self.grid_mlp = nn.Sequential(
                nn.Linear(hidden, hidden, bias=False),
                nn.SiLU(),
                nn.Linear(hidden, hidden, bias=False),
                nn.SiLU(),
                nn.Linear(hidden, hidden, bias=False),
            )
        else:
            self.act = GateActivation(l_max, None)
            self.scalar = nn.Linear(channels, self.act.num_scalars(l_max, hidden))
        nn.init.zeros_(self.scalar.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each atom."""
        scalar = self.scalar(x[:, 0])  # (N, ...)
        x = self.linear1(x)
        if self.grid is None:
            return self.linear2(self.act(x, scalar))
        x = self.grid.pointwise(x, self.grid_mlp)
        return self.linear2(torch.cat([F.silu(scalar)[:, None], x[:, 1:]], 1))

    def scalars(self, x: Tensor) -> Tensor:
        """Only the row l = 0 of the result. Shape: (N, (L + 1)², C) -> (N, out_channels)."""
        if self.grid is None:
            scalar = F.linear(x[:, 0], self.linear1.weight[0], self.linear1.bias)
        else:
            scalar = self.scalar(x[:, 0])
        return F.linear(F.silu(scalar), self.linear2.weight[0], self.linear2.bias)

    def freeze_vectors(self) -> None:
        """Train no parameters that `scalars` does not read; public checkpoints have them."""
        unused = (self.scalar,) if self.grid is None else (self.linear1, self.grid_mlp)
        for part in unused:
            part.requires_grad_(False)
