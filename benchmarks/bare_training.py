"""Training steps of a config on any device, without a run directory: what benchmarks measure."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch_geometric.data import Batch

from atomsweep.build import build, build_learner
from atomsweep.data.atoms import structure_from_atoms
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset, StructureDataset
from atomsweep.engine.distributed import ALONE
from atomsweep.engine.fit import take_from_data
from atomsweep.engine.loop import Training
from atomsweep.engine.optim import set_learning_rate
from atomsweep.engine.signals import StopFlag
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.launch.compose import cell_of
from atomsweep.launch.plan import Cell
from atomsweep.tasks.normalize import NormalizedModel
from benchmarks.training_step import PublicDimeNet, PublicSchNet, slab, with_concatenation

CONF = Path(__file__).parents[1] / "conf"
SEED = 0


def cell(choices: Sequence[str]) -> Cell:
    """The run of `run.py <choices>`, as it is planned."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(choices), return_hydra_config=True)
    return cell_of(cfg, dict(cfg.hydra.runtime.choices), list(choices))


def config_of(choices: Sequence[str]) -> dict[str, Any]:
    """The resolved config of `run.py <choices>`."""
    return cell(choices).config


def slabs(count: int) -> StructureDataset:
    """Alloy slabs of 86 atoms with a molecule on them and random labels."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        one = structure_from_atoms(slab(number % 64), sid=number)
        made.append(replace(one, forces=rng.normal(size=(one.natoms, 3)), energy=rng.normal()))
    return InMemoryDataset(made, "slabs")


class BareTraining:
    """The loop's own steps, and what they need.

    Args:
        config: of a run.
        sets: structures of every split.
        device: of torch.
        workers: threads of the loader.
        changes: of the recipe.
    """

    def __init__(
        self,
        config: dict[str, Any],
        sets: StructureDataset,
        device: str,
        workers: int,
        **changes: Any,
    ) -> None:
        torch.manual_seed(SEED)
        self.config = config
        self.model, self.task = build_learner(config)
        graph = None
        if self.model.cutoff is not None:
            graph = RadiusGraph(self.model.cutoff, self.model.max_neighbors)
        self.data = GraphDataset(sets, graph)
        self.trainer = replace(build(config["engine"], "engine"), device=device, workers=workers)
        self.recipe = replace(build(config["optim"], "optim"), **changes)
        self.augment = build(config["augmentation"], "augmentation")
        take_from_data(self.model, self.task, self.data, self.trainer.eval_batch_size, SEED)

    def other_form(self) -> tuple[str, AbstractContextManager[Any]]:
        """What steps are compared with, and within what: the same network in a public form.

        SchNet and DimeNet++ become those of torch_geometric for good, the others what stands in
        their place: EquiformerV2 and eSCN products as e3nn has them, other models the concatenation
        that `PairLinear` avoids.
        """
        target = self.config["model"]["_target_"].rpartition(".")[2]
        if target in ("EquiformerV2", "ESCN"):
            from benchmarks.so3 import over_e3nn  # e3nn is of the tests' environment

            return "e3nn", over_e3nn()
        public = {"SchNet": PublicSchNet, "DimeNetPlusPlus": PublicDimeNet}.get(target)
        if public is None:
            return "concatenation", with_concatenation(self.model)
        if isinstance(self.model, NormalizedModel):
            self.model.model = public(self.model.model)
        else:
            self.model = public(self.model)
        return "torch_geometric", nullcontext()

    def training(self) -> Training:
        """The loop; moves the model to its device."""
        splits = {"train": self.data, "val_id": self.data}
        self.model.to(
            self.trainer.device
        )  # on the fake GPU parameters do not stay the same objects
        rest: Any = (self.augment, None, SEED, StopFlag(), lambda update: None, ALONE)
        return Training(self.trainer, self.model, self.task, self.recipe, splits, *rest)

    @contextmanager
    def steps(self) -> Iterator["Steps"]:
        """Steps from the first on."""
        training = self.training()
        self.model.train()
        training._reset_loss()
        with closing(training.batches.start(0)) as batches:
            yield Steps(training, batches)


class Steps:
    """Steps of a training, one after another."""

    def __init__(self, training: Training, batches: Iterator[list[Batch]]) -> None:
        self.training, self.batches = training, batches
        recipe = training.recipe
        self.optimizer = recipe.new_optimizer(training.model)
        self.average = recipe.average(training.model)
        self.base = [group["lr"] for group in self.optimizer.param_groups]

    def next(self) -> list[Batch]:
        """Batches of the next step, on the device."""
        return next(self.batches)

    def run(self, batches: list[Batch]) -> None:
        """The step on them, with the learning rate that the schedule has for it."""
        training = self.training
        factor = training.recipe.schedule(training._fraction())
        set_learning_rate(self.optimizer, self.base, factor)
        training._step(batches, self.optimizer, self.average)
        training.step += 1
