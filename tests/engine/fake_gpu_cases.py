"""Runs cases on the fake GPU, in a process of its own: JSON in, and what became of each out.

python -m tests.engine.fake_gpu_cases < cases.json
"""

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from atomsweep.build import build, build_learner
from atomsweep.data.atoms import structure_to_atoms
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.structure import Structure
from atomsweep.engine import agreement, samples
from atomsweep.engine.distributed import ALONE, World
from atomsweep.engine.loop import Training
from atomsweep.engine.samples import write_sample
from atomsweep.engine.signals import StopFlag
from atomsweep.graph import skin
from atomsweep.graph.clouds import adsorbate_clouds
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.graph.search import Pairs, find_pairs
from atomsweep.graph.skin import SKIN
from atomsweep.launch.compose import cell_of
from atomsweep.models import gala
from atomsweep.models.base import ForceField
from atomsweep.models.gala import Gala
from atomsweep.models.schnet import SchNet
from atomsweep.tasks.relax.calculator import PotentialCalculator
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import _Active
from atomsweep.tasks.relax.potentials import ModelPotential, batch_of
from benchmarks.fake_gpu import (
    CLOUDS,
    DEVICE,
    DYNAMICS,
    EVALUATION,
    MOVING,
    PAIRS,
    RANKS,
    RELAXATION,
    RESULTS,
    SAMPLE,
    SEARCH,
    TRAINING,
    fake_gpu,
    leave,
    times,
)
from tests.contracts.compose import compose_with_choices
from tests.models.slabs import slab

ALONG = ThreadPoolExecutor(1)  # where all is real, as in a thread of the loader


def structures(num):
    rng = np.random.default_rng(0)
    made = []
    for sid in range(num):
        atoms = slab()
        count = len(atoms.pos)
        made.append(
            Structure(
                atomic_numbers=atoms.atomic_numbers,
                pos=atoms.pos + rng.normal(size=(count, 3)) * 0.05,
                cell=atoms.cell,
                pbc=np.array(atoms.pbc),
                tags=np.array([0] * 8 + [1] * 4 + [2] * 2),
                fixed=np.arange(count) < 4,
                forces=rng.normal(size=(count, 3)),
                energy=float(rng.normal()),
                sid=sid,
                fid=0,
            )
        )
    return made


def fault(kind):
    """What somebody might add to a model: each must be found."""
    forward = ForceField.__call__

    def call(self, batch):
        out = forward(self, batch)
        forces = out.forces
        extra = {
            "item": lambda: forces.sum().item(),
            "mask": lambda: forces[forces > 0].sum(),
            "host copy": lambda: forces.cpu(),
            "tensor of the CPU": lambda: forces + torch.ones(3),
            "indices": lambda: forces[[0, 1]],
            "literal": lambda: forces + torch.tensor([1.0, 2.0, 3.0], device=forces.device),
            "sent in the step": lambda: forces + torch.ones(3).to(forces.device),
            "size": lambda: torch.repeat_interleave(batch.natoms, batch.natoms),
            "singular values": lambda: torch.linalg.svd(forces[:3]),
            "eigenvalues": lambda: torch.linalg.eigh(forces[:3]),
            "range": lambda: torch.histc(forces),
            "number of the host": lambda: forces.new_zeros(()).copy_(torch.tensor(1.0)),
        }[kind]
        extra()
        return out

    return mock.patch.object(ForceField, "__call__", call)


