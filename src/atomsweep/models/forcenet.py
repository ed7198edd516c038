"""ForceNet: direct forces from learned continuous filters (Hu et al., arXiv:2103.01436).

Built in: translation and permutation. Not built in: rotation, which is learned from rotated
structures, and energy conservation. Where paper and public port (Open Catalyst code v0.0.3 to
v0.1.0) differ, a switch has both readings; the defaults in conf/model/forcenet.yaml are those that
give the published parameter counts, which are the port's. docs/models.md lists the differences.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.graph.edges import edge_vectors
from atomsweep.models.base import ForceField, Prediction, require_positive
from atomsweep.nn.basis import ActFactory, Basis, BasisFactory, needed_act
from atomsweep.nn.cutoff import cosine_cutoff
from atomsweep.nn.edge_features import EdgeFeatures, EdgeFeatureSet
from atomsweep.nn.elements import PROPERTIES, element_properties, elements_without_properties
from atomsweep.nn.force_projection import ForceProjection
from atomsweep.nn.mlp import EDGE_SPREAD, PairLinear, make_mlp, xavier_uniform
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum


class ForceNet(ForceField):
    """Atoms exchange messages m_st = alpha(d_st) F_e(h_s, F_b(B(e_st)), h_t) ⊙ F_d(h_s).

    An atom's update is h_t + F_n(v ⊙ F_d(h_t) + sum_s m_st); forces are read from its last state.
    arXiv:2103.01436, Sec. 3.1. Ablations (1) to (7) are those of Table 3.

    Args:
        basis: factory of the edge basis B, called with `in_dim`; the atoms get the same family.
        act: factory of the activation.
        hidden_channels: D.
        num_layers: number of message blocks.
        decoder_channels: channels of the decoder, and of the layer in front of it.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.
        min_distance: distances over cutoff are clamped to this from below; None for no clamp.
        share_basis_linear: one F_b for all blocks, as the paper's text has it; False is one for
            each.
        post_encoder_linear: a linear layer and an activation between the last block and the
            decoder.
        edge_features: inputs of an edge; "only_dist" is ablation (1), "no_atomic_radii" ablation
            (2).
        condition_on_nodes: F_e sees h_s and h_t; False is ablation (3).
        num_edge_hidden: hidden layers of F_e.
        num_node_hidden: hidden layers of F_n.
        edge_linear_bn: F_e is a linear layer and a batch norm, ablation (5).
        node_linear_bn: F_n is a linear layer and a batch norm, ablation (6).
        filter_only: m_st is the filter alone and there is no self-message, ablation (4).
        keep_self_bias: with `filter_only`, v stays as a constant that is added to the sum, as in
            the port.
        self_message: an atom sends v ⊙ F_d(h_t) to itself; False is ablation (7).
        energy_head: also predict the energy, from the sum of the atoms' last states.
        init: "xavier" is the paper's App. C, all linear layers Xavier uniform; "port" leaves some
            layers to torch's own initialisation, as the public code does.
        edge_init_scale: spread over the edges, per channel, with which an edge's part enters the
            first layer of F_e before training: F_b is scaled to it. "auto" is `EDGE_SPREAD`; null
            leaves what `init` gives. Ours, not the paper's: docs/models.md.
        force_encoding: for DeNS, "edge_projection" adds forces projected on the edges to the
            inputs of F_b, and a second decoder for the noise. Ours, not the paper's.

    Raises:
        ValueError: a part is missing, or two switches contradict one another.
    """

    def __init__(
        self,
        basis: BasisFactory | None,
        act: ActFactory | None,
        hidden_channels: int,
        num_layers: int,
        decoder_channels: int,
        cutoff: float,
        max_neighbors: int | None,
        min_distance: float | None,
        share_basis_linear: bool,
        post_encoder_linear: bool,
        edge_features: EdgeFeatureSet = "full",
        condition_on_nodes: bool = True,
        num_edge_hidden: int = 2,
        num_node_hidden: int = 1,
        edge_linear_bn: bool = False,
        node_linear_bn: bool = False,
        filter_only: bool = False,
        keep_self_bias: bool = False,
        self_message: bool = True,
        energy_head: bool = False,
        init: Literal["xavier", "port"] = "port",
        edge_init_scale: Literal["auto"] | float | None = None,
        force_encoding: Literal["edge_projection"] | None = None,
    ) -> None:
        super().__init__()
        act = needed_act(act, "ForceNet", "swish")
        _check_filter(filter_only, self_message, keep_self_bias)
        require_positive(
            hidden_channels=hidden_channels,
            num_layers=num_layers,
            decoder_channels=decoder_channels,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
            edge_init_scale=None if edge_init_scale == "auto" else edge_init_scale,
        )
        self.edge_spread = EDGE_SPREAD if edge_init_scale == "auto" else edge_init_scale
        self.initialised_from_data = self.edge_spread is not None
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors
        self.predicts_energy = energy_head
        dens = force_encoding is not None
        self.supports_dens = self.supports_sigma = dens

        self.edge_input = EdgeFeatures(cutoff, edge_features, min_distance)
        self.edge_basis = _edge_basis(basis, self.edge_input, edge_features)
        self.node_basis = self.edge_basis.for_nodes(in_dim=len(PROPERTIES))
        self.register_buffer("element_properties", element_properties(), persistent=False)
        self.element_properties: Tensor
        self.force_projection = ForceProjection() if dens else None
        self.node_linear = nn.Linear(self.node_basis.out_dim, hidden_channels)

        edge_dim = self.edge_basis.out_dim
        if self.force_projection is not None:
            edge_dim += self.force_projection.out_dim
        make_linear = partial(nn.Linear, edge_dim, hidden_channels)  # F_b
        follows = self.edge_basis.linear_follows
        self.shared_basis_linear = make_linear() if follows and share_basis_linear else None
        self.blocks = nn.ModuleList(
            MessageBlock(
                hidden_channels,
                act,
                edge_dim=hidden_channels if follows else edge_dim,
                basis_linear=make_linear() if follows and not share_basis_linear else None,
                condition_on_nodes=condition_on_nodes,
                num_edge_hidden=num_edge_hidden,
                num_node_hidden=num_node_hidden,
                edge_linear_bn=edge_linear_bn,
                node_linear_bn=node_linear_bn,
                filter_only=filter_only,
                self_weight=self_message or keep_self_bias,
            )
            for _ in range(num_layers)
        )
        self.post_encoder: nn.Module = nn.Identity()
        encoded = hidden_channels
        if post_encoder_linear:
            encoded = decoder_channels
            self.post_encoder = nn.Sequential(nn.Linear(hidden_channels, encoded), act())
        make_decoder = partial(make_mlp, encoded, decoder_channels, 3, act, batch_norm=True)
        self.decoder = make_decoder()
        self.energy_head = nn.Linear(encoded, 1) if energy_head else None
        self.noise_decoder = make_decoder() if dens else None

        by_port = (self.decoder, self.noise_decoder, self.shared_basis_linear)  # beside the blocks
        for module in (self,) if init == "xavier" else by_port:
            if module is not None:
                xavier_uniform(module)

    def unsupported_elements(self) -> frozenset[int]:
        """Elements without the nine properties, or without a radius where radii are used."""
        return elements_without_properties() | self.edge_input.unsupported_elements()

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        """Scale each block's F_b, or W_e where there is none, to the spread that is wanted.

        A shared F_b is scaled by the mean of what the blocks ask for. Where the edges do not differ
        nothing is scaled.
        """
        if self.edge_spread is None or batch.edge_index.shape[1] < 2:
            return
        edge = self._embed_edges(batch)
        blocks = [block for block in self.blocks if isinstance(block, MessageBlock)]
        spreads = [block.edge_spread(edge) for block in blocks]
        if self.shared_basis_linear is not None:
            spreads = [sum(spreads) / len(spreads)]
        for spread, block in zip(spreads, blocks, strict=False):
            if spread > 0:
                block.scale_edge(self.edge_spread / spread, self.shared_basis_linear)

    def forward(self, batch: Batch) -> Prediction:
        """Forces (N, 3) eV/Å; energy (B,) eV and noise (N, 3) if there are heads for them."""
        self.check_elements_on_cpu(batch.atomic_numbers)

        # The fastest sine turns a rounding error of its argument into one a hundred times larger,
        # so the inputs stay in full precision under autocast, and so does the decoder with its
        # batch norm.
        with full_precision(batch.pos):
            edge = self._embed_edges(batch)
            properties = self.element_properties[batch.atomic_numbers]  # (N, 9)
            h = self.node_linear(self.node_basis(properties))  # (N, D)
        for block in self.blocks:
            h = block(h, edge)
        with full_precision(batch.pos):
            h = self.post_encoder(h)
            forces = self.decoder(h)
            energy = None
            if self.energy_head is not None:
                total = segment_sum(h, batch.batch, batch.cell.shape[0])
                energy = self.energy_head(total).squeeze(-1)
            noise = self.noise_decoder(h) if self.noise_decoder is not None else None
        return Prediction(energy=energy, forces=forces, noise=noise)

    def _embed_edges(self, batch: Batch) -> "_Edges":
        edge_vec = edge_vectors(batch)
        features, dist = self.edge_input(edge_vec, batch.edge_index, batch.atomic_numbers)
        weight = cosine_cutoff(dist, self.edge_input.cutoff)
        basis = self.edge_basis(features)
        if self.force_projection is not None:
            basis = torch.cat([basis, self.force_projection(batch, edge_vec)], dim=-1)
        return _Edges(
            batch.edge_index,
            basis,
            weight[:, None],
            self.shared_basis_linear,
        )


def _check_filter(filter_only: bool, self_message: bool, keep_self_bias: bool) -> None:
    if filter_only and self_message:
        raise ValueError(
            "filter_only has no F_d to make a self-message from; set self_message=false, "
            "and keep_self_bias=true for the constant that the public port adds"
        )
    if keep_self_bias and not filter_only:
        raise ValueError("keep_self_bias belongs to filter_only; set filter_only=true as well")


def _edge_basis(
    factory: BasisFactory | None, edge_input: EdgeFeatures, edge_features: str
) -> Basis:
    """The basis of the edges; their features get the range that it needs."""
    if factory is None:
        raise ValueError("ForceNet needs a basis, got null; choose one, e.g. basis=sph")
    basis = factory(in_dim=edge_input.out_dim)
    if basis.needs_direction and not edge_input.has_direction:
        raise ValueError(
            f"{type(basis).__name__} needs the direction of an edge, and "
            f"edge_features={edge_features} leaves it out; choose e.g. basis=sine"
        )
    edge_input.unit_range = basis.needs_unit_range
    return basis


class _Edges(NamedTuple):
    """What the blocks share: source and target (2, E), basis (E, K), weight (E, 1), shared F_b."""

    pairs: Tensor
    basis: Tensor
    weight: Tensor
    shared_basis_linear: nn.Linear | None


class MessageBlock(nn.Module):
    """One round of messages and the update of the atoms; the arguments are those of `ForceNet`.

    Args:
        hidden_channels: D.
        act: factory of the activation.
        edge_dim: width of an edge's input to F_e.
        basis_linear: this block's own F_b, if it has one.
        condition_on_nodes: F_e sees both atoms.
        num_edge_hidden: hidden layers of F_e.
        num_node_hidden: hidden layers of F_n.
        edge_linear_bn: F_e is a linear layer and a batch norm.
        node_linear_bn: F_n is a linear layer and a batch norm.
        filter_only: messages are the filter alone.
        self_weight: the vector v exists.

    Shape: (N, D) -> (N, D).
    """

    def __init__(
        self,
        hidden_channels: int,
        act: ActFactory,
        edge_dim: int,
        basis_linear: nn.Linear | None,
        condition_on_nodes: bool,
        num_edge_hidden: int,
        num_node_hidden: int,
        edge_linear_bn: bool,
        node_linear_bn: bool,
        filter_only: bool,
        self_weight: bool,
    ) -> None:
        super().__init__()
        channels = hidden_channels
        self.basis_linear = basis_linear  # F_b
        self.pair_linear = PairLinear(edge_dim, channels if condition_on_nodes else 0, channels)
        self.edge_mlp = (
            nn.BatchNorm1d(channels)
            if edge_linear_bn
            else nn.Sequential(
                act(), make_mlp(channels, channels, channels, act, num_edge_hidden - 1)
            )
        )
        self.source_linear = None if filter_only else nn.Linear(channels, channels)  # F_d
        self.node_mlp = (
            nn.Sequential(nn.Linear(channels, channels), nn.BatchNorm1d(channels))
            if node_linear_bn
            else make_mlp(channels, channels, channels, act, num_node_hidden, batch_norm=True)
        )
        xavier_uniform(self)
        self.self_weight = nn.Parameter(torch.empty(1, channels)) if self_weight else None  # v
        if self.self_weight is not None:
            nn.init.xavier_uniform_(self.self_weight)

    def _basis_linear(self, shared: nn.Linear | None) -> nn.Linear | None:
        return self.basis_linear if self.basis_linear is not None else shared

    def edge_spread(self, edge: _Edges) -> float:
        """Standard deviation over the edges of W_e F_b(b), root mean square over channels."""
        linear = self._basis_linear(edge.shared_basis_linear)
        inner = edge.basis if linear is None else F.linear(edge.basis, linear.weight)
        return self.pair_linear.edge_spread(inner)

    def scale_edge(self, factor: float, shared: nn.Linear | None) -> None:
        """Multiply F_b, or W_e where there is no F_b."""
        linear = self._basis_linear(shared)
        weight = self.pair_linear.weight[:, : self.pair_linear.edge_dim]
        (weight if linear is None else linear.weight).mul_(factor)

    def forward(self, h: Tensor, edge: _Edges) -> Tensor:
        """Shape: (N, D) -> (N, D)."""
        source, target = edge.pairs
        basis_linear = self._basis_linear(edge.shared_basis_linear)
        message = self.edge_mlp(self.pair_linear(edge.basis, h, edge.pairs, basis_linear))  # (E, D)
        sent = None
        if self.source_linear is not None:
            sent = self.source_linear(h)  # (N, D)
            message = message * sent.index_select(0, source)
        total = segment_sum(message * edge.weight, target, h.shape[0])
        if self.self_weight is not None:
            total = total + (self.self_weight if sent is None else self.self_weight * sent)
        return h + self.node_mlp(total)
