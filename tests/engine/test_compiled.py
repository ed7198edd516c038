"""Compiled training is eager training up to rounding, as one graph, and without being told."""

import dataclasses
import itertools
import logging
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config as inductor
from filelock import FileLock, Timeout
from torch import nn

from atomsweep.data.batches.ghosts import shape_of
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.engine import checkpoint, compiled
from atomsweep.engine.devices import refusal
from atomsweep.engine.distributed import ALONE
from atomsweep.engine.fit import fit
from atomsweep.engine.kernels import _is_whole, cpu_kind, remove_damaged
from atomsweep.engine.loop import Training
from atomsweep.engine.signals import Interrupted, StopFlag
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory
from tests.contracts.params import first, on_gpu
from tests.engine.fake_gpu_cases import Case, structures

SMALL = ["size=small", "model.num_layers=4"]  # of gradients the two in the middle are alike
MODELS = {
    "schnet": [*SMALL, "task=s2ef"],
    "forcenet_small": [*SMALL, "task=s2f", "augmentation=rotate_z"],
    "gns": [*SMALL, "task=s2f"],
    "dimenet_pp": [*SMALL, "task=s2ef"],
    "egnn_72k": [*SMALL, "task=s2ef"],
    "megnet_986k": [*SMALL, "task=s2ef"],
    "equiformer_v2_small": [*SMALL, "task=s2ef_oc20", "dens=v3"],
    "escn_small": [*SMALL, "task=s2ef_oc20", "dens=oc20_escn"],
    "equiformer_l2": [*SMALL, "task=s2ef_md17", "dens=md17"],
}


@pytest.fixture(autouse=True)
def one_thread():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with inductor.patch(compile_threads=1):
        yield


