"""Time and memory of one training step of each model, beside what it could have been built of.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--size small] [--device cuda]

Models are those of conf/model/, on the same batch of alloy slabs of 86 atoms. Compared with: SchNet
and DimeNet++ of torch_geometric, of the same size (of DimeNet++ its blocks over listed triplets,
since its own forward knows no cells); Gala with everything kept for the backward; the others with
the concatenation that `PairLinear` avoids. Each pair is measured in turns in one process. Times are
CPU seconds of the process (wall time
on a GPU), the least of the repeats. Memory is the largest sum of tensors that a step made and
that were alive at once. FLOPs are those of matrix products: where they bound a model, it can be
no faster than their ratio.
"""

import argparse
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch_geometric.data import Batch
from torch_geometric.nn import DimeNetPlusPlus, SchNet

from atomsweep.data.batches.graphs import atoms_to_batch
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models import gala
from atomsweep.models.base import EnergyForceField, ForceField
from atomsweep.nn.mlp import PairLinear

METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au")
MODELS = (
    "gns", "schnet", "dimenet_pp", "dimenet_pp_large", "forcenet", "forcenet_large",
    "egnn_72k", "egnn_629k", "megnet_986k", "megnet_1_2m", "gala",
)  # fmt: skip
CONF = Path(__file__).parents[1] / "conf"


def slab(seed: int) -> Atoms:
    """A rattled fcc(111) slab of two metals, 4 x 4 x 5 atoms, with methanol on it: 86 atoms."""
    rng = np.random.default_rng(seed)
    first, second = rng.choice(METALS, 2, replace=False)
    atoms = fcc111(first, (4, 4, 5), a=3.9, vacuum=8.0, periodic=False)
    atoms.symbols[rng.random(len(atoms)) < 0.5] = second
    add_adsorbate(atoms, molecule("CH3OH"), height=2.0, position=(2.0, 2.0))
    tags = [2] * 6 + [1] * 16 + [0] * 64  # adsorbate, surface, below it: as in OC20
    atoms.set_tags(np.array(tags)[np.argsort(np.argsort(-atoms.positions[:, 2], kind="stable"))])
    atoms.rattle(0.1, seed=seed)
    return atoms


# What the models are compared with


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


class PublicSchNet(EnergyForceField):
    """torch_geometric's SchNet over the edges of the batch."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.cutoff, self.max_neighbors = ours.cutoff, ours.max_neighbors
        self.net = SchNet(
            hidden_channels=ours.embedding.embedding_dim,
            num_filters=ours.blocks[0].source_linear.out_features,
            num_interactions=len(ours.blocks),
            num_gaussians=ours.num_gaussians,
            cutoff=ours.cutoff,
            interaction_graph=lambda pos, structure: self.edges,
        )

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,)."""
        self.edges = batch.edge_index, edge_vec.norm(dim=-1)
        return self.net(batch.atomic_numbers, batch.pos, batch.batch).squeeze(-1)


class PublicDimeNet(EnergyForceField):
    """torch_geometric's DimeNet++ blocks over triplets that are listed in every step."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.cutoff, self.max_neighbors = ours.cutoff, ours.max_neighbors
        block, output = ours.interaction_blocks[0], ours.output_blocks[0]
        self.net = DimeNetPlusPlus(
            hidden_channels=block.lin.in_features,
            out_channels=1,
            num_blocks=len(ours.interaction_blocks),
            int_emb_size=block.lin_down.out_features,
            basis_emb_size=block.lin_sbf1.out_features,
            out_emb_channels=output.lin_up.out_features,
            num_spherical=len(ours.sbf.zeros),
            num_radial=ours.rbf.freq.numel(),
            cutoff=ours.cutoff,
        )
        self.net.load_state_dict(ours.state_dict())

    def energy(self, batch: Batch, edge_vec: Tensor) -> Tensor:
        """Energy (B,), the steps of torch_geometric's forward from the edges on."""
        net, num_atoms = self.net, len(batch.pos)
        source, target = batch.edge_index
        kj, ji = listed_triplets(batch)
        dist = edge_vec.norm(dim=-1)
        cross = torch.linalg.cross(edge_vec[ji], edge_vec[kj]).norm(dim=-1)
        angle = torch.atan2(cross, (edge_vec[ji] * edge_vec[kj]).sum(-1))
        rbf, sbf = net.rbf(dist), net.sbf(dist, angle, kj)
        x = net.emb(batch.atomic_numbers, rbf, target, source)
        atoms = net.output_blocks[0](x, rbf, target, num_atoms)
        for block, output in zip(net.interaction_blocks, net.output_blocks[1:], strict=True):
            x = block(x, rbf, sbf, kj, ji)
            atoms = atoms + output(x, rbf, target, num_atoms)
        energy = atoms.new_zeros(len(batch.cell))
        return energy.index_add(0, batch.batch, atoms.squeeze(-1))


