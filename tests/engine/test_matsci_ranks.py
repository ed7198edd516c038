"""The models of the Open MatSci ML Toolkit on two ranks against one process, same whole batch."""

import pytest
import torch

from atomsweep.launch.compose import cell_of
from atomsweep.tracking import schema
from tests.contracts.compose import compose_with_choices
from tests.engine.test_distributed import LONG, alone, curve, in_double, on_ranks, weights

STEPS = 4
COMMON = [
    "size=small",
    "augmentation=none",
    "tracking=none",
    f"engine.steps={STEPS}",
    f"engine.eval_every={STEPS}",
    "engine.eval_batch_size=3",
    "engine.log_every=1",
    "optim.batch_size=5",  # not a multiple of two
    "optim.optimizer.lr=1e-4",
]
# the relaxations of the tiny store, which is there
IS2RE = ["task=is2re", "data=mini_oc_is2re", "data.train_systems=16", "data.val_systems=4"]
IS2RE += ["data.frames_per_system=6", "engine.metric=val_id/normalised_l1"]
S2EF = ["task=s2ef_matsci", "data=mini_oc_tiny", "engine.metric=val_id/normalised_l1"]
GALA = ["model=gala", "model.hidden_channels=8", "model.sample_size=12"]
CASES = {
    "E(n)-GNN, IS2RE": [*IS2RE, "model=egnn_72k"],
    "MegNet, IS2RE": [*IS2RE, "model=megnet_986k"],
    "Gala, IS2RE": [*IS2RE, *GALA],
    "E(n)-GNN, S2EF": [*S2EF, "model=egnn_72k"],
    "MegNet, S2EF": [*S2EF, "model=megnet_1_2m"],
}


DEFAULT = ("E(n)-GNN, IS2RE", "Gala, IS2RE")  # no norms over ranks, and norms


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case if case in DEFAULT else pytest.param(case, marks=LONG) for case in CASES]
)
def test_two_ranks_have_the_losses_of_one_process(tmp_path, mini_oc_tiny, context, case):
    """In double precision, where rounding does not hide a wrong sum."""
    words = [*COMMON, *CASES[case], f"data.root={mini_oc_tiny.directory.parent}"]
    cell = cell_of(*compose_with_choices(words), words)
    one, two = (cell.create(tmp_path / name, None, "") for name in ("one", "two"))
    alone(one, in_double)
    outcome = on_ranks(context, 2, [two], in_double)[two.path]
    assert outcome.state == schema.FINISHED, outcome
    assert [segment["world_size"] for segment in two.segments()] == [2]
    losses = curve(one)
    assert len(losses) == STEPS
    assert len(set(losses)) == STEPS
    assert curve(two) == pytest.approx(losses, rel=1e-9)
    assert two.result["metrics"] == pytest.approx(one.result["metrics"], rel=1e-9)
    theirs = weights(two)
    for name, value in weights(one).items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-7, atol=1e-9)