@pytest.fixture
def double():
    """Losses are added up in the default type."""
    torch.set_default_dtype(torch.float64)
    yield True
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def without_kernels(monkeypatch):
    """The graph and its derivative run as they are: inductor's C++ takes a minute a model."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiled, "_options", lambda mode: {})


@pytest.fixture(params=["float32", "float64"])
def either(request):
    return request.param == "float64" and request.getfixturevalue("double")


def uneven(num):
    """Slabs of which atoms are missing, so that no two batches have one shape."""
    made = []
    for number, one in enumerate(structures(num)):
        kept = np.arange(one.natoms - number % 4)
        parts = {
            name: getattr(one, name)[kept]
            for name in ("atomic_numbers", "pos", "tags", "fixed", "forces")
        }
        made.append(dataclasses.replace(one, **parts))
    return made


def as_double(batch, _):
    for name, value in batch.to_dict().items():
        if torch.is_tensor(value) and value.dtype == torch.float32:
            batch[name] = value.double()
    return batch


def training(overrides, double=False, **engine):
    torch.manual_seed(0)
    case = Case(overrides)
    for weight in case.model.parameters():
        if weight.requires_grad and not weight.any():  # what starts at zero hides what is behind it
            nn.init.normal_(weight, std=0.1)
    graph = case.data["train"].graph
    case.data = dict.fromkeys(case.data, GraphDataset(InMemoryDataset(uneven(9), "slabs"), graph))
    augment = case.augment
    if double:
        case.model.double()
        augment = as_double
    trainer = dataclasses.replace(case.trainer, **{"device": "cpu", "workers": 0, **engine})
    recipe = dataclasses.replace(case.recipe, ema_decay=None)
    rest = (augment, None, 0, StopFlag(), lambda update: None, ALONE)
    made = Training(trainer, case.model, case.task, recipe, case.data, *rest)
    made.model.train()
    return made


def curve(made, steps):
    """Loss of each step."""
    optimizer, losses = made.recipe.new_optimizer(made.model), []
    with closing(made.batches.start(0)) as batches:
        for _ in range(steps):
            made._reset_loss()
            made._step(next(batches), optimizer, None)
            made.step += 1
            losses.append(float(made.loss_sum))
    return losses


def first_gradients(made):
    """Outputs, gradients and statistics of the first batch, before any step."""
    with closing(made.batches.start(0)) as batches:
        (batch,) = next(batches)
    batch["progress"] = 0.0
    prediction = made.forward(batch)
    totals = made.task.totals(prediction, batch)
    weights = {n: w for n, w in made.model.named_parameters() if w.requires_grad}
    found = torch.autograd.grad(sum(totals.values()), weights.values(), allow_unused=True)
    outputs = {k: v.detach() for k, v in prediction._asdict().items() if v is not None}
    if "dens_moved" in batch:  # no loss reads the others, and eager code may leave them out
        outputs["noise"] = outputs["noise"][batch.dens_moved]
        outputs["forces"] = outputs["forces"][~batch.dens_moved]
    statistics = {n: b.clone() for n, b in made.model.named_buffers() if ".running_" in n}
    return outputs, dict(zip(weights, found, strict=True)), statistics


def assert_near(found, expected, nudged, tolerance):
    """Relative to the largest number of each, but one that is zero, as of a bias before a norm."""
    assert set(found) == set(expected)
    sizes = {n: 0.0 if v is None else float(v.abs().max()) for n, v in expected.items()}
    least = 0.1 * max(sizes.values(), default=0.0)
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            rounding = float((nudged[name] - value).abs().max())
            allowed = max(tolerance * max(sizes[name], least), 5.0 * rounding)
            torch.testing.assert_close(found[name], value, atol=allowed, rtol=0, msg=name)


def nudge(made):
    """The weights, half of them larger by one rounding and half smaller."""
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.model.parameters():
            sign = torch.rand(weight.shape, generator=numbers).to(weight).sub(0.5).sign()
            weight.mul_(1 + torch.finfo(weight.dtype).eps * sign)
    return made


def side_by_side(one, other, steps):
    """Losses of both, the second's each time from the weights of the first, and of gradients the
    largest difference, relative to the largest number of each or a tenth of the largest of all.

    Left to itself a run carries a rounding as far as training does: 50 steps of ForceNet by 1e-9 in
    float64 and by 1e-3 in float32, eager ones as much as compiled ones.
    """
    runs, losses, away = (one, other), ([], []), 0.0
    optimizers = [made.recipe.new_optimizer(made.model) for made in runs]
    with closing(one.batches.start(0)) as first, closing(other.batches.start(0)) as second:
        for _ in range(steps):
            other.model.load_state_dict(one.model.state_dict())
            for made, optimizer, batches, found in zip(
                runs, optimizers, (first, second), losses, strict=True
            ):
                made._reset_loss()
                made._step(next(batches), optimizer, None)
                made.step += 1
                found.append(float(made.loss_sum))
            pairs = zip(one.parameters, other.parameters, strict=True)
            grads = [(a.grad, b.grad) for a, b in pairs if a.grad is not None]
            sizes = torch.stack([a.abs().max() for a, _ in grads])
            apart = torch.stack([(a - b).abs().max() for a, b in grads])
            away = max(away, float((apart / sizes.clamp(min=0.1 * sizes.max())).max()))
    return *map(np.array, losses), away


def compare(overrides, steps, double, mode="default", device="cpu"):
    """Compiled beside eager: the first gradients, and the loss of every step."""
    tolerance = 1e-10 if double else 1e-5
    one = training(overrides, double, device=device)
    other = training(overrides, double, device=device, compile=mode)
    third = nudge(training(overrides, double, device=device))
    for parts in zip(*map(first_gradients, (other, one, third)), strict=True):
        assert_near(*parts, tolerance)
    expected, found, away = side_by_side(one, other, steps)
    assert len(set(expected)) == steps
    print("largest difference of a loss", np.abs(found / expected - 1).max(), "gradient", away)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    # in single precision a ReLU at its kink may be rounded to its other side, in some step
    assert away < (100 * tolerance if double else 0.05)
    assert other.forward.failed is None
    assert len(other.forward.graphs) == 1
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    "model", first(1, ["forcenet_small", *(m for m in MODELS if m != "forcenet_small")])
)
def test_outputs_gradients_and_steps_are_those_of_eager_training_in_one_graph(
    model, double, without_kernels
):
    compare([f"model={model}", *MODELS[model]], 3, double)


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_fifty_steps_are_those_of_eager_training(model, either):
    compare([f"model={model}", *MODELS[model]], 50, either)


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "max"])
def test_steps_on_a_gpu_are_those_of_eager_training(mode, either):
    compare(["model=forcenet_small", *MODELS["forcenet_small"]], 10, either, mode, "cuda")


def packed(**engine):
    made = training(["model=schnet", *MODELS["schnet"]], double=True, **engine)
    with closing(made.batches.start(0)) as batches:
        return made, [next(batches) for _ in range(6)]


def test_packed_micro_batches_are_equal_in_memory_and_change_no_step(double):
    most = 450
    whole = training(["model=schnet", *MODELS["schnet"]], double=True)
    one, steps = packed(batch_edges=most)
    numbers = [[batch.edge_index.shape[1] for batch in batches] for batches in steps]
    assert max(itertools.chain(*numbers)) <= most
    assert min(map(len, numbers)) > 1
    np.testing.assert_allclose(curve(one, 6), curve(whole, 6), rtol=1e-10)


def test_packed_and_filled_micro_batches_have_one_shape_and_no_ghost_counts():
    most = 450
    one, steps = packed(batch_edges=most, compile="default")
    filled = [batch.filled for batches in steps for batch in batches]
    shapes = {(len(b.cell), len(b.pos), b.edge_index.shape[1]) for b in filled}
    assert len(shapes) == 1
    eager, plain = packed(batch_edges=most)
    for batches, alone in zip(steps, plain, strict=True):
        for batch, other in zip(batches, alone, strict=True):
            assert one.task.counts(batch) == eager.task.counts(other)
            assert torch.equal(batch.forces, other.forces)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_model_predicts_of_real_rows_knows_of_no_ghost(model):
    made = training([f"model={model}", *MODELS[model]], compile="default")
    with closing(made.batches.start(0)) as batches:
        (batch,) = next(batches)
    made.model.eval()
    alone, beside = made.model(batch), made.model(batch.filled)
    for one, other in zip(alone, beside, strict=True):
        assert (one is None) == (other is None)
        if one is not None and not (one is alone.noise or "dens_moved_edges" in batch):
            torch.testing.assert_close(other[: len(one)], one, rtol=1e-4, atol=1e-4)
            assert torch.isfinite(other).all()


def test_a_graph_that_cannot_be_made_is_one_warning_and_eager_steps(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler\nhere")

    overrides = ["model=forcenet_small", *MODELS["forcenet_small"]]
    expected = curve(training(overrides), 3)
    monkeypatch.setattr(torch, "compile", broken)
    made = training(overrides, compile="default")
    with caplog.at_level(logging.WARNING):
        found = curve(made, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    (record,) = [r for r in caplog.records if r.name == compiled.__name__]
    (key,) = made.forward.graphs
    shapes = {name: shape for name, shape, _ in key}
    atoms, edges = shapes["pos"][0], shapes["edge_index"][1]
    assert record.getMessage() == (
        "engine.compile=default: ForceNet is trained eagerly on batches of this shape "
        f"({atoms} atoms and {edges} edges with their ghosts), as its compiled form failed: "
        "no compiler here"
    )


class Steeper(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.5 * grad


WRONG = {
    "gradients": lambda energy, forces: [Steeper.apply(energy), forces],
    "gradients of forces": lambda energy, forces: [energy, Steeper.apply(forces)],
    "outputs": lambda energy, forces: [energy, 1.2 * forces],
    "no forces": lambda energy, forces: [energy, 0.0 * forces],
    "no gradients": lambda energy, forces: [energy.detach(), forces.detach()],
    "no gradients of forces": lambda energy, forces: [energy, forces.detach()],
    "not a number": lambda energy, forces: [energy, forces * float("nan")],
}


def wrong_compiler(wrong, model):
    """It gives real rows wrongly and all ghosts as they are: what they predict counts in nothing.

    Args:
        wrong: outputs -> outputs.
        model: `training` of it.
    """
    with closing(model.batches.start(0)) as batches:
        (batch,) = next(batches)
    real = shape_of(batch)

    def compile(graph, **options):
        def run(*inputs):
            found = list(graph(*inputs))
            rows = [real.structures if y.ndim == 1 else real.atoms for y in found]
            changed = wrong(*(y[:n] for y, n in zip(found, rows, strict=True)))
            parts = zip(changed, found, rows, strict=True)
            return [torch.cat([one, y[n:]]) for one, y, n in parts]

        return run

    return compile


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("model", first(1, ["schnet", "megnet_986k"]))
def test_a_compiler_that_is_wrong_is_told_and_not_used(model, wrong, monkeypatch, caplog):
    overrides = [f"model={model}", *MODELS[model]]
    expected = curve(training(overrides), 2)
    made = training(overrides, compile="default")
    monkeypatch.setattr(torch, "compile", wrong_compiler(WRONG[wrong], made))
    with caplog.at_level(logging.WARNING):
        found = curve(made, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    (record,) = [r for r in caplog.records if r.name == compiled.__name__]
    assert "what it gives is not what eager code does" in record.getMessage()


REAL_ROWS = {
    "zero": lambda *parts: [0.0 * y for y in parts],
    "in another order": lambda *parts: [y.flip(0) for y in parts],
    "too steep": lambda *parts: [Steeper.apply(y) for y in parts],
    "no gradient": lambda *parts: [y.detach() for y in parts],
}


@pytest.mark.parametrize("wrong", REAL_ROWS)
@pytest.mark.parametrize("model", first(1, ["forcenet_small", "gns", "egnn_72k", "escn_small"]))
@pytest.mark.parametrize("precision", first(1, ["float32", "tf32", "bf16"]))
def test_what_is_wrong_of_real_rows_is_told_whatever_ghosts_predict(
    model, wrong, precision, monkeypatch
):
    overrides = [f"model={model}", *MODELS[model]]
    made = training(overrides, compile="default", precision=precision)
    monkeypatch.setattr(torch, "compile", wrong_compiler(REAL_ROWS[wrong], made))
    curve(made, 1)
    assert "what it gives is not what eager code does" in (made.forward.failed or "nothing told")


def rounds_otherwise(graph, **options):
    """A compiler that is right: its weights are one rounding away."""

    def other(x):
        if not (x.requires_grad and x.is_floating_point()):
            return x
        sign = torch.arange(x.numel()).remainder(3).sub(1).to(x.dtype).view_as(x)
        return x * (1 + torch.finfo(x.dtype).eps * sign)

    return lambda *inputs: graph(*map(other, inputs))


@pytest.mark.parametrize("precision", ["tf32", *first(0, ["float32", "bf16"])])
@pytest.mark.parametrize("model", first(2, ["forcenet_small", "gns", "egnn_72k", "megnet_986k"]))
def test_a_compiler_that_rounds_otherwise_is_used_in_every_precision(model, precision, monkeypatch):
    """As TF32 also where the device has none, so that full precision is no other."""
    monkeypatch.setattr(torch, "compile", rounds_otherwise)
    made = training([f"model={model}", *MODELS[model]], compile="default", precision=precision)
    curve(made, 1)
    assert made.forward.failed is None


@pytest.mark.parametrize("wrong", [lambda e: e + 0.1, lambda e: Steeper.apply(e)])
def test_references_of_elements_hide_no_wrong_energy(wrong, monkeypatch):
    overrides = ["model=schnet", *MODELS["schnet"]]
    normalizer = ["task.normalizer.references=fit"]
    made = training([*overrides, *normalizer], compile="default")
    made.model.normalizer.references.fill_(-1000.0)  # eV, of every atom
    monkeypatch.setattr(
        torch, "compile", wrong_compiler(lambda energy, forces: [wrong(energy), forces], made)
    )
    curve(made, 1)
    assert "what it gives is not what eager code does" in (made.forward.failed or "nothing told")
    right = training([*overrides, *normalizer], compile="default")
    right.model.normalizer.references.fill_(-1000.0)
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    curve(right, 1)
    assert right.forward.failed is None


@pytest.mark.parametrize("layers", first(1, [5, 9]))
def test_ghosts_of_a_deep_network_stay_numbers(layers, monkeypatch):
    """ForceNet's messages are quadratic in what they carry, and no batch norm counts ghosts.

    Unbounded, they reach infinity after five layers.
    """
    overrides = ["model=forcenet_small", "size=small", "task=s2f", f"model.num_layers={layers}"]
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    made = training(overrides, compile="default")
    expected = curve(training(overrides), 3)
    np.testing.assert_allclose(curve(made, 3), expected, rtol=1e-4)
    assert made.forward.failed is None


def test_a_shape_that_cannot_be_compiled_leaves_the_others_as_they_are(monkeypatch, caplog):
    made = training(["model=schnet", *MODELS["schnet"]], batch_edges=450, compile="default")
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    with closing(made.batches.start(0)) as batches:
        one, other = next(batches)[0], next(batches)[0]
    made.forward(one)
    (key,) = made.forward.graphs
    other.filled.pos = other.filled.pos.double()  # another shape, as far as it knows
    monkeypatch.setattr(torch, "compile", None)
    with caplog.at_level(logging.WARNING):
        made.forward(other)
        made.forward(other)
    assert len([r for r in caplog.records if r.name == compiled.__name__]) == 1
    graphs = made.forward.graphs
    assert graphs[key] is not None
    assert [graph for graph in graphs.values() if graph is None] == [None]


def test_gradients_are_checked_where_random_numbers_are_drawn(monkeypatch, caplog):
    overrides = ["model=equiformer_v2_small", *MODELS["equiformer_v2_small"]]
    overrides += ["model.path_drop=0.2", "model.alpha_drop=0.1"]
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    right = training(overrides, compile="default")
    curve(right, 1)
    assert right.forward.failed is None
    monkeypatch.setattr(
        torch,
        "compile",
        lambda graph, **options: lambda *x: [Steeper.apply(y) for y in graph(*x)],
    )
    wrong = training(overrides, compile="default")
    curve(wrong, 1)
    assert "a gradient differs by" in wrong.forward.failed
    assert list(wrong.forward.graphs.values()) == [None]


DROPPED = {
    "megnet_986k": ["model.dropout=0.2"],
    "equiformer_v2_small": ["model.path_drop=0.2", "model.alpha_drop=0.1"],
}


def assert_drawn_as_eagerly(model):
    """The check itself compares outputs and gradients of the same random numbers.

    Those of one batch and the same weights differ from call to call.
    """
    made = training([f"model={model}", *MODELS[model], *DROPPED[model]], compile="default")
    with closing(made.batches.start(0)) as batches:
        (batch,) = next(batches)
    batch["progress"] = 0.0
    first, second = (made.forward(batch).energy.detach().clone() for _ in range(2))
    assert made.forward.failed is None
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("model", DROPPED)
def test_a_traced_network_drops_what_eager_code_drops(model, without_kernels):
    assert_drawn_as_eagerly(model)


@pytest.mark.long
@pytest.mark.parametrize("model", DROPPED)
def test_a_compiled_network_drops_what_eager_code_drops(model):
    assert_drawn_as_eagerly(model)


def test_a_statistic_that_is_written_wrongly_is_told(monkeypatch, caplog):
    overrides = ["model=forcenet_small", *MODELS["forcenet_small"]]
    made = training(overrides, compile="default")

    def compile(graph, **options):
        def run(*inputs):
            found = graph(*inputs)
            named = dict(made.model.named_buffers())
            next(b for n, b in named.items() if n.endswith("running_var")).add_(0.1)
            return found

        return run

    monkeypatch.setattr(torch, "compile", compile)
    curve(made, 1)
    assert "a buffer differs by" in made.forward.failed


def test_a_weight_that_a_graph_has_lost_is_told(monkeypatch, caplog):
    made = training(["model=forcenet_small", *MODELS["forcenet_small"]], compile="default")

    def lost(graph):
        found = clean(graph)
        return found[1:]  # the first weight, as if it were a constant

    clean = compiled._clean

    def compile(graph, **options):
        (first, *_) = (w for w in made.model.parameters() if w.requires_grad)
        return lambda *inputs: graph(first.detach(), *inputs)

    monkeypatch.setattr(compiled, "_clean", lost)
    monkeypatch.setattr(torch, "compile", compile)
    curve(made, 1)
    assert "a gradient is missing or infinite" in made.forward.failed


def test_gradients_of_a_micro_batch_do_not_stay_in_memory_of_a_cuda_graph(monkeypatch):
    made = training(["model=schnet", *MODELS["schnet"]], batch_edges=450, compile="default")
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    with closing(made.batches.start(0)) as batches:
        (batch, *_) = next(batches)
    made.forward(batch)
    (graph,) = made.forward.graphs.values()
    graph.mode = "max"
    weight = graph.weights[0]
    weight.grad = taken = torch.ones_like(weight)
    made.forward(batch)
    assert weight.grad is not taken
    assert torch.equal(weight.grad, taken)


def test_a_compiler_that_is_right_is_used_though_it_rounds(monkeypatch, caplog):
    overrides = ["model=forcenet_small", *MODELS["forcenet_small"]]
    monkeypatch.setattr(
        torch, "compile", lambda graph, **options: lambda *x: [1.0005 * y for y in graph(*x)]
    )
    made = training(overrides, compile="default")
    curve(made, 1)
    assert made.forward.failed is None
    assert not [r for r in caplog.records if r.name == compiled.__name__]


@pytest.mark.parametrize(
    ("model", "engine", "ranks", "words"),
    [
        ("gala", {"compile": "default"}, 1, "Gala reads point clouds"),
        ("schnet", {"compile": "max"}, 1, "engine.compile=max records CUDA graphs"),
        ("schnet", {"compile": "default", "sharded": True}, 2, "exclude one another"),
        ("forcenet_small", {"batch_edges": 900}, 2, "BatchNorm1d of this model"),
        ("gala", {"batch_edges": 900}, 1, "this model reads none"),
        ("forcenet_small", {"batch_edges": 900, "compile": "default"}, 1, None),
        ("forcenet_small", {"compile": "default"}, 2, None),
        ("forcenet_small", {"compile": "max"}, 2, "sums over ranks in every step"),
        (
            "forcenet_small model.force_encoding=edge_projection",
            {"compile": "default"},
            2,
            "this model's two heads",
        ),
        ("schnet", {"batch_edges": 900}, 2, None),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(model, engine, ranks, words):
    task = "is2re" if model == "gala" else "s2f"
    case = Case([*f"model={model}".split(), "size=small", f"task={task}"])
    trainer = dataclasses.replace(case.trainer, device="cpu", **engine)
    found = refusal(trainer, case.model, ranks)
    assert found is None if words is None else words in found


def test_an_older_torch_is_refused_in_a_sentence(monkeypatch):
    case = Case(["model=schnet", *MODELS["schnet"]])
    trainer = dataclasses.replace(case.trainer, device="cpu", compile="default")
    for version, refused in (("2.8.1+cu128", True), ("2.9.0", False), ("2.13.0+cpu", False)):
        monkeypatch.setattr(torch, "__version__", version)
        told = refusal(trainer, case.model, 1)
        assert (told is not None) == refused
        assert not refused or "needs torch 2.9 or later, got 2.8.1+cu128" in told


def test_an_unknown_mode_and_a_budget_below_the_largest_structure_are_refused():
    with pytest.raises(ValueError, match="none, default or max, got 'full'"):
        training(["model=schnet", *MODELS["schnet"]], compile="full")
    with pytest.raises(ValueError, match="engine.batch_edges=50 is less than the largest"):
        training(["model=schnet", *MODELS["schnet"]], batch_edges=50)


def run_to_end(path, stop_at=None, **engine):
    made = training(
        ["model=forcenet_small", *MODELS["forcenet_small"]],
        **{"compile": "default", **engine},
        steps=6,
        eval_every=3,
        checkpoint_every=1,
    )
    if path.exists():
        run = RunDirectory(path)
    else:
        run = RunDirectory.create(path, "seed: 0\n", {"identity": "abcdef012345", "science": {}})
    stop = StopFlag()

    def watch(update):
        if update.step == stop_at:
            stop.signal = "SIGTERM"

    rest = (made.recipe, made.data, made.augment, run, 0, stop, watch)
    return fit(made.trainer, made.model, made.task, *rest)


@pytest.mark.slow
def test_a_traced_run_that_was_stopped_ends_with_the_same_bits(tmp_path, without_kernels):
    stop_and_go_on(tmp_path)


@pytest.mark.long
def test_a_compiled_run_that_was_stopped_ends_with_the_same_bits(tmp_path):
    stop_and_go_on(tmp_path)


@pytest.fixture
def deterministic(monkeypatch):
    """Sums over edges in one order, which a GPU takes only when it is asked to."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "default"])
