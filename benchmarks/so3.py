"""Time of the equivariant algebra, of a layer and of a training step, against code built on e3nn.

    OMP_NUM_THREADS=1 python benchmarks/so3.py [--model equiformer_v2_small] [--repeats 3]

Reference in the same process, with the same weights, measured in turns: Wigner-D from e3nn, an
SO(2) convolution that permutes, concatenates and makes the complex product in four, and for the
step a network whose rotations, grids (e3nn's ToS2Grid and FromS2Grid tables), convolutions and
gathers are done that way. Times are CPU seconds of the process, the least of the repeats.
`--model equiformer_v2_31m` takes about half a minute for each repeat.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from e3nn import o3
from torch import Tensor
from torch.nn import functional as F

from atomsweep.data.batches.graphs import atoms_to_batch
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.nn.so3 import grid, rotations, so2, wigner
from atomsweep.nn.so3.layout import m_primary

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_step import slab  # noqa: E402
from tests.contracts.compose import build_model  # noqa: E402

# e3nn makes and checks them in every call, on the CPU alone
GENERATORS = [o3._wigner.so3_generators(degree) for degree in range(8)]


def e3nn_wigner(rotation: Tensor, l_max: int) -> list[Tensor]:
    """Blocks of all degrees by matrix exponentials of e3nn's generators, on any device.

    e3nn's own functions look at values, for which a GPU would wait, and mix tensors of two devices.
    """
    alpha, beta = o3.xyz_to_angles(rotation[..., 1])
    rest = o3.angles_to_matrix(alpha, beta, torch.zeros_like(beta)).mT @ rotation
    gamma = torch.atan2(rest[..., 0, 2], rest[..., 0, 0])
    blocks = []
    for about_x, about_y, _ in (made.to(rotation) for made in GENERATORS[: l_max + 1]):
        turns = ((alpha, about_y), (beta, about_x), (gamma, about_y))
        first, second, third = (torch.matrix_exp(a[:, None, None] * axis) for a, axis in turns)
        blocks.append(first @ second @ third)
    return blocks


def edge_matrices(self: wigner.EdgeWigner, direction: Tensor) -> Tensor:
    """`EdgeWigner.forward` over e3nn: dense blocks, then the rows that are kept."""
    blocks = e3nn_wigner(wigner.edge_rotation(direction), self.l_max)
    dense = direction.new_zeros(len(direction), self.shape[1], self.shape[1])
    for degree, block in enumerate(blocks):
        part = slice(degree**2, (degree + 1) ** 2)
        dense[:, part, part] = block
    m_max = next(m for m in range(self.l_max + 1) if len(m_primary(self.l_max, m)) == self.shape[0])
    return dense[:, torch.as_tensor(m_primary(self.l_max, m_max))]


def gather(self: rotations.Rotations, x: Tensor, pairs: Tensor) -> Tensor:
    """`Rotations.into_pairs` as indexing and concatenation."""
    return torch.bmm(self.there, torch.cat([x[pairs[0]], x[pairs[1]]], 2))


def convolution(
    self: so2.SO2Convolution, x: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`SO2Convolution.forward` with two rows for each pair ±m, joined afterwards."""
    start, used, outputs = self.sizes[0], self.sizes[0] * x.shape[2], []
    first = x[:, :start].flatten(1)
    scalars = self.m0(first if weights is None else first * weights[:, :used])
    extra, rows = scalars[:, : self.extra_scalars], scalars[:, self.extra_scalars :]
    outputs.append(rows.unflatten(1, (-1, self.out_channels)))
    for size, layer in zip(self.sizes[1:], self.pairs, strict=True):
        part = x[:, start : start + 2 * size].reshape(len(x), 2, size * x.shape[2])
        if weights is not None:
            part = part * weights[:, None, used : used + size * x.shape[2]]
        real, imag = layer(part).chunk(2, 2)
        both = torch.cat([real[:, :1] - imag[:, 1:], real[:, 1:] + imag[:, :1]], 1)
        outputs.append(both.reshape(len(x), 2 * size, self.out_channels))
        start, used = start + 2 * size, used + size * x.shape[2]
    return torch.cat(outputs, 1), extra


