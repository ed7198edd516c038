"""Fully sharded training on real processes (gloo) against the same run that is not sharded."""

import pytest
import torch

from atomsweep.engine.sharding import whole
from atomsweep.experiment import train
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory
from tests.engine.test_distributed import (  # noqa: F401: fixtures
    alone,
    assert_same,
    context,
    curve,
    in_double,
    interrupted_at_four,
    made,
    on_ranks,
    weights,
)

SHARDED = ["engine.sharded=true"]
RECIPE = ["optim.clip_norm=0.05", "optim.accumulate=2", "+optim.ema_decay=0.9", "augmentation=none"]


def stopped_then_finished_in_double(path):
    in_double(path)


def test_a_sharded_run_is_the_run_of_one_process(tmp_path, made, context):  # noqa: F811
    one = alone(made(tmp_path / "one", *RECIPE), in_double)
    two = made(tmp_path / "two", *RECIPE, *SHARDED)
    outcome = on_ranks(context, 2, [two], in_double)[two.path]
    assert outcome.state == schema.FINISHED, outcome
    assert one.identity == two.identity
    assert_same(two, one)