def listed_triplets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Edges k→j and j→i of every triplet but those back to the same image; edges by target."""
    source, target = batch.edge_index
    degree = torch.bincount(target, minlength=len(batch.pos))
    first = degree.cumsum(0) - degree
    count = degree[source]
    ji = torch.arange(len(source), device=source.device).repeat_interleave(count)
    place = torch.arange(len(ji), device=ji.device) - (count.cumsum(0) - count)[ji]
    kj = first[source[ji]] + place
    shift = batch.cell_offsets[kj] + batch.cell_offsets[ji]
    kept = (source[kj] != target[ji]) | shift.any(dim=1)
    return kj[kept], ji[kept]


@contextmanager
def with_concatenation(model: ForceField) -> Iterator[None]:
    """A model without the split of `PairLinear`."""
    with mock.patch.object(PairLinear, "forward", concatenated):
        yield


@contextmanager
def with_everything_kept() -> Iterator[None]:
    """Gala without making again in the backward, all centres at once."""
    with (
        mock.patch.object(gala, "checkpoint", lambda function, *args, **options: function(*args)),
        mock.patch.object(gala, "CHUNK", 1 << 60),
    ):
        yield


# Measurements


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Forward, mean absolute error of the forces, backward, update."""
    optimizer.zero_grad()
    (model(batch).forces - batch.forces).abs().mean().backward()
    optimizer.step()


def fastest(variants: dict[str, Callable[[], None]], repeats: int, cuda: bool) -> dict[str, float]:
    """Least seconds of each variant, after one unmeasured turn, in alternation."""
    clock = time.perf_counter if cuda else time.process_time
    seconds = dict.fromkeys(variants, float("inf"))
    for turn in range(repeats + 1):
        for name, work in variants.items():
            start = clock()
            work()
            if cuda:
                torch.cuda.synchronize()
            if turn:
                seconds[name] = min(seconds[name], clock() - start)
    return seconds


class Alive(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are alive, the most there were, FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what is new."""
        before = {id(t.untyped_storage()) for t in tree_leaves(args) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in before and storage not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, size: int) -> None:
        self.now -= size


def counted(work: Callable[[], None]) -> tuple[float, float]:
    """MB at most, and GFLOP of matrix products."""
    with Alive() as alive:
        work()
    return alive.peak / 1e6, alive.flops / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--size", default="published", choices=["published", "small"])
    parser.add_argument("--structures", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")

    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {threads} thread(s)"
    print(f"{options.structures} slabs of 86 atoms, {options.size} sizes, {device}")
    print(f"{'model':>18} {'edges':>7} {'step s':>8} {'MB':>8}   the alternative, over ours")
    for name in options.models:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [f"model={name}", f"size={options.size}"]).model
        torch.manual_seed(0)
        model = instantiate(config).to(options.device)
        graph = None if model.cutoff is None else RadiusGraph(model.cutoff, model.max_neighbors)
        batch = atoms_to_batch([slab(i) for i in range(options.structures)], graph)
        batch.forces = torch.randn_like(batch.pos)
        batch = model.prepare(batch)
        print(measured(name, model, batch.to(options.device), options.repeats, cuda), flush=True)


def measured(name: str, model: ForceField, batch: Batch, repeats: int, cuda: bool) -> str:
    """A row of the table."""
    other: ForceField | None = None
    if name == "schnet":
        label, other = "torch_geometric", PublicSchNet(model)
    elif name.startswith("dimenet"):
        label, other = "torch_geometric", PublicDimeNet(model)
    elif name == "gala":
        label, alternative = "all kept", with_everything_kept
    else:
        label, alternative = "concatenation", partial(with_concatenation, model)
    variants = {}
    work = partial(step, model, torch.optim.Adam(model.parameters(), lr=1e-6), batch)
    variants["ours"] = work
    if other is not None:
        other.to(batch.pos.device)
        variants[label] = partial(step, other, torch.optim.Adam(other.parameters(), lr=1e-6), batch)
    else:

        def otherwise() -> None:
            with alternative():
                work()

        variants[label] = otherwise
    seconds = fastest(variants, repeats, cuda)
    memory, flops = {}, {}
    for variant, run in variants.items():
        memory[variant], flops[variant] = counted(run)
    num_edges = batch.edge_index.shape[1] if "edge_index" in batch else 0
    return (
        f"{name:>18} {num_edges:>7} {seconds['ours']:>8.3f} {memory['ours']:>8.0f}"
        f"   {label}: {seconds[label]:.3f} s, {memory[label]:.0f} MB;"
        f" {seconds[label] / seconds['ours']:.2f} x the time,"
        f" {memory[label] / memory['ours']:.2f} x the memory,"
        f" {flops[label] / flops['ours']:.2f} x the FLOPs ({flops['ours']:.1f} GFLOP)"
    )


if __name__ == "__main__":
    main()