class Case:
    """A model, its task and data, as a run has them."""

    def __init__(self, overrides, accumulate=1, batches=1, device=DEVICE):
        cfg, choices = compose_with_choices(overrides)
        config = cell_of(cfg, choices, overrides).config
        self.model, self.task = build_learner(config)
        graph = None
        if self.model.cutoff is not None:
            graph = RadiusGraph(self.model.cutoff, self.model.max_neighbors)
        sets = InMemoryDataset(structures(4), "slabs")
        self.data = {split: GraphDataset(sets, graph) for split in ("train", "val_id")}
        self.model.fit_statistics([self.data["train"].batch(range(4))])
        self.model.fit_labels(self.data["train"].label_statistics)
        self.trainer = dataclasses.replace(
            build(config["engine"], "engine"),
            device=device,
            workers=1,
            eval_batch_size=4 // batches,
        )
        self.recipe = dataclasses.replace(
            build(config["optim"], "optim"),
            batch_size=4,
            accumulate=accumulate,
            clip_norm=1.0,
            ema_decay=0.99,
        )
        self.augment = build(config["augmentation"], "augmentation")

    def training(self, world=ALONE):
        # on the fake device parameters do not stay the same objects
        self.model.to(torch.device(self.trainer.device))
        return Training(
            self.trainer,
            self.model,
            self.task,
            self.recipe,
            self.data,
            self.augment,
            None,
            0,
            StopFlag(),
            lambda update: None,
            world,
        )

    def train(self, steps=2, world=ALONE, watched=nullcontext):
        """Steps, each of them within `watched()`."""
        training = self.training(world)
        optimizer = self.recipe.new_optimizer(self.model)
        average = self.recipe.average(self.model)
        training._reset_loss()
        self.model.train()
        with closing(training.batches.start(0)) as batches:
            for _ in range(steps):
                with watched():
                    training._step(next(batches), optimizer, average)
                training.step += 1
        assert {p.device for p in training.parameters} == {training.device}
        return training


@contextmanager
def two_ranks():
    """This is the first of two, whose messages arrive at once and bring nothing."""

    def all_reduce(tensor):
        assert tensor.device == torch.device(DEVICE)
        tensor.mul_(1)

    with (
        mock.patch.object(dist, "all_reduce", all_reduce),
        mock.patch.object(dist, "is_initialized", return_value=True),
    ):
        yield World(0, 2)


@contextmanager
def found_on_the_host(made, slabs):
    """Pairs and clouds as they are, where the host would have to know positions and tags.

    Yields:
        Waits of every step with this model, those of one in which structures have come or gone, and
        values that the host reads.
    """
    graph = made.data["train"].graph
    found = [] if graph is None else [graph_pairs(one, graph.cutoff + SKIN) for one in slabs]

    def find_pairs(pos, cell, pbc, natoms, cutoff, threads):
        """As many pairs as there are, on the device."""
        assert natoms == [slabs[0].natoms] * len(natoms)
        assert pos.device == torch.device(DEVICE)
        return [
            Pairs(*(torch.empty(part.shape, dtype=part.dtype, device=DEVICE) for part in one[:3]))
            for one in found[: len(natoms)]
        ]

    def clouds(host, *args):
        here = batch_of(slabs[: len(host.natoms)], torch.device("cpu"))
        here.pos, here.cell = here.pos.float(), here.cell.float()
        return adsorbate_clouds(here, *args)

    values = {
        "graph.skin.MovingGraph._moved": 0,
        "graph.skin.MovingGraph.attach": 0,
        "graph.skin.MovingGraph._search": slabs[0].natoms,
        "graph.skin.MovingGraph._join": 100,  # pairs of an atom, more than are kept
        "graph.skin._Known.hold": 0,  # atoms that have moved far
    }
    network = getattr(made.model, "model", made.model)
    steady = {} if graph is None else MOVING
    changed = SEARCH | {"graph.skin.MovingGraph.attach": MOVING["graph.skin.MovingGraph.attach"]}
    if isinstance(network, SchNet):
        steady, changed = steady | PAIRS, changed | PAIRS
    if isinstance(network, Gala):
        changed = CLOUDS
    with (
        mock.patch.object(skin, "find_pairs", find_pairs),
        mock.patch.object(gala, "adsorbate_clouds", in_truth(clouds)),
    ):
        yield steady, changed, values


def in_truth(function):
    """A function of numbers, called where tensors have them."""
    return lambda *args: ALONG.submit(function, *args).result()