def whole_grid(x: Tensor, to_grid: Tensor, from_grid: Tensor) -> Tensor:
    """`grid._grid_silu` with all values on the grid at once."""
    values = F.silu(torch.einsum("gr,erc->egc", to_grid, x))
    return torch.einsum("rg,egc->erc", from_grid, values)


def over_e3nn() -> ExitStack:
    """Everything that is patched for the reference."""
    stack = ExitStack()
    for owner, name, function in (
        (wigner.EdgeWigner, "forward", edge_matrices),
        (rotations.Rotations, "into_pairs", gather),
        (so2.SO2Convolution, "forward", convolution),
        (grid, "_grid_silu", whole_grid),
    ):
        stack.enter_context(mock.patch.object(owner, name, function))
    return stack


def fastest(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each, after one unmeasured turn, in alternation."""
    seconds = dict.fromkeys(work, float("inf"))
    for turn in range(repeats + 1):
        for name, function in work.items():
            start = time.process_time()
            function()
            if turn:
                seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def show(title: str, seconds: dict[str, float]) -> None:
    """One line for each, with its gain over the first."""
    first = next(iter(seconds.values()))
    for name, spent in seconds.items():
        print(f"{title:<44} {name:<10} {1e3 * spent:10.2f} ms {first / spent:6.1f} x")


def wigner_table(edges: int, repeats: int) -> None:
    """Matrices of random rotations."""
    for degrees in (range(3), range(5), range(7), (6,)):
        module = wigner.Wigner(degrees)
        vec = torch.randn(edges, 3)
        rotation = wigner.edge_rotation(vec / vec.norm(dim=1, keepdim=True))
        angles = o3.matrix_to_angles(rotation)
        work = {
            "e3nn": lambda: [o3.wigner_D(degree, *angles) for degree in degrees],  # noqa: B023
            "ours": lambda: module(rotation),  # noqa: B023
        }
        title = f"Wigner-D, {edges} rotations, l = {min(degrees)} ... {max(degrees)}"
        show(title, fastest(work, repeats))


def convolution_table(edges: int, repeats: int) -> None:
    """Forward and backward of EquiformerV2's first convolution, L = 6, M = 2."""
    layer = so2.SO2Convolution(256, 64, 6, 2, extra_scalars=576)
    x = torch.randn(edges, 29, 256, requires_grad=True)
    weights = torch.randn(edges, layer.num_weights)

    def step(forward: Callable[..., tuple[Tensor, Tensor]]) -> None:
        out, extra = forward(layer, x, weights)
        (out.sum() + extra.sum()).backward()

    work = {
        "e3nn way": lambda: step(convolution),
        "ours": lambda: step(so2.SO2Convolution.forward),
    }
    show(f"SO(2) convolution, {edges} edges, both passes", fastest(work, repeats))


def step_table(name: str, repeats: int) -> None:
    """Forward and backward of energies and forces on two slabs of 86 atoms."""
    torch.manual_seed(0)
    model = build_model([f"model={name}"]).eval()  # no dropout: the same work in both
    batch = atoms_to_batch([slab(0), slab(1)], RadiusGraph(model.cutoff, model.max_neighbors))

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        prediction = model(batch)
        (prediction.energy.abs().sum() + prediction.forces.norm(dim=1).sum()).backward()
        return prediction.forces.detach()

    def reference() -> Tensor:
        with over_e3nn():
            return step()

    ours, theirs = step(), reference()
    difference = (ours - theirs).abs().max() / theirs.abs().max()
    edges = batch.edge_index.shape[1]
    seconds = fastest({"e3nn way": reference, "ours": step}, repeats)
    show(f"step of {name}, {len(batch.pos)} atoms, {edges} edges", seconds)
    print(f"{'':<44} forces differ by {difference:.1e} of the largest")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="equiformer_v2_small")
    parser.add_argument("--edges", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")
    wigner_table(options.edges, options.repeats)
    convolution_table(options.edges, options.repeats)
    step_table(options.model, options.repeats)


if __name__ == "__main__":
    main()
