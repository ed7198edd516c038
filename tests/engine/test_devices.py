"""Devices that are not here: what is chosen for them, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from atomsweep.build import UserError
from atomsweep.engine import devices
from atomsweep.engine.devices import backend_of, missing_backend, refusal
from atomsweep.launch.compose import cell_of
from atomsweep.launch.execute import placed
from atomsweep.launch.preflight import preflight
from atomsweep.nn.bessel import SphericalBesselBasis
from tests.contracts.compose import compose_with_choices


def test_messages_of_the_host_never_go_through_the_device():
    assert backend_of(torch.device("cpu")) == "gloo"
    assert backend_of(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"
    assert backend_of(torch.device("xpu")) == "cpu:gloo,xpu:xccl"


def test_a_torch_without_the_library_of_a_device_is_named(monkeypatch):
    assert missing_backend(torch.device("cpu")) is None
    monkeypatch.setattr(devices.dist, "is_backend_available", lambda name: name == "gloo")
    assert "ranks on xpu need xccl" in missing_backend(torch.device("xpu"))
    assert "ranks on mps need a library" in missing_backend(torch.device("mps"))


def test_what_mps_and_shards_cannot_do_is_refused_in_a_sentence():
    rest = {"compile": "none", "batch_edges": None}
    mps, plain = (SimpleNamespace(device=d, sharded=d == "cpu", **rest) for d in ("mps", "cpu"))
    linear, bessel = nn.Linear(2, 2), nn.Sequential(SphericalBesselBasis(2, 2, 5.0, 5))
    assert refusal(mps, linear, ranks=1) is None
    assert "no messages between ranks" in refusal(mps, linear, ranks=2)
    assert "Bessel" in refusal(mps, bessel, ranks=1)
    assert refusal(plain, bessel, ranks=2) is None
    linear.scale = nn.Parameter(torch.tensor(1.0))
    assert "engine.sharded=true" in refusal(plain, linear, ranks=2)


def config_of(mini_oc_tiny, *words):
    words = ["data=mini_oc_tiny", f"data.root={mini_oc_tiny.directory.parent}", *words]
    return cell_of(*compose_with_choices(words), words)


def test_engine_ddp_takes_gpus_where_a_cell_gets_some_and_is_the_run_of_engine_cpu(
    mini_oc_tiny, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = config_of(mini_oc_tiny, "engine=ddp", "cluster.ranks=2")
    assert here.config["engine"]["device"] == "cpu"
    assert here.identity == config_of(mini_oc_tiny).identity
    assert preflight(here.config) > 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert config_of(mini_oc_tiny, "engine=ddp").config["engine"]["device"] == "cuda"
    queue = config_of(mini_oc_tiny, "engine=ddp", "cluster=slurm_cpu")
    assert queue.config["engine"]["device"] == "cpu"
    nodes = config_of(mini_oc_tiny, "engine=ddp", "cluster=slurm_gpu")
    assert nodes.config["engine"]["device"] == "cuda"


def test_a_device_that_is_not_here_is_named(mini_oc_tiny, monkeypatch):
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    with pytest.raises(UserError, match="engine.device is xpu, but torch sees no such device"):
        preflight(config_of(mini_oc_tiny, "engine.device=xpu").config)


def test_cells_of_a_sweep_over_ranks_are_runs_of_their_own(mini_oc_tiny):
    words = ["data=mini_oc_tiny", f"data.root={mini_oc_tiny.directory.parent}"]

    def cell(ranks, axes):
        typed = [*words, f"cluster.ranks={ranks}"]
        return cell_of(*compose_with_choices(typed), typed, None, axes)

    one, two = (cell(ranks, ["cluster.ranks", "seed", "basis"]) for ranks in (1, 2))
    plain = cell(2, ["basis"])
    assert one.science["measured"] == {"cluster.ranks": 1}
    assert len({one.identity, two.identity, plain.identity}) == 3
    assert plain.identity == cell(1, []).identity
    assert cell(2, ["engine.threads"]).science["measured"] == {"engine.threads": 1}
    assert "measured" not in cell(2, ["engine.steps", "cluster", "optim.batch_size"]).science


def test_cells_with_other_numbers_of_ranks_are_started_apart_and_one_at_a_time(mini_oc_tiny):
    words = ["data=mini_oc_tiny", f"data.root={mini_oc_tiny.directory.parent}"]
    cells = [
        cell_of(*compose_with_choices(typed), typed, None, ["cluster.ranks", "seed"])
        for ranks in (1, 2)
        for seed in (0, 1)
        for typed in [[*words, f"cluster.ranks={ranks}", f"seed={seed}"]]
    ]
    names = [f"{cell.config['cluster']['ranks']}, {cell.config['seed']}" for cell in cells]
    runs = [SimpleNamespace(path=name) for name in names]
    groups = placed(cells, runs, runs[1:])
    assert [[run.path for run in some] for _, some in groups] == [["1, 1"], ["2, 0", "2, 1"]]
    assert [config["cluster"] for config, _ in groups] == [
        {"parallel": 1, "ranks": 1},
        {"parallel": 1, "ranks": 2},
    ]
