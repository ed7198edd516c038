"""SchNet: energies from filters of the distance (Schütt et al., arXiv:1706.08566).

Forces are -dE/dx. Layers, parameters and initialisation are those of torch_geometric's SchNet,
which the Open Catalyst code and with it the ForceNet paper use; only the edges come from the batch,
so cells are periodic. torch_geometric's own blocks read values while they are built, so they can
neither be planned without memory nor given another activation.

An edge and the one back have the same length, so filters are made once for both.
"""

from copy import copy

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.graph.edges import pairs_of_edges
from atomsweep.models.base import EnergyForceField, require_positive
from atomsweep.nn.basis import ActFactory, needed_act
from atomsweep.nn.cutoff import half_cosine_cutoff
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.mlp import make_mlp, xavier_uniform
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum

NUM_EMBEDDINGS = 100


class SchNet(EnergyForceField):
    """Messages W(d_st) ⊙ U h_s, with W a perceptron on Gaussians of the distance; E = sum of atoms.

    arXiv:1706.08566, Sec. 4, with a half cosine that fades W out at the cutoff.

    Args:
        act: factory of the activation.
        hidden_channels: channels of an atom.
        num_filters: channels of a message.
        num_layers: number of interaction blocks.
        num_gaussians: Gaussians on distances from 0 to the cutoff.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.

    Raises:
        ValueError: there is no activation, or a size is not positive.
    """

    def __init__(
        self,
        act: ActFactory | None,
        hidden_channels: int,
        num_filters: int,
        num_layers: int,
        num_gaussians: int,
        cutoff: float,
        max_neighbors: int | None,
    ) -> None:
        super().__init__()
        act = needed_act(act, "SchNet", "shifted_softplus")
        require_positive(
            hidden_channels=hidden_channels,
            num_filters=num_filters,
            num_layers=num_layers,
            num_gaussians=num_gaussians,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
        )
        self.cutoff: float = cutoff
        self.max_neighbors = max_neighbors
        self.num_gaussians = num_gaussians
        self.embedding = nn.Embedding(NUM_EMBEDDINGS, hidden_channels, padding_idx=0)
        self.register_buffer(
            "centres", torch.linspace(0.0, cutoff, num_gaussians), persistent=False
        )
        self.centres: Tensor
        self.blocks = nn.ModuleList(
            _Interaction(hidden_channels, num_filters, num_gaussians, act)
            for _ in range(num_layers)
        )
        self.decoder = make_mlp(hidden_channels, hidden_channels // 2, 1, act)
        xavier_uniform(self.decoder)

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding, and the empty one."""
        return frozenset({0, *range(NUM_EMBEDDINGS, MAX_ATOMIC_NUMBER + 1)})

    def prepare(self, batch: Batch) -> Batch:
        """With the pairs of its edges, if they can be told."""
        try:
            pairs = pairs_of_edges(batch.edge_index, batch.cell_offsets, len(batch.pos))
        except ValueError:  # atoms hundreds of cells apart: each edge is computed by itself
            return batch
        prepared = copy(batch)
        prepared[keys.PAIR_EDGES], prepared[keys.PAIR] = pairs
        return prepared

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of pairs (P, 3), where they are known."""
        vectors, source, target = super().vectors(batch)
        if keys.PAIR_EDGES not in batch:
            return vectors, source, target
        first = batch[keys.PAIR_EDGES]
        return vectors.index_select(0, first), source[first], target[first]

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,) eV."""
        pair: Tensor | None = batch.get(keys.PAIR, None)
        with full_precision(batch.pos):
            dist = torch.linalg.vector_norm(edge_vec, dim=-1)  # (P,), of pairs or of edges
            shift = (dist[:, None] - self.centres) * ((self.num_gaussians - 1) / self.cutoff)
            gaussians = torch.exp(-0.5 * shift.square())  # (P, K)
            weight = half_cosine_cutoff(dist, self.cutoff)[:, None]
        h = self.embedding(batch.atomic_numbers)  # (N, C)
        for block in self.blocks:
            h = h + block(h, batch.edge_index, gaussians, weight, pair)
        with full_precision(batch.pos):
            return segment_sum(self.decoder(h), batch.batch, batch.cell.shape[0]).squeeze(-1)


class _Interaction(nn.Module):
    """The update of the atoms by their neighbours. Shape: (N, C) -> (N, C)."""

    def __init__(self, channels: int, filters: int, num_gaussians: int, act: ActFactory) -> None:
        super().__init__()
        self.filter_mlp = make_mlp(num_gaussians, filters, filters, act)
        self.source_linear = nn.Linear(channels, filters, bias=False)
        self.node_mlp = make_mlp(filters, channels, channels, act)
        xavier_uniform(self.filter_mlp)
        nn.init.xavier_uniform_(self.source_linear.weight)
        xavier_uniform(self.node_mlp)

    def forward(
        self,
        h: Tensor,
        edge_index: Tensor,
        gaussians: Tensor,
        weight: Tensor,
        pair: Tensor | None,
    ) -> Tensor:
        """Shape: (N, C), (2, E), (P, K), (P, 1), pair of each edge (E,) or P = E -> (N, C)."""
        source, target = edge_index
        filters = self.filter_mlp(gaussians) * weight
        if pair is not None:
            filters = filters.index_select(0, pair)
        message = filters * self.source_linear(h).index_select(0, source)  # (E, F)
        return self.node_mlp(segment_sum(message, target, h.shape[0]))
