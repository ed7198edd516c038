"""On a GPU a run trains as on the CPU, and waits where the fake GPU says that it may.

Where there is no GPU the same code runs on the CPU, so that at least it runs.
"""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import _Active
from atomsweep.tasks.relax.potentials import ModelPotential
from benchmarks.fake_gpu import RELAXATION, TRAINING, place
from tests.contracts.params import ON_GPU, on_gpu
from tests.engine.fake_gpu_cases import EVALUATION, Case, fault, structures

SMALL = ["size=small", "model.num_layers=2"]
MODELS = {
    "forcenet_small": [*SMALL, "task=s2f", "augmentation=rotate_z"],
    "schnet": [*SMALL, "task=s2ef"],
    "equiformer_v2_small": [*SMALL, "task=s2ef_oc20", "dens=v3"],
}


def on_both(models):
    """Models on the CPU, of which the first is for everybody, and all of them on a GPU."""
    slow = {model: [] if number == 0 else pytest.mark.slow for number, model in enumerate(models)}
    here = [pytest.param(model, "cpu", marks=marks) for model, marks in slow.items()]
    return [*here, *(pytest.param(model, "cuda", marks=ON_GPU) for model in models)]


def case(model, device, *more):
    """The same first weights on every device."""
    torch.manual_seed(0)
    return Case([f"model={model}", *MODELS[model], *more], device=device)


@pytest.fixture
def double():
    """Losses are added up in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_double(made):
    """A case in double precision, its batches too."""
    augment = made.augment

    def changed(batch, random):
        batch = batch if augment is None else augment(batch, random)
        for name, value in batch.to_dict().items():
            if torch.is_tensor(value) and value.dtype == torch.float32:
                batch[name] = value.double()
        return batch

    made.model.double()
    made.augment = changed
    return made


@pytest.mark.parametrize(("model", "device"), on_both(MODELS))
def test_steps_are_those_of_the_cpu_in_double_precision(model, device, double):
    """Loss, clipping, the device's own optimiser, statistics of batches: all but rounding."""
    start = in_double(case(model, "cpu")).model.state_dict()
    here, there = (in_double(case(model, where)).train(3) for where in ("cpu", device))
    assert float(there.loss_sum) == pytest.approx(float(here.loss_sum), rel=1e-9)
    found = there.model.state_dict()
    for name, value in here.model.state_dict().items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-7, atol=1e-8, msg=name)
    moved = [name for name, value in start.items() if not torch.equal(value, found[name].cpu())]
    assert len(moved) > len(start) / 2


LOSSES = {"float32": 1e-4, "tf32": 5e-3, "bf16": 5e-2}  # relative to the CPU's in float32


@pytest.mark.parametrize("precision", LOSSES)
@pytest.mark.parametrize(("model", "device"), on_both(MODELS))
def test_a_loss_is_that_of_the_cpu_in_every_precision(model, precision, device):
    expected = float(case(model, "cpu").train(1).loss_sum)
    found = case(model, device, f"engine.precision={precision}").train(1)
    assert float(found.loss_sum) == pytest.approx(expected, rel=LOSSES[precision])
    assert all(torch.isfinite(weight).all() for weight in found.parameters)


@contextmanager
def waits(mode):
    """What CUDA does where the host waits: "default" is nothing, "error" is to raise."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Allowing(TorchDispatchMode):
    def __init__(self, allowed):
        super().__init__()
        self.allowed = allowed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if place() not in self.allowed:
            return func(*args, **(kwargs or {}))
        with waits("default"):
            return func(*args, **(kwargs or {}))


@contextmanager
def waiting_only_in(allowed):
    """An operation that makes the host wait raises, but in the functions that are listed."""
    with ExitStack() as stack:
        stack.enter_context(waits("error"))
        stack.enter_context(_Allowing(allowed))
        yield


@pytest.mark.parametrize(("model", "device"), on_both(MODELS))
def test_steps_and_evaluations_wait_where_the_fake_gpu_says(model, device):
    made = case(model, device)
    training = made.train(3, watched=lambda: waiting_only_in(TRAINING))
    with waiting_only_in(EVALUATION):
        training.evaluate(made.model, "val_id")


@pytest.mark.parametrize(("model", "device"), on_both(["schnet", "forcenet_small"]))
def test_a_step_of_a_relaxation_waits_where_the_fake_gpu_says(model, device):
    potential = ModelPotential(case(model, device).model.to(device).eval())
    active = _Active(potential, LBFGS(), 0.0, steps=3, paths=False)
    active.admit(list(enumerate(structures(4))))
    assert list(active.advance()) == []  # it searches
    before = active.batch.pos
    with waiting_only_in(RELAXATION):
        assert list(active.advance()) == []
    assert not torch.equal(before, active.batch.pos)


@on_gpu
@pytest.mark.parametrize("kind", ["item", "mask", "host copy", "size", "sent in the step"])
def test_a_step_that_waits_is_found(kind):
    made = case("schnet", "cuda")
    with fault(kind), pytest.raises(RuntimeError, match="synchronizing"):
        made.train(1, watched=lambda: waiting_only_in(TRAINING))


@on_gpu
@pytest.mark.slow
def test_compiled_steps_after_the_first_never_wait():
    modes = iter(["default", "error", "error"])
    made = case("forcenet_small", "cuda", "engine.compile=default")
    training = made.train(3, watched=lambda: waits(next(modes)))
    assert training.forward.failed is None