def test_a_run_on_a_gpu_that_was_stopped_ends_with_the_same_bits(mode, tmp_path, deterministic):
    stop_and_go_on(tmp_path, compile=mode, device="cuda")


def stop_and_go_on(tmp_path, **engine):
    expected = run_to_end(tmp_path / "whole", **engine)
    with pytest.raises(Interrupted):
        run_to_end(tmp_path / "cut", stop_at=4, **engine)
    found = run_to_end(tmp_path / "cut", **engine)
    assert found["metrics"] == expected["metrics"]
    last, whole = (torch.load(tmp_path / n / "checkpoints" / "last.pt") for n in ("cut", "whole"))
    assert last["step"] == whole["step"] == 6
    for name, value in whole["model"].items():
        assert torch.equal(last["model"][name], value), name


def test_a_run_goes_on_eagerly_where_it_did_before_it_was_stopped(tmp_path, monkeypatch, caplog):
    """A compiler that failed on one machine may not on the next."""
    compilers = []

    def broken(*args, **kwargs):
        compilers.append(kwargs)
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(Interrupted):
        run_to_end(tmp_path / "cut", stop_at=4)
    kept = checkpoint.load(tmp_path / "cut" / "checkpoints" / "last.pt")["eager_shapes"]
    assert len(kept) == len(compilers) > 0
    compilers.clear()
    caplog.clear()
    run_to_end(tmp_path / "cut")
    assert not compilers
    assert not [r for r in caplog.records if r.name == compiled.__name__]
    assert checkpoint.load(tmp_path / "cut" / "checkpoints" / "last.pt")["eager_shapes"] == kept


