"""GNS: the graph network simulator that ForceNet is compared with (Sanchez-Gonzalez et al., 2020).

As arXiv:2103.01436 describes it for OC20; no code of it was published. The reading here, a lookup
embedding for atoms and the seven raw edge inputs, gives the published 12.5 M parameters. Not built
in: rotation and energy conservation. Messages have no cutoff weight, so they jump at the cutoff.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.graph.edges import edge_vectors
from atomsweep.models.base import ForceField, Prediction, require_positive
from atomsweep.nn.basis import ActFactory, needed_act
from atomsweep.nn.edge_features import EdgeFeatures
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.mlp import EDGE_SPREAD, PairLinear, make_mlp, xavier_uniform
from atomsweep.nn.scatter import segment_sum

NUM_EMBEDDINGS = 100


class GNS(ForceField):
    """Messages m_st = F(e_st, h_s, h_t), updates h_t + BN(W sum_s m_st), forces from the last h.

    arXiv:2103.01436, Sec. 4.1 and App. B.

    Args:
        act: factory of the activation.
        hidden_channels: D.
        num_layers: number of message blocks.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        min_distance: distances over cutoff are clamped to this from below; None for no clamp.
        init: "xavier" is the paper's App. C, linear layers and embedding Xavier uniform; "port"
            leaves torch's own initialisation, as the public code does in part.
        aggregation: of an atom's messages, "sum" or "mean".
        edge_init_scale: spread over the edges, per channel, with which the edge inputs enter F
            before training: their weights are scaled to it. "auto" is `EDGE_SPREAD`; null leaves
            what `init` gives. Ours, not the paper's, as in ForceNet: docs/models.md.

    Raises:
        ValueError: there is no activation, or a size is not positive.
    """

    predicts_energy = False

    def __init__(
        self,
        act: ActFactory | None,
        hidden_channels: int,
        num_layers: int,
        cutoff: float,
        max_neighbors: int | None,
        min_distance: float | None,
        init: Literal["xavier", "port"] = "port",
        aggregation: Literal["sum", "mean"] = "sum",
        edge_init_scale: Literal["auto"] | float | None = None,
    ) -> None:
        super().__init__()
        act = needed_act(act, "GNS", "relu")
        require_positive(
            hidden_channels=hidden_channels,
            num_layers=num_layers,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
            min_distance=min_distance,
            edge_init_scale=None if edge_init_scale == "auto" else edge_init_scale,
        )
        self.edge_spread = EDGE_SPREAD if edge_init_scale == "auto" else edge_init_scale
        self.initialised_from_data = self.edge_spread is not None
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.edge_input = EdgeFeatures(cutoff, "full", min_distance)
        self.embedding = nn.Embedding(NUM_EMBEDDINGS, hidden_channels)
        self.blocks = nn.ModuleList(
            _Block(self.edge_input.out_dim, hidden_channels, act, aggregation == "mean")
            for _ in range(num_layers)
        )
        self.decoder = make_mlp(hidden_channels, hidden_channels, 3, act)
        if init == "xavier":
            xavier_uniform(self)
            nn.init.xavier_uniform_(self.embedding.weight)

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding, or without a radius."""
        beyond = range(NUM_EMBEDDINGS, MAX_ATOMIC_NUMBER + 1)
        return self.edge_input.unsupported_elements().union(beyond)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        """Scale each block's weights of edge inputs to the spread that is wanted.

        Where the edges do not differ nothing is scaled.
        """
        if self.edge_spread is None or batch.edge_index.shape[1] < 2:
            return
        edge = self.edge_input(edge_vectors(batch), batch.edge_index, batch.atomic_numbers).features
        for linear in (block.pair_linear for block in self.blocks if isinstance(block, _Block)):
            if (spread := linear.edge_spread(edge)) > 0:
                linear.weight[:, : linear.edge_dim] *= self.edge_spread / spread

    def forward(self, batch: Batch) -> Prediction:
        """Forces (N, 3) eV/Å."""
        self.check_elements_on_cpu(batch.atomic_numbers)
        edge_input = self.edge_input(edge_vectors(batch), batch.edge_index, batch.atomic_numbers)
        h = self.embedding(batch.atomic_numbers)  # (N, D)
        for block in self.blocks:
            h = block(h, edge_input.features, batch.edge_index)
        return Prediction(forces=self.decoder(h).to(batch.pos.dtype))


class _Block(nn.Module):
    def __init__(self, edge_dim: int, channels: int, act: ActFactory, mean: bool) -> None:
        super().__init__()
        self.mean = mean
        self.pair_linear = PairLinear(edge_dim, channels, channels)
        self.edge_mlp = nn.Sequential(nn.LayerNorm(channels), act(), nn.Linear(channels, channels))
        self.node_update = nn.Sequential(nn.Linear(channels, channels), nn.BatchNorm1d(channels))

    def forward(self, h: Tensor, edge: Tensor, edge_index: Tensor) -> Tensor:
        message = self.edge_mlp(self.pair_linear(edge, h, edge_index))  # (E, D)
        total = segment_sum(message.to(h.dtype), edge_index[1], h.shape[0])
        if self.mean:
            ones = total.new_ones(len(message), 1)
            total = total / segment_sum(ones, edge_index[1], h.shape[0]).clamp(min=1.0)
        return h + self.node_update(total)
