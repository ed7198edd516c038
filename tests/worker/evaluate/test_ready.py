"""Whoever calls a trained model outside of training gives it a batch that it has prepared."""

from contextlib import nullcontext

import pytest
import torch

from atomsweep.data.atoms import structure_to_atoms
from atomsweep.engine.batches import eval_shares
from atomsweep.engine.distributed import ALONE
from atomsweep.engine.evaluate import evaluate
from atomsweep.engine.samples import write_sample
from atomsweep.sweep.evaluation_settings import Cost, Rotation
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.s2f import S2F
from atomsweep.worker.evaluate.cost import cost
from atomsweep.worker.evaluate.rotation import rotation
from atomsweep.worker.evaluate.sample import sample
from atomsweep.worker.trained import load

CPU = torch.device("cpu")


def of_evaluations(model, data, folder):
    shares = eval_shares(data, model.model, 2, ALONE, CPU, 0, lambda: None)
    evaluate(model.model, S2F(), shares, CPU, nullcontext)


def of_samples(model, data, folder):
    write_sample(folder, "val_id", model.model, data, 2, CPU, nullcontext)


def of_cost(model, data, folder):
    cost(model, Cost(max_batch=2, warm_up=1, repeats=1), lambda done, total: None)


def of_rotation(model, data, folder):
    rotation(model, Rotation(structures=2, rotations=2), lambda done, total: None)


def of_relaxations(model, data, folder):
    list(relax([data.dataset[0], data.dataset[1]], model.potential(), steps=1))


def of_calculators(model, data, folder):
    atoms = structure_to_atoms(data.dataset[0])
    atoms.calc = model.calculator()
    for _ in range(2):
        atoms.rattle(0.01)
        atoms.get_forces()


@pytest.mark.parametrize(
    "call", [of_evaluations, of_samples, of_cost, of_rotation, of_relaxations, of_calculators]
)
def test_every_forward_reads_a_batch_that_the_model_prepared(call, tiny_run, tmp_path, monkeypatch):
    """SchNet takes 1.5 times as long without, and Gala searches its clouds within the forward."""
    model = load(tiny_run.path, device="cpu")
    data, forwards = sample(model, "val_id", 3, seed=0), []

    def prepare(batch):
        batch.was_prepared = True
        return batch

    monkeypatch.setattr(model.model, "prepare", prepare)
    model.model.register_forward_pre_hook(
        lambda _, given: forwards.append("was_prepared" in given[0])
    )
    call(model, data, tmp_path)
    assert forwards
    assert all(forwards)