@pytest.mark.slow
def test_what_a_killed_compiler_has_left_half_written_is_written_again(place):
    """Else every later run of the folder would be trained eagerly."""
    words = ["model=schnet", "size=small", "model.num_layers=1", "data=mini_oc_tiny"]
    words += ["engine.compile=default", "engine.steps=2", "tracking=none"]
    words += ["engine.eval_splits=[val_id]"]
    code, output = place.run(*words)
    assert code == 0, output
    folder = place.path / "runs" / schema.COMPILED
    written = list(folder.rglob("*.so"))
    assert len(written) > 10
    for number, path in enumerate(written):
        path.write_bytes(path.read_bytes()[: -8 if number % 2 else 0])
        # what its compiler held while it wrote, so that nothing is taken from one that does
        assert (path.parents[1] / "locks" / f"{path.name.partition('.')[0]}.lock").exists()
    code, output = place.run(*words, "seed=1")
    assert code == 0, output
    assert "trained eagerly" not in output
    assert all(_is_whole(path) for path in folder.rglob("*.so"))


FILES = {  # where torch has one, its first bytes while it is written, and when it is whole
    "library": ("ab/key.main.so", b"\x7fELF\x02\x01", Path(torch._C.__file__).read_bytes()),
    "header": ("key.h.gch", b"gpcWrite" + bytes(16376), b"gpch+014" + bytes(16376)),
}


