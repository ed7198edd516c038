"""MegNet: atoms, edges and the whole structure inform one another (Chen et al., arXiv:1812.05055).

As the Open MatSci ML Toolkit has it (`MEGNet`, November 2022; arXiv:2210.17484), on periodic edges
and without the coordinates that its later atoms carry. Forces are -dE/dx. The energy is one of the
structure, not a sum over atoms: two copies have the energy of one, and atoms beyond the cutoff see
one another through means. No message has a cutoff weight, so the energy jumps at the cutoff.
"""

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.models.base import EnergyForceField, require_positive
from atomsweep.nn.basis import ActFactory, needed_act
from atomsweep.nn.elements import MAX_ATOMIC_NUMBER
from atomsweep.nn.mlp import PairLinear, stacked_mlp
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum
from atomsweep.nn.set2set import Set2Set

NUM_EMBEDDINGS = 100
NUM_EDGE_FEATURES = 2
NUM_GRAPH_VARIABLES = 9
ADSORBATE = 2  # of tags
ROUNDING = 0.01  # Å, below which a root is rounded off


class MegNet(EnergyForceField):
    """e' = F_e(v_s, v_t, e, u), v' = F_v(v, mean e', u), u' = F_u(u, mean e', mean v'), and skips.

    arXiv:1812.05055, eqs. 1-5. Edges start as distance and reduced "mass" Z_s Z_t / (Z_s + Z_t),
    atoms as an embedding, the structure as nine `graph_variables`. All perceptrons are activated
    behind their last layer; every block but the first has one in front for each of e, v and u. The
    energy is read from Set2Set of v, Set2Set of e, and u.

    Args:
        act: factory of the activation.
        num_layers: number of blocks.
        encoder_channels: widths of the encoders and of the perceptrons in front of a block; the
            first is that of the embedding.
        block_channels: widths of F_e, F_v and F_u; ends as `encoder_channels`.
        output_channels: widths of the perceptron to the energy, before its last layer.
        set2set_layers: LSTM cells of Set2Set.
        set2set_steps: looks of Set2Set.
        dropout: share of channels dropped behind each block and before the last perceptron.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.

    Raises:
        ValueError: there is no activation, a size is not positive, or widths do not fit.
    """

    def __init__(
        self,
        act: ActFactory | None,
        num_layers: int,
        encoder_channels: list[int],
        block_channels: list[int],
        output_channels: list[int],
        set2set_layers: int,
        set2set_steps: int,
        dropout: float,
        cutoff: float,
        max_neighbors: int | None,
    ) -> None:
        super().__init__()
        require_positive(
            num_layers=num_layers,
            encoder_channels=encoder_channels,
            block_channels=block_channels,
            output_channels=output_channels,
            set2set_layers=set2set_layers,
            set2set_steps=set2set_steps,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
        )
        act = needed_act(act, "MegNet", "softplus")
        if encoder_channels[-1] != block_channels[-1]:
            raise ValueError(
                "model.encoder_channels and model.block_channels must end alike, because blocks "
                f"have skips, got {encoder_channels[-1]} and {block_channels[-1]}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        self.cutoff: float = cutoff
        self.max_neighbors = max_neighbors
        channels = encoder_channels[-1]
        self.embedding = nn.Embedding(NUM_EMBEDDINGS, encoder_channels[0])
        self.node_encoder = stacked_mlp(encoder_channels, act, act_last=True)
        self.edge_encoder = stacked_mlp([NUM_EDGE_FEATURES, *encoder_channels], act, act_last=True)
        self.graph_encoder = stacked_mlp(
            [NUM_GRAPH_VARIABLES, *encoder_channels], act, act_last=True
        )
        self.blocks = nn.ModuleList(
            _Block(channels, encoder_channels if block else [], block_channels, dropout, act)
            for block in range(num_layers)
        )
        self.node_summary = Set2Set(channels, set2set_layers, set2set_steps)
        self.edge_summary = Set2Set(channels, set2set_layers, set2set_steps)
        self.dropout = nn.Dropout(dropout)
        self.output = stacked_mlp([5 * channels, *output_channels, 1], act)

    def unsupported_elements(self) -> frozenset[int]:
        """Elements beyond the embedding, and the empty one."""
        return frozenset({0, *range(NUM_EMBEDDINGS, MAX_ATOMIC_NUMBER + 1)})

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,) eV."""
        where = _Places(batch)
        with full_precision(batch.pos):
            features = edge_features(batch, edge_vec)  # (E, 2)
            e = self.edge_encoder(features)  # (E, C)
            v = self.node_encoder(self.embedding(batch.atomic_numbers))  # (N, C)
            u = self.graph_encoder(graph_variables(batch, edge_vec, features))  # (B, C)
        for block in self.blocks:
            e, v, u = block(e, v, u, where)
        with full_precision(batch.pos):
            nodes = self.node_summary(v, where.atoms, where.num)
            edges = self.edge_summary(e, where.edges, where.num)
            summary = self.dropout(torch.cat([nodes, edges, u], dim=1))  # (B, 5C)
            return self.output(summary).squeeze(-1)


class _Places:
    """Where edges and atoms belong, and means over them; of no rows the mean is 0."""

    def __init__(self, batch: Batch) -> None:
        self.edge_index = batch.edge_index
        self.atoms = batch.batch  # (N,)
        self.edges = batch.batch.index_select(0, batch.edge_index[1])  # (E,)
        self.num = batch.cell.shape[0]

    def mean(self, values: Tensor, index: Tensor, num: int) -> Tensor:
        """Shape: (M, C), (M,) -> (num, C)."""
        count = segment_sum(values.new_ones(len(values), 1), index, num)
        return segment_sum(values, index, num) / count.clamp(min=1.0)


class _Block(nn.Module):
    def __init__(
        self,
        channels: int,
        front: list[int],
        widths: list[int],
        dropout: float,
        act: ActFactory,
    ) -> None:
        super().__init__()
        self.fronts = nn.ModuleList(
            stacked_mlp([channels, *front] if front else [channels], act, act_last=True)
            for _ in range(3)
        )
        self.pair_linear = PairLinear(2 * channels, channels, widths[0])
        self.edge_mlp = nn.Sequential(act(), *stacked_mlp(widths, act, act_last=True))
        self.node_mlp = stacked_mlp([3 * channels, *widths], act, act_last=True)
        self.graph_mlp = stacked_mlp([3 * channels, *widths], act, act_last=True)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, e: Tensor, v: Tensor, u: Tensor, where: _Places
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: (E, C), (N, C), (B, C) -> the same."""
        before = (e, v, u)
        e, v, u = (front(x) for front, x in zip(self.fronts, before, strict=True))
        edge = torch.cat([e, u.index_select(0, where.edges)], dim=1)  # (E, 2C)
        e = self.edge_mlp(self.pair_linear(edge, v, where.edge_index)).to(before[0].dtype)
        into = where.mean(e, where.edge_index[1], len(v))
        v = self.node_mlp(torch.cat([v, into, u.index_select(0, where.atoms)], dim=1))
        v = v.to(before[1].dtype)
        means = where.mean(e, where.edges, where.num), where.mean(v, where.atoms, where.num)
        u = self.graph_mlp(torch.cat([u, *means], dim=1)).to(before[2].dtype)
        e, v, u = (old + self.dropout(new) for old, new in zip(before, (e, v, u), strict=True))
        return e, v, u


