"""Relaxing 32 slabs at once beside ASE's L-BFGS one by one, with the same model.

    OMP_NUM_THREADS=1 python benchmarks/relaxation.py [--models forcenet_small,gns] [--steps 20]

Times are CPU seconds of the process (wall time on a GPU). "graph" is the share of the batched run
that finds edges; "anew" is what it takes to find them with no list of the step before.
"""

import argparse
import time
from collections.abc import Callable
from unittest import mock

import torch
from ase.optimize import LBFGS as AseLBFGS
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch_geometric.data import Batch
from training_step import CONF, slab

from atomsweep.data.atoms import structure_from_atoms, structure_to_atoms
from atomsweep.data.structure import Structure
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.graph.skin import MovingGraph
from atomsweep.tasks.relax.calculator import PotentialCalculator
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.relax.potentials import ModelPotential

BATCH = 32


def seconds(work: Callable[[], object], device: str) -> float:
    """CPU seconds, or wall time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    return clock() - start


def one_by_one(structures: list[Structure], potential: ModelPotential, steps: int) -> None:
    """ASE, each structure for itself."""
    for structure in structures:
        atoms = structure_to_atoms(structure)
        atoms.calc = PotentialCalculator(potential, "model", nan_energy=True)
        AseLBFGS(atoms, logfile=None).run(0.0, steps)


def compared(name: str, device: str, steps: int) -> str:
    """A line of a model."""
    structures = [structure_from_atoms(slab(seed), sid=seed) for seed in range(BATCH)]
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"model={name}"])
    torch.manual_seed(0)
    model = instantiate(config.model).to(device).eval().requires_grad_(False)
    potential, attach, taken = ModelPotential(model), MovingGraph.attach, 0.0

    def timed(self: MovingGraph, batch: Batch) -> dict[int, str]:
        nonlocal taken
        found: list[dict[int, str]] = []
        taken += seconds(lambda: found.append(attach(self, batch)), device)
        return found[0]

    def together() -> None:
        list(relax(structures, potential, fmax=0.0, steps=steps, batch_size=BATCH))

    def anew() -> None:
        graph = RadiusGraph(model.cutoff, model.max_neighbors)
        for one in structures:
            graph(one.pos, one.cell, one.pbc)

    together()
    with mock.patch.object(MovingGraph, "attach", timed):
        batched = seconds(together, device)
    alone = seconds(lambda: one_by_one(structures, potential, steps), device)
    found = 0.0 if model.cutoff is None else seconds(anew, device) * (steps + 1)
    return (
        f"{name:<16} ASE one by one {alone:7.2f} s, batched {batched:7.2f} s "
        f"({alone / batched:.1f} ×), of it graph {taken:.2f} s (anew {found:.2f} s)"
    )


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="gns,forcenet_small,schnet")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for name in options.models.split(","):
        print(compared(name, options.device, options.steps), flush=True)


if __name__ == "__main__":
    main()
