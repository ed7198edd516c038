"""Time of one ForceNet training step: as it runs, and with the per-edge concatenation it avoids.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--hidden-channels 512] [--structures 4]

Both are the same model with the same weights on the same batch of alloy slabs of 86 atoms, measured
in turns in one process. Times are CPU seconds of the whole process, the least of the repeats.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from unittest import mock

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch

from atomsweep.data.batching import atoms_to_batch
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models.forcenet import ForceNet
from atomsweep.nn.basis import SphericalBasis
from atomsweep.nn.mlp import PairLinear

METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au")


def slab(seed: int) -> Atoms:
    """A rattled fcc(111) slab of two metals, 4 x 4 x 5 atoms, with methanol on it: 86 atoms."""
    rng = np.random.default_rng(seed)
    first, second = rng.choice(METALS, 2, replace=False)
    atoms = fcc111(first, (4, 4, 5), a=3.9, vacuum=8.0, periodic=False)
    atoms.symbols[rng.random(len(atoms)) < 0.5] = second
    add_adsorbate(atoms, molecule("CH3OH"), height=2.0, position=(2.0, 2.0))
    atoms.rattle(0.1, seed=seed)
    return atoms


def concatenated(
    self: PairLinear,
    edge: Tensor,
    h: Tensor,
    edge_index: Tensor,
    edge_linear: nn.Linear | None = None,
) -> Tensor:
    """`PairLinear.forward` as the equation has it, over (E, K + 2C)."""
    if edge_linear is not None:
        edge = edge_linear(edge)
    return F.linear(
        torch.cat([edge, h[edge_index[0]], h[edge_index[1]]], dim=1), self.weight, self.bias
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, target: Tensor) -> None:
    """Forward, mean absolute error of the forces, backward, update."""
    optimizer.zero_grad()
    (model(batch).forces - target).abs().mean().backward()
    optimizer.step()


def fastest(
    variants: dict[str, Callable[[], AbstractContextManager]],
    work: Callable[[], None],
    repeats: int,
) -> dict[str, float]:
    """Least CPU seconds of `work` in each variant, after one unmeasured turn, in alternation."""
    seconds = dict.fromkeys(variants, float("inf"))
    for turn in range(repeats + 1):
        for name, patched in variants.items():
            with patched():
                start = time.process_time()
                work()
                spent = time.process_time() - start
            if turn:
                seconds[name] = min(seconds[name], spent)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden-channels", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=5)
    parser.add_argument("--structures", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    torch.manual_seed(0)
    batch = atoms_to_batch([slab(i) for i in range(options.structures)], RadiusGraph(6.0, 50))
    model = ForceNet(
        basis=SphericalBasis,
        act=nn.SiLU,
        hidden_channels=options.hidden_channels,
        num_layers=options.num_layers,
        decoder_channels=options.hidden_channels,
        cutoff=6.0,
        max_neighbors=50,
        min_distance=1e-3,
        share_basis_linear=False,
        post_encoder_linear=True,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    work = partial(step, model, optimizer, batch, torch.randn_like(batch.pos))
    patch = partial(mock.patch.object, PairLinear, "forward", concatenated)
    seconds = fastest({"concatenated": patch, "as it runs": nullcontext}, work, options.repeats)

    edges = batch.edge_index.shape[1]
    print(
        f"ForceNet D={options.hidden_channels} K={options.num_layers}, {options.structures} slabs, "
        f"{len(batch.pos)} atoms, {edges} edges, {torch.get_num_threads()} thread(s)"
    )
    for name, spent in seconds.items():
        print(f"{name:>14}  {spent:7.3f} s  {seconds['concatenated'] / spent:5.2f} x")


if __name__ == "__main__":
    main()
