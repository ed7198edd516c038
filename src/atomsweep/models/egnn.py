"""E(n)-GNN: messages of distances, and positions that move (Satorras et al., arXiv:2102.09844).

As the Open MatSci ML Toolkit has it (`PLEGNNBackbone`, October 2022; arXiv:2210.17484). That code
took differences of coordinates along periodic edges; here every vector is the edge's. Forces are
-dE/dx. Messages have no cutoff weight, so the energy jumps at the cutoff. The energy ignores
autocast: these networks are narrow, and rounded messages cost a tenth of the forces.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from atomsweep.models.base import EnergyForceField, require_positive
from atomsweep.nn.basis import ActFactory, needed_act
from atomsweep.nn.mlp import PairLinear, stacked_mlp, xavier_uniform
from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_sum

DISTANCE_OFFSET = 0.1  # Å; directions are d / (|d| + 0.1) in the public code
POSITION_GAIN = 1e-3  # positions hardly move at the start, as in the public code
MIDDLE_ELEMENT, ELEMENT_SPREAD = 30.0, 20.0  # of atomic numbers, about those of OC20


class EGNN(EnergyForceField):
    """m_ji = F_e(h_j, h_i, |d_ji|²), h_i + F_h(h_i, Σ_j m_ji), u_i + Σ_j tanh(F_x(m_ji)) d_ji.

    arXiv:2102.09844, eqs. 3-6, with d_ji over |d_ji| + 0.1 Å in the sum. Atoms move by u_i, zero at
    first, and d_ji = edge_vec_ji + u_j - u_i, which is right for every periodic image. An atom
    enters as one float, and an activation stands between layers. The last F_x moves nothing that is
    read; its weights are kept for the count, and not trained.

    Ours: the float is (Z - 30) / 20, not Z, which drowned the distances, and weights start as
    Xavier's. The functions that can be learned are the same.

    Args:
        act: factory of the activation.
        hidden_channels: channels of an atom, H.
        num_layers: number of message layers.
        message_channels: widths of F_e, activated behind the last too.
        node_channels: widths of F_h before its last layer to H.
        position_channels: widths of F_x before its last layer to one number.
        projection_channels: widths of the perceptron on the last h.
        output_channels: widths of the perceptron to the energy, before its last layer.
        readout: what the second perceptron sees: "atoms", each atom, and energies are summed;
            "structure", the sum of all atoms, as in 2022, which makes distant atoms depend on one
            another. The same parameters.
        cutoff: radius of the graph, Å.
        max_neighbors: neighbours kept for each atom, nearest first; None keeps all.

    Raises:
        ValueError: there is no activation, or a size is not positive.
    """

    def __init__(
        self,
        act: ActFactory | None,
        hidden_channels: int,
        num_layers: int,
        message_channels: list[int],
        node_channels: list[int],
        position_channels: list[int],
        projection_channels: list[int],
        output_channels: list[int],
        readout: Literal["atoms", "structure"],
        cutoff: float,
        max_neighbors: int | None,
    ) -> None:
        super().__init__()
        require_positive(
            hidden_channels=hidden_channels,
            num_layers=num_layers,
            message_channels=message_channels,
            node_channels=node_channels,
            position_channels=position_channels,
            projection_channels=projection_channels,
            output_channels=output_channels,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
        )
        act = needed_act(act, "EGNN", "relu")
        if readout not in ("atoms", "structure"):
            raise ValueError(f"model.readout must be atoms or structure, got {readout!r}")
        self.cutoff: float = cutoff
        self.max_neighbors = max_neighbors
        self.readout = readout
        self.embedding = nn.Linear(1, hidden_channels)
        self.layers = nn.ModuleList(
            _Layer(hidden_channels, message_channels, node_channels, position_channels, act)
            for _ in range(num_layers)
        )
        self.act = act()
        self.projection = stacked_mlp([hidden_channels, *projection_channels], act)
        self.output = stacked_mlp([projection_channels[-1], *output_channels, 1], act)
        xavier_uniform(self)
        for layer in self.layers:
            *_, last = layer.get_submodule("position_mlp").parameters()
            nn.init.xavier_uniform_(last, gain=POSITION_GAIN)
        self.layers[-1].get_submodule("position_mlp").requires_grad_(False)

    def unsupported_elements(self) -> frozenset[int]:
        """The empty one."""
        return frozenset({0})

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,) eV."""
        with full_precision(batch.pos):
            numbers = batch.atomic_numbers.to(batch.pos.dtype)[:, None]
            h = self.embedding((numbers - MIDDLE_ELEMENT) / ELEMENT_SPREAD)  # (N, H)
            shift = torch.zeros_like(batch.pos)  # u, Å
            for number, layer in enumerate(self.layers):
                if number:
                    h = self.act(h)
                moves = number + 1 < len(self.layers)
                h, shift = layer(h, shift, edge_vec, batch.edge_index, moves)
            atoms = self.projection(h)  # (N, P)
            if self.readout == "atoms":
                atoms = self.output(atoms)
            total = segment_sum(atoms, batch.batch, batch.cell.shape[0])
            if self.readout == "structure":
                total = self.output(total)
            return total.squeeze(-1)


class _Layer(nn.Module):
    def __init__(
        self,
        channels: int,
        message: list[int],
        node: list[int],
        position: list[int],
        act: ActFactory,
    ) -> None:
        super().__init__()
        self.pair_linear = PairLinear(1, channels, message[0])
        self.message_mlp = nn.Sequential(act(), *stacked_mlp(message, act, act_last=True))
        self.node_mlp = stacked_mlp([channels + message[-1], *node, channels], act)
        self.position_mlp = stacked_mlp([message[-1], *position], act, act_last=True)
        self.position_mlp.append(nn.Linear(position[-1], 1, bias=False))

    def forward(
        self, h: Tensor, shift: Tensor, edge_vec: Tensor, edge_index: Tensor, moves: bool
    ) -> tuple[Tensor, Tensor]:
        """New h and u. Shape: (N, H), (N, 3), (E, 3), (2, E) -> (N, H), (N, 3)."""
        source, target = edge_index
        vec = edge_vec + shift.index_select(0, source) - shift.index_select(0, target)
        squared = vec.square().sum(dim=1, keepdim=True)  # (E, 1), Å²
        message = self.message_mlp(self.pair_linear(squared, h, edge_index))  # (E, M)
        total = segment_sum(message, target, h.shape[0])
        if moves:
            step = torch.tanh(self.position_mlp(message))  # (E, 1)
            direction = vec / (squared.sqrt() + DISTANCE_OFFSET)
            shift = shift + segment_sum(direction * step, target, h.shape[0])
        return h + self.node_mlp(torch.cat([h, total], dim=1)), shift
