"""Fully sharded training on real processes (gloo) against the same run that is not sharded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from atomsweep.build import build_learner, data_source
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.engine import sharding
from atomsweep.engine.distributed import join
from atomsweep.engine.ranks import Ranks
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.models.median import MedianBaseline
from atomsweep.tracking import schema
from tests.contracts.compose import compose_with_choices
from tests.engine import test_distributed as ranked
from tests.engine.test_distributed import alone, assert_same, in_double, on_ranks, weights

made = ranked.made

RECIPE = [
    "optim.clip_norm=0.05",
    "optim.accumulate=2",
    "+optim.ema_decay=0.9",
    "engine.eval_batch_size=2",
]
SHARDED = [*RECIPE, "engine.sharded=true"]
MODELS = {
    "forcenet_small": ["model.hidden_channels=8"],
    "gns": [],
    "schnet": [],
    "dimenet_pp": [],
    "equiformer_v2_small": [],
    "escn_small": [],
    "equiformer_l2": [],
    "egnn_72k": [],
    "megnet_986k": [],
    "gala": [],
}


def stopped_in_double(path):
    """As `interrupted_at_four`, in double precision; says how much this rank had of the weights."""
    shard = sharding.shard

    def watched(model, *arguments):
        shard(model, *arguments)
        parts = [p for p in model.parameters() if isinstance(p, DTensor)]
        units = [m for m in model.modules() if isinstance(m, FSDPModule)]
        own = sum(p.to_local().numel() for p in parts)
        told = {"own": own, "all": sum(p.numel() for p in model.parameters()), "units": len(units)}
        (Path(path) / f"rank{Ranks.here().rank}.json").write_text(json.dumps(told))

    sharding.shard = ranked_loop().shard = watched
    in_double(path, ranked.interrupted_at_four)


def ranked_loop():
    from atomsweep.engine import loop

    return loop


@pytest.mark.slow
def test_a_sharded_run_is_that_of_one_process_and_its_checkpoint_goes_on_there(
    tmp_path, made, context
):
    """Stopped in shards on two ranks after step 4, it ends in one process as one of its own."""
    one = alone(made(tmp_path / "one", *RECIPE), in_double)
    two = made(tmp_path / "two", *SHARDED)
    assert one.identity == two.identity
    outcome = on_ranks(context, 2, [two], stopped_in_double)[two.path]
    assert outcome.state == schema.INTERRUPTED, outcome
    told = [json.loads((two.path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["own"] + told[1]["own"] == told[0]["all"]
    assert told[0]["own"] < 0.6 * told[0]["all"]
    assert told[0]["units"] > 1
    saved = torch.load(two.path / "checkpoints" / "last.pt", weights_only=True)
    assert 4 <= saved["step"] < 8
    assert not any(isinstance(value, DTensor) for value in saved["model"].values())
    assert {k: v.shape for k, v in saved["model"].items()} == {
        k: v.shape for k, v in weights(one).items()
    }
    assert_same(alone(two, in_double), one)


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"), [((2, SHARDED), (4, SHARDED)), ((2, RECIPE), (2, SHARDED))]
)
def test_checkpoints_move_between_ranks_and_between_sharded_and_not(
    tmp_path, made, context, before, after
):
    one = alone(whole_parts(made(tmp_path / "one", *RECIPE)), in_double)
    run = whole_parts(made(tmp_path / "run", *before[1]))
    on_ranks(context, before[0], [run], partial_stop)
    assert run.state() == schema.INTERRUPTED
    config = (run.path / schema.CONFIG).read_text()
    sharded = "engine.sharded=true" in after[1]
    (run.path / schema.CONFIG).write_text(
        config.replace("sharded: false", f"sharded: {str(sharded).lower()}")
    )
    outcome = on_ranks(context, after[0], [run], in_double)[run.path]
    assert outcome.state == schema.FINISHED, outcome
    assert_same(run, one)
    (epoch,) = (line for line in run.journal() if "train/epoch" in line)
    assert epoch["step"] == 7  # 95 structures in batches of 12
    name = f"train/{schema.EPOCH_EDGES_PER_S}"
    by_rank = [epoch[name + schema.OF_RANK.format(rank)] for rank in range(after[0])]
    assert epoch[name] == pytest.approx(sum(by_rank))
    assert 0 < epoch[f"train/{schema.EPOCH_SLOWEST}"] <= 1


def partial_stop(path):
    in_double(path, ranked.interrupted_at_four)


def whole_parts(run):
    """A batch that four ranks can share in two micro-batches."""
    text = (run.path / schema.CONFIG).read_text()
    (run.path / schema.CONFIG).write_text(text.replace("batch_size: 7", "batch_size: 12"))
    return run


# Every model


def gradients_of_every_model(path):
    """Write the largest error of a gradient or prediction in shards, for each config."""
    path = Path(path)
    configs = yaml.safe_load((path / "models.yaml").read_text())
    torch.set_default_dtype(torch.float64)
    ranks, cpu, errors = Ranks.here(), torch.device("cpu"), {}
    with join(ranks, path, cpu):
        for name, config in configs.items():
            torch.manual_seed(0)
            model = build_learner(config)[0].double()
            has_edges = model.cutoff is not None
            graph = RadiusGraph(model.cutoff, model.max_neighbors) if has_edges else None
            data = GraphDataset(data_source(config).split("val_id"), graph)
            every, mine = in_doubles(data, np.arange(2)), np.arange(ranks.rank, 2, ranks.size)
            loss_of(model, every).backward()
            expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            forces = model(every).forces.detach()
            model.zero_grad()
            sharding.shard(model, cpu, model.conservative)
            for _ in range(2):  # gradients of micro-batches add up
                loss_of(model, in_doubles(data, mine)).backward()
            found = [sharding.whole(p.grad) for p in model.parameters()]
            # softmax leaves Gala's last biases nothing but rounding
            least = 1e-6 * max(float(e.abs().max()) for e in expected if e is not None)
            errors[name] = [
                difference(f, 2 * e, least) if e is not None else float(f.abs().max())
                for f, e in zip(found, expected, strict=True)
                if f is not None
            ]
            model.eval()
            with torch.no_grad():
                again = model(every).forces
            errors[name].append(difference(again, forces))
    if ranks.rank == 0:
        (path / "errors.json").write_text(json.dumps({n: max(e) for n, e in errors.items()}))


def in_doubles(data, places):
    batch = data.batch(places)
    for name in ("pos", "cell", "forces"):
        batch[name] = batch[name].double()
    return batch


def loss_of(model, batch):
    """Sums over structures and atoms, so that those of ranks add up."""
    model.eval()  # no dropout; gradients are taken all the same
    prediction = model(batch)
    loss = (prediction.forces - batch.forces).square().sum()
    return loss if prediction.energy is None else loss + prediction.energy.square().sum()


def difference(found, expected, least=1e-30):
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=least))


@pytest.mark.long
def test_every_model_has_the_same_gradients_in_shards(tmp_path, made, context, mini_oc_tiny):
    run = made(tmp_path)
    where = f"data.root={mini_oc_tiny.directory.parent}"
    configs = {}
    for name, overrides in MODELS.items():
        words = [f"model={name}", "size=small", "data=mini_oc_tiny", where, *overrides]
        cfg, _ = compose_with_choices(words)
        configs[name] = ranked.cell_of(cfg, {}, words).config
    (run.path / "models.yaml").write_text(yaml.safe_dump(configs))
    on_ranks(context, 2, [run], gradients_of_every_model)
    errors = json.loads((run.path / "errors.json").read_text())
    assert set(errors) == set(MODELS)
    assert max(errors.values()) < 1e-9, errors


# Parts, in one process


def test_blocks_that_share_weights_with_others_are_not_units():
    shared = nn.Linear(2, 2)
    model = MedianBaseline()
    model.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(shared), nn.Sequential(shared)])
    model.more = nn.ModuleList([nn.ReLU(), nn.Linear(2, 2)])
    assert sharding._blocks(model) == [model.blocks[0], model.more[1]]