@pytest.fixture(params=FILES)
def unfinished(request, tmp_path):
    """A file that a compiler has begun, long ago; the lock of its key; and what it is to become."""
    name, begun, whole = FILES[request.param]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(begun)
    os.utime(path, (0, 0))
    return path, tmp_path / "locks" / "key.lock", whole


def test_what_is_half_written_is_taken_away_unless_it_is_being_written(unfinished, tmp_path):
    """GCC and its linker may read for minutes before they write on."""
    path, lock, whole = unfinished
    lock.parent.mkdir()
    with FileLock(lock):
        assert remove_damaged(tmp_path) == []
    assert remove_damaged(tmp_path) == [path]
    path.write_bytes(whole)
    assert remove_damaged(tmp_path) == []
    path.write_bytes(whole[: len(whole) // 2] if path.suffix == ".so" else bytes(len(whole)))
    assert remove_damaged(tmp_path) == [path]
    assert remove_damaged(tmp_path / "no folder") == []


def test_nobody_begins_a_file_while_it_is_taken_away(unfinished, tmp_path, monkeypatch):
    path, lock, _ = unfinished
    unlink, asked = Path.unlink, []

    def watched(file):
        asked.append(file)
        with pytest.raises(Timeout):
            FileLock(lock, timeout=0).acquire()  # as another run's compiler would
        unlink(file)

    monkeypatch.setattr(Path, "unlink", watched)
    assert remove_damaged(tmp_path) == asked == [path]


def test_what_became_whole_before_its_lock_was_free_is_kept(unfinished, tmp_path, monkeypatch):
    path, _, whole = unfinished
    acquire = FileLock.__enter__

    def late(lock):
        path.write_bytes(whole)
        return acquire(lock)

    monkeypatch.setattr(FileLock, "__enter__", late)
    assert remove_damaged(tmp_path) == []
    assert path.read_bytes() == whole


def test_only_files_where_torch_writes_them_are_taken_away(tmp_path):
    """A user may name a folder that holds other things as well."""
    mine = [tmp_path / "mine.so", tmp_path / "a" / "b" / "mine.so", tmp_path / "a" / "mine.gch"]
    mine[1].parent.mkdir(parents=True)
    for path in mine:
        path.write_bytes(b"gpcWrite" if path.suffix == ".gch" else b"\x7fELF")
    assert remove_damaged(tmp_path) == []


def test_kernels_of_another_cpu_lie_in_another_folder(monkeypatch):
    told = "processor : 0\nmodel name : A\ncpu MHz : 1\nflags : fpu avx2\n"
    kinds = []
    for text in (told, told.replace("MHz : 1", "MHz : 2"), told.replace("avx2", "avx2 amx")):
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        kinds.append(cpu_kind())
    assert kinds[0] == kinds[1] != kinds[2]
    assert kinds[0].partition("-")[0] == kinds[2].partition("-")[0]  # the vectors are the same


@pytest.mark.slow
def test_a_trial_of_a_new_shape_asks_nothing_of_other_ranks(monkeypatch, without_kernels):
    """They may know the shape, and be at their step: a sum more on one side would be its end."""
    sums = []
    ranks = SimpleNamespace(is_initialized=lambda: True, all_reduce=lambda tensor: sums.append(1))
    monkeypatch.setattr("atomsweep.nn.sync_norm.dist", ranks)
    made = training(["model=forcenet_small", *MODELS["forcenet_small"]], compile="default")
    with closing(made.batches.start(0)) as batches:
        (batch,) = next(batches)
    counted = []
    for _ in range(2):  # the first makes and tries the graph
        before = len(sums)
        made.forward(batch)
        counted.append(len(sums) - before)
    assert made.forward.failed is None
    assert counted[0] == counted[1] > 0


def test_kernels_lie_beside_the_runs_unless_the_user_names_a_folder(tmp_path, monkeypatch):
    trainer = dataclasses.replace(Case(["model=schnet", *MODELS["schnet"]]).trainer, device="cpu")
    for before, wanted in (
        (None, tmp_path),
        (compiled.default_cache_dir(), tmp_path),
        ("/a", "/a"),
    ):
        monkeypatch.delenv(compiled.CACHE, raising=False)
        if before is not None:
            monkeypatch.setenv(compiled.CACHE, before)
        monkeypatch.delenv(compiled.THREADS, raising=False)
        compiled.compile_into(tmp_path, dataclasses.replace(trainer, threads=3))
        folder = Path(compiled.os.environ[compiled.CACHE])
        assert folder == Path("/a") if before == "/a" else folder.parent == wanted
        assert inductor.compile_threads == 3
