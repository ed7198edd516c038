"""Multi-layer perceptrons over atoms, and the linear layer over pairs of atoms."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomsweep.nn.precision import full_precision

EDGE_SPREAD = 0.7  # 0.5 is too little for basis=none, 1 too much for Linear + Act; docs/models.md


class PairLinear(nn.Linear):
    """A linear layer over an edge and its two atoms: y = W [e, h_source, h_target] + b.

    The concatenation (E, K + 2C) is never made. W falls into three parts, W_e, W_s and W_t; the
    products with h_source and h_target are made once for each atom and gathered to the edges, and a
    linear layer e = F_b(x) in front of W_e is folded into it, W_e W_b. The result is that of the
    concatenation up to rounding, for less than half of its cost; parameters have the shapes of the
    plain layer.

    Args:
        edge_dim: components of the edge input e, K.
        node_dim: channels of each atom, C; 0 if the layer sees the edge alone.
        out_dim: output channels, D.
    """

    def __init__(self, edge_dim: int, node_dim: int, out_dim: int) -> None:
        super().__init__(edge_dim + 2 * node_dim, out_dim)
        self.edge_dim = edge_dim
        self.node_dim = node_dim

    def edge_spread(self, edge: Tensor) -> float:
        """Standard deviation over the edges of W_e e, root mean square over channels.

        Shape: (E, K).
        """
        entering = F.linear(edge, self.weight[:, : self.edge_dim])  # (E, D)
        return float(entering.var(0).mean().sqrt())

    def forward(  # type: ignore[override]
        self, edge: Tensor, h: Tensor, edge_index: Tensor, edge_linear: nn.Linear | None = None
    ) -> Tensor:
        """Apply the layer to every edge.

        Args:
            edge: e, or the input x of `edge_linear`.
            h: atoms; not read if `node_dim` is 0.
            edge_index: source and target of every edge.
            edge_linear: F_b, a linear layer between `edge` and this one.

        Shape: (E, K), (N, C), (2, E) -> (E, D).
        """
        edge_weight, *node_weights = self.weight.split(
            [self.edge_dim] + ([self.node_dim] * 2 if self.node_dim else []), dim=1
        )
        bias: Tensor = self.bias
        if edge_linear is not None:
            with full_precision(edge):  # the product is rounded once, not twice
                bias = torch.addmv(bias, edge_weight, edge_linear.bias)
                edge_weight = edge_weight @ edge_linear.weight
        out = F.linear(edge, edge_weight, bias)
        for weight, atom in zip(node_weights, edge_index, strict=False):
            out += F.linear(h, weight).index_select(0, atom)
        return out


def make_mlp(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    act: Callable[[], nn.Module],
    num_hidden: int = 1,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Linear layers with an activation, and if asked a batch norm, behind all but the last.

    Args:
        in_dim: input channels.
        hidden_dim: channels of the hidden layers.
        out_dim: output channels.
        act: factory of the activation.
        num_hidden: hidden layers; 0 gives one linear layer.
        batch_norm: put BatchNorm1d between each hidden linear layer and its activation.

    Shape: (..., in_dim) -> (..., out_dim).
    """
    layers: list[nn.Module] = []
    for _ in range(num_hidden):
        layers.append(nn.Linear(in_dim, hidden_dim))
        if batch_norm:
            layers.append(nn.BatchNorm1d(hidden_dim))
        layers.append(act())
        in_dim = hidden_dim
    layers.append(nn.Linear(in_dim, out_dim))
    return nn.Sequential(*layers)


def stacked_mlp(
    widths: Sequence[int], act: Callable[[], nn.Module], act_last: bool = False
) -> nn.Sequential:
    """Linear layers of the given widths with an activation between them.

    Args:
        widths: channels of the input and of every layer; a single one gives no layer.
        act: factory of the activation.
        act_last: put one behind the last layer too.

    Shape: (..., widths[0]) -> (..., widths[-1]).
    """
    layers: list[nn.Module] = []
    for in_dim, out_dim in pairwise(widths):
        layers += [nn.Linear(in_dim, out_dim), act()]
    return nn.Sequential(*(layers if act_last else layers[:-1]))


def xavier_uniform(module: nn.Module) -> None:
    """Set the linear layers below `module` to Xavier-uniform weights and zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
