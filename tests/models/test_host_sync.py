"""A training step asks the host for no value: operations that would wait for a GPU are counted."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.compose import build_model
from tests.contracts.graphs import make_batch
from tests.dens.toys import SEED, dens, s2ef
from tests.models.test_equivariance import EQUIFORMER, EQUIFORMER_V2, ESCN, STRUCTURES, batch_of

WAITING = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "is_nonzero",
}
# Elements are looked at only where they lie on a CPU (`check_elements_on_cpu`)
FORCENET = ["model=forcenet_small", "model.hidden_channels=16"]
ENCODING = ["model.force_encoding=edge_projection", "model.energy_head=true"]


class Waits(TorchDispatchMode):
    """Names of the operations whose result or shape the host must wait for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in {"index", "index_put", "index_put_"} and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if name in WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("overrides", "dens"),
    [
        (EQUIFORMER_V2, []),
        (EQUIFORMER_V2, ["model.dens=true"]),
        (ESCN, []),
        (ESCN, ["model.dens=true"]),
        (EQUIFORMER, []),
        (EQUIFORMER, ["model.dens=true"]),
        (FORCENET, []),
        (FORCENET, ENCODING),
    ],
)
def test_forward_and_backward_ask_the_host_for_nothing(overrides, dens, monkeypatch):
    torch.manual_seed(0)
    model = build_model([*overrides, *dens]).train()
    monkeypatch.setattr(type(model), "check_elements_on_cpu", lambda self, numbers: None)
    batch = batch_of(model, STRUCTURES[:1], torch.float32)
    if not dens:
        batch = make_batch(STRUCTURES[:1], model.cutoff, None, dtype=torch.float32)
    with Waits() as waits:
        prediction = model(batch)
        assert (prediction.noise is not None) == bool(dens)
        outputs = [part for part in prediction if part is not None]
        sum(part.square().sum() for part in outputs).backward()
    assert waits.found == []


@pytest.mark.parametrize("graph", ["keep", "rebuild"])
def test_the_loss_with_dens_waits_only_where_the_graph_is_rebuilt(graph, monkeypatch):
    torch.manual_seed(0)
    model = build_model([*EQUIFORMER_V2, "model.dens=true"]).train()
    monkeypatch.setattr(type(model), "check_elements_on_cpu", lambda self, numbers: None)
    task = dens(graph=graph, prob=1.0).around(s2ef())
    network = task.adapt(model)
    batch = make_batch(STRUCTURES[:1], model.cutoff, None, dtype=torch.float32)
    batch.places = torch.arange(1)
    with Waits() as preparing:
        batch = task.prepare(batch, SEED, 0.5)
    assert bool(preparing.found) == (graph == "rebuild")
    task.totals(network(batch), batch)  # the first batch's labels are looked at once
    with Waits() as waits:
        counts, totals = task.counts(batch), task.totals(network(batch), batch)
        sum(task.coefficients[name] * totals[name] / counts[name] for name in totals).backward()
    assert waits.found == []


def test_an_operation_that_waits_is_found():
    with Waits() as waits:
        x = torch.ones(3)
        x[x > 0]
        x.sum().item()
        x.nonzero()
    assert waits.found == ["index", "_local_scalar_dense", "nonzero"]