def relaxation(made, paths):
    """A relaxation of slabs: all enter, step, one leaves, others enter and step."""
    slabs = structures(6)
    with found_on_the_host(made, slabs) as (steady, changed, values):
        told = RELAXATION | (RESULTS if paths else {})
        steady, changed = steady | told, changed | told
        with fake_gpu(steady | changed | RESULTS, values=values) as watch:
            potential = ModelPotential(made.model.to(torch.device(DEVICE)).eval())
            active = _Active(potential, LBFGS(), 0.05, 100, paths)

            def step(*waits):
                watch.seen.clear()
                left = list(active.advance())
                assert watch.seen == times(*waits), dict(watch.seen)
                return left

            active.admit(list(enumerate(slabs[:4])))
            assert not watch.seen, dict(watch.seen)
            assert step(changed) == []
            assert step(steady) == []
            assert step(steady) == []
            active.taken[1] = 100
            (left,) = step(steady | RESULTS)
            assert left.index == 1
            assert len(left.path) == (4 if paths else 0)
            assert step(changed) == []  # behind none
            active.taken[0] = 100
            assert [one.index for one in step(steady | RESULTS)] == [0]
            watch.seen.clear()
            active.admit(list(enumerate(slabs[4:], 4)))
            assert not watch.seen, dict(watch.seen)
            assert step(changed) == []
            assert step(steady) == []
            assert active.batch.pos.device == torch.device(DEVICE)
            assert len(active.batch.natoms) == 4


def dynamics(made):
    """Steps of ASE: one structure, whose atoms move."""
    (slab,) = slabs = structures(1)
    with (
        found_on_the_host(made, slabs) as (steady, changed, values),
        fake_gpu(steady | changed | DYNAMICS, values=values) as watch,
    ):
        potential = ModelPotential(made.model.to(torch.device(DEVICE)).eval())
        atoms = structure_to_atoms(slab)
        atoms.calc = PotentialCalculator(potential, "model", nan_energy=True)
        for waits in (changed, steady, steady):
            watch.seen.clear()
            atoms.positions += 0.01
            assert atoms.get_forces().shape == slab.pos.shape
            assert watch.seen == times(waits, DYNAMICS), dict(watch.seen)


def graph_pairs(structure, cutoff):
    """Pairs of a structure, found on the CPU."""
    pos, cell, pbc = (torch.as_tensor(getattr(structure, n)) for n in ("pos", "cell", "pbc"))
    (pairs,) = find_pairs(pos, cell[None], pbc[None], [structure.natoms], cutoff)
    return pairs


def run(case):
    made = Case(case["overrides"], case.get("steps", 1), case.get("batches", 1))
    what = case.get("what", "train")
    if what == "train":
        if any(p.requires_grad for p in made.model.parameters()):
            with fake_gpu(TRAINING) as watch:
                training = made.train(case.get("steps", 1))
            assert training.loss_sum.device == torch.device(DEVICE)
        else:
            with fake_gpu() as watch:
                training = made.training()
        training.data["val_id"].kinds = {"relaxation": 0, "rattled": 1000}
        with fake_gpu(EVALUATION, watch.mode) as watch:
            training.evaluate(made.model, "val_id")
        assert watch.seen == times(EVALUATION), dict(watch.seen)
        with (
            TemporaryDirectory() as folder,
            mock.patch.object(samples, "ready", in_truth(samples.ready)),
            fake_gpu(SAMPLE, watch.mode) as watch,
        ):
            sampled = (made.model, made.data["val_id"], 2, torch.device(DEVICE))
            write_sample(Path(folder), "val_id", *sampled, made.trainer.autocast)
        assert watch.seen == (times(SAMPLE) if made.model.forces_wanted else {}), dict(watch.seen)
    elif what == "compiled":  # all but the compiler, which has nothing to make kernels for
        made.trainer = dataclasses.replace(made.trainer, compile="default")
        with (
            mock.patch.object(torch, "compile", lambda graph, **options: graph),
            mock.patch.object(agreement, "apart", return_value=0.0),
            fake_gpu(TRAINING),
        ):
            training = made.train(case.get("steps", 1))
        assert training.forward.failed is None, training.forward.failed
    elif what in ("relaxation", "paths"):
        relaxation(made, what == "paths")
    elif what == "dynamics":
        dynamics(made)
    elif what == "ranks":
        with two_ranks() as world, fake_gpu(TRAINING | RANKS):
            made.train(1, world)
    else:
        with fake_gpu(TRAINING), fault(what):
            made.train(1)


def main():
    results = {}
    for case in json.load(sys.stdin):
        name = " ".join([case.get("what", "train"), *case["overrides"]])
        try:
            run(case)
            results[name] = "ok"
        except Exception as error:
            if "-v" in sys.argv:
                raise
            results[name] = f"{type(error).__name__}: {str(error)[:300]}"
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    json.dump(results, sys.stdout)
    leave()


if __name__ == "__main__":
    main()
