"""Set2Set: what a sequence of soft looks at a set remembers of it."""

import torch
from torch import Tensor, nn

from atomsweep.nn.precision import full_precision
from atomsweep.nn.scatter import segment_softmax, segment_sum


class Set2Set(nn.Module):
    """Invariant under order: q = LSTM([q, r]), r = sum_i softmax_i(x_i · q) x_i, some steps long.

    Vinyals et al., arXiv:1511.06391, Sec. 4.2, with [q, r] and all states zero at first. Values and
    initialisation are those of torch_geometric's Set2Set; written in plain operations, because the
    fused LSTM of CUDA cannot be differentiated twice, as a loss on forces needs.

    Args:
        channels: C.
        num_layers: LSTM cells on top of one another.
        num_steps: looks.

    Shape: (M, C), (M,) -> (num_segments, 2C).
    """

    def __init__(self, channels: int, num_layers: int, num_steps: int) -> None:
        super().__init__()
        self.channels = channels
        self.num_steps = num_steps
        self.cells = nn.ModuleList(
            _Cell(channels if layer else 2 * channels, channels) for layer in range(num_layers)
        )

    def forward(self, x: Tensor, index: Tensor, num_segments: int) -> Tensor:
        """Summarise each segment; one without rows sees r = 0.

        Args:
            x: rows of all sets.
            index: set of each row.
            num_segments: number of sets, B.
        """
        with full_precision(x):
            empty = x.new_zeros(num_segments, self.channels)
            hidden, memory = [empty] * len(self.cells), [empty] * len(self.cells)
            query = read = empty
            for _ in range(self.num_steps):
                signal = torch.cat([query, read], dim=1)
                for layer, cell in enumerate(self.cells):
                    hidden[layer], memory[layer] = cell(signal, hidden[layer], memory[layer])
                    signal = hidden[layer]
                query = signal  # (B, C)
                logits = (x * query.index_select(0, index)).sum(dim=1, keepdim=True)
                weight = segment_softmax(logits, index, num_segments)
                read = segment_sum(weight * x, index, num_segments)
            return torch.cat([query, read], dim=1)


class _Cell(nn.Module):
    """One step of an LSTM: gates i, f, g, o, as in torch.nn.LSTM."""

    def __init__(self, in_dim: int, channels: int) -> None:
        super().__init__()
        self.input_linear = nn.Linear(in_dim, 4 * channels)
        self.hidden_linear = nn.Linear(channels, 4 * channels)
        for weight in self.parameters():
            nn.init.uniform_(weight, -(channels**-0.5), channels**-0.5)

    def forward(self, x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: (B, in_dim), (B, C), (B, C) -> (B, C), (B, C)."""
        gates = (self.input_linear(x) + self.hidden_linear(hidden)).chunk(4, dim=1)
        write, keep, show = (torch.sigmoid(gates[gate]) for gate in (0, 1, 3))
        memory = keep * memory + write * torch.tanh(gates[2])
        return show * torch.tanh(memory), memory