def edge_features(batch: Batch, edge_vec: Tensor) -> Tensor:
    """Distance (Å) and reduced "mass" of the atomic numbers. Shape: (E, 2)."""
    source, target = batch.atomic_numbers.to(edge_vec.dtype)[batch.edge_index]
    dist = torch.linalg.vector_norm(edge_vec, dim=1)
    return torch.stack([dist, source * target / (source + target)], dim=1)


def graph_variables(batch: Batch, edge_vec: Tensor, features: Tensor) -> Tensor:
    """Nine numbers of a structure that are blind to where the cell begins.

    Mean and standard deviation of Z over the adsorbate (tag 2); the same over the rest; means of
    distance and of reduced mass over the edges; their standard deviations; and the distance of the
    adsorbate's centre from that of the rest, both weighted with Z. A mean over nothing is 0, and so
    is the deviation of one. Without tags all atoms are the rest.

    Ours: deviations are over n, not n - 1, so a supercell keeps them. A periodic substrate has no
    centre, so we take that of what the adsorbate sees of it: |Σ Z_a Z_r d_ar / Σ Z_a Z_r| over the
    edges between both, which is the distance of the two centres where every pair is an edge, and 0
    where there is none. Roots are rounded off below 0.01 Å, where they have no derivative.

    Args:
        batch: structures.
        edge_vec: (E, 3) Å.
        features: (E, 2), see `edge_features`.

    Shape: -> (B, 9).
    """
    where = _Places(batch)
    numbers = batch.atomic_numbers.to(edge_vec.dtype)[:, None]  # (N, 1)
    tags = batch[keys.TAGS] if keys.TAGS in batch else torch.zeros_like(batch.atomic_numbers)
    adsorbate = tags == ADSORBATE
    columns = []
    for part in (adsorbate, ~adsorbate):
        mean, variance = _moments(numbers, part[:, None], where.atoms, where.num)
        columns += [mean, variance.sqrt()]
    every = torch.ones_like(features[:, :1], dtype=torch.bool)
    dist, mass = features[:, :1], features[:, 1:].detach()  # masses do not depend on positions
    dist_mean, dist_variance = _moments(dist, every, where.edges, where.num)
    mass_mean, mass_variance = _moments(mass, every, where.edges, where.num)
    columns += [dist_mean, mass_mean, _rounded_root(dist_variance), mass_variance.sqrt()]
    source, target = where.edge_index
    sign = adsorbate[target].to(edge_vec.dtype) - adsorbate[source].to(edge_vec.dtype)  # out: +
    weight = (numbers[source] * numbers[target]) * sign[:, None]  # (E, 1)
    total = segment_sum(weight.abs(), where.edges, where.num).clamp(min=1.0)
    apart = segment_sum(weight * edge_vec, where.edges, where.num) / total  # (B, 3) Å
    columns.append(_rounded_root(apart.square().sum(dim=1, keepdim=True)))
    return torch.cat(columns, dim=1)


def _moments(values: Tensor, kept: Tensor, index: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the rows that are kept. Shape: (M, C), (M, 1), (M,) -> two (num, C)."""
    weight = kept.to(values.dtype)
    count = segment_sum(weight, index, num).clamp(min=1.0)
    mean = segment_sum(weight * values, index, num) / count
    away = weight * (values - mean.index_select(0, index))
    return mean, segment_sum(away.square(), index, num) / count


def _rounded_root(square: Tensor) -> Tensor:
    """x² -> x, but smooth at 0, where it is 0: x² / sqrt(x² + ε²)."""
    return square / (square + ROUNDING**2).sqrt()
