"""One run on several real processes (gloo) against the same run in one."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.engine import distributed, loop, ranks
from atomsweep.engine.distributed import World
from atomsweep.engine.ranks import RankLost, Ranks, invitation, invite
from atomsweep.launch.compose import cell_of
from atomsweep.launch.local.pool import run_cells
from atomsweep.models.median import MedianBaseline
from atomsweep.nn.sync_norm import SyncBatchNorm1d, synchronise_batch_norm
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.train import job, train
from tests.contracts.compose import compose_with_choices
from tests.launch.silent import Silent

COMMON = [
    "data=mini_oc_tiny",
    "tracking=none",
    "model.hidden_channels=8",
    "engine.steps=8",
    "engine.eval_every=4",
    "engine.eval_batch_size=3",
    "engine.checkpoint_every=2",
    "engine.log_every=1",
    "optim.batch_size=7",  # not a multiple of two
]
SGD = ["optim.optimizer._target_=torch.optim.SGD", "optim.optimizer.lr=0.02"]
CASES = {
    "adam, clipped, rotated": ["augmentation=rotate_so3", "optim.clip_norm=0.5"],
    "batch norm in micro-batches, averaged": [
        *SGD,
        "ablation=node_linear_bn",
        "optim.accumulate=2",
        "+optim.ema_decay=0.9",
    ],
    "batch norm over edges, with workers": [*SGD, "ablation=edge_linear_bn", "engine.workers=2"],
}


LONG = pytest.mark.long
AVERAGED = CASES["batch norm in micro-batches, averaged"]


@pytest.fixture(scope="module")
def made(mini_oc_tiny):
    """Makes the run directory of a choice."""

    def make(root, *overrides):
        where = f"data.root={mini_oc_tiny.directory.parent}"
        overrides = [*COMMON, where, *(o.replace("+optim.", "optim.") for o in overrides)]
        return cell_of(*compose_with_choices(overrides), overrides).create(root, None, "")

    return make


def in_double(path, work=job):
    """A run in double precision, where rounding does not hide a wrong sum."""
    torch.set_default_dtype(torch.float64)
    read = GraphDataset.batch

    def batch(self, indices):
        found = read(self, indices)
        for name in {"pos", "cell", "energy", "forces"} & set(found.keys()):
            found[name] = found[name].double()
        return found

    GraphDataset.batch = batch
    try:
        work(path)
    finally:
        GraphDataset.batch = read
        torch.set_default_dtype(torch.float32)


def on_ranks(context, size, runs, work=job):
    return run_cells(runs, work, 1, "cpu", context, Silent(), ranks=size)


def alone(run, work=job):
    work(str(run.path))
    return run


def curve(run, name="train/loss"):
    return [line[name] for line in run.journal() if name in line]


def weights(run, name="best.pt"):
    return torch.load(run.path / "checkpoints" / name, weights_only=True)["model"]


@pytest.fixture(scope="module")
def straight(made, context, tmp_path_factory):
    """An undisturbed run on two ranks."""
    run = made(tmp_path_factory.mktemp("straight"), *AVERAGED)
    on_ranks(context, 2, [run])
    return run


def assert_same(run, other, tolerance=1e-6):
    assert curve(run) == pytest.approx(curve(other), rel=tolerance)
    assert len(curve(run)) == 8
    assert run.result["metrics"] == pytest.approx(other.result["metrics"], rel=tolerance)
    assert run.result["structures"] == other.result["structures"]
    one, two = weights(run), weights(other)
    assert list(one) == list(two)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=100 * tolerance, atol=tolerance)


SCHNET = [*SGD, "model=schnet", "act=shifted_softplus", "basis=none", "size=small", "task=s2ef"]


@LONG
@pytest.mark.parametrize(
    ("recipe", "choice"),
    [
        ([*SGD, "ablation=node_linear_bn", "optim.accumulate=2"], "engine.compile=default"),
        (SCHNET, "engine.batch_edges=900"),
    ],
    ids=["compiled", "packed"],
)
def test_two_ranks_that_are_compiled_or_packed_train_as_one_eager_process(
    tmp_path, made, context, recipe, choice
):
    one = alone(made(tmp_path / "one", *recipe), in_double)
    two = made(tmp_path / "two", *recipe, choice)
    outcome = on_ranks(context, 2, [two], in_double)[two.path]
    assert outcome.state == schema.FINISHED, outcome
    assert "could not be compiled" not in (two.path / schema.LOG).read_text()
    assert_same(two, one)


@pytest.mark.parametrize("case", [*list(CASES)[:2], pytest.param(list(CASES)[2], marks=LONG)])
def test_two_ranks_train_as_one_process_does(tmp_path, made, context, case):
    one = alone(made(tmp_path / "one", *CASES[case]), in_double)
    two = made(tmp_path / "two", *CASES[case])
    outcome = on_ranks(context, 2, [two], in_double)[two.path]
    assert outcome.state == schema.FINISHED, outcome
    assert one.identity == two.identity
    assert_same(two, one)
    assert [s["world_size"] for s in two.segments()] == [2]
    speed = [line for line in two.journal() if f"train/{schema.STRUCTURES_PER_S}" in line]
    assert all(
        line[f"train/{schema.STRUCTURES_PER_S}"]
        == pytest.approx(2 * line[f"train/{schema.STRUCTURES_PER_S_RANK}"])
        for line in speed
    )
    assert two.path.name == one.path.name


@pytest.mark.long
def test_four_ranks_train_as_one_process_does(tmp_path, made, context):
    one, four = (made(tmp_path / name, *AVERAGED) for name in ("one", "four"))
    for run in (one, four):  # a micro-batch must give each rank something
        text = (run.path / schema.CONFIG).read_text()
        (run.path / schema.CONFIG).write_text(text.replace("batch_size: 7", "batch_size: 8"))
    alone(one, in_double)
    outcome = on_ranks(context, 4, [four], in_double)[four.path]
    assert outcome.state == schema.FINISHED, outcome
    assert_same(four, one)


def interrupted_at_four(path):
    """Rank 0 gets a signal after step 4; all ranks stop at one step."""

    def watch(update):
        if update.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    from atomsweep.engine.signals import Interrupted

    try:
        train(RunDirectory(path), watch)
    except Interrupted:
        raise SystemExit(1) from None


@pytest.mark.slow
def test_a_run_moves_between_numbers_of_ranks_and_resumes_to_the_bit_on_the_same(
    tmp_path, made, context, straight
):
    again = made(tmp_path / "again", *AVERAGED)
    outcome = on_ranks(context, 2, [again], interrupted_at_four)[again.path]
    assert outcome.state == schema.INTERRUPTED, outcome
    step = torch.load(again.path / "checkpoints/last.pt", weights_only=True)["step"]
    assert 4 <= step < 8
    moved = made(tmp_path / "moved", *AVERAGED)
    (moved.path / "checkpoints").mkdir()
    for name in ("checkpoints/last.pt", "checkpoints/best.pt", schema.JOURNAL):
        (moved.path / name).write_bytes((again.path / name).read_bytes())

    on_ranks(context, 2, [again])
    assert curve(again) == curve(straight)
    assert again.result["metrics"] == straight.result["metrics"]
    assert all(torch.equal(v, weights(straight)[k]) for k, v in weights(again).items())
    assert_same(alone(moved), straight, tolerance=0.02)  # single precision


def killed_at_four(path):
    """Rank 1 is killed in the midst of the run."""

    def watch(update):
        if update.step == 4:
            time.sleep(1.0)

    if Ranks.here().rank == 1:
        import threading

        run = RunDirectory(path)

        def kill():
            while not any(line["step"] >= 3 for line in run.journal()):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    try:
        train(RunDirectory(path), watch)
    except RankLost:
        raise SystemExit(ranks.LOST) from None


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_at_a_checkpoint_from_which_it_goes_on(
    tmp_path, made, context, straight
):
    run = made(tmp_path / "run", *AVERAGED)
    began = time.monotonic()
    outcome = on_ranks(context, 2, [run], killed_at_four)[run.path]
    assert time.monotonic() - began < 60
    assert outcome.state == schema.INTERRUPTED
    assert "gone without a word" in outcome.message
    on_ranks(context, 2, [run])
    assert curve(run) == curve(straight)
    assert all(torch.equal(v, weights(straight)[k]) for k, v in weights(run).items())
    assert len(run.segments()) == 2


def killed_in_its_second_evaluation(path):
    """Rank 1 is killed while rank 0 waits for its part of the metrics."""
    if Ranks.here().rank == 1:
        evaluate, calls = loop.evaluate, []

        def killed(*arguments, **settings):
            calls.append(arguments)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(*arguments, **settings)

        loop.evaluate = killed
    try:
        train(RunDirectory(path), lambda update: None)
    except RankLost:
        raise SystemExit(ranks.LOST) from None


@pytest.mark.slow
def test_an_evaluation_in_which_a_rank_is_killed_is_made_again(tmp_path, made, context, straight):
    run = made(tmp_path / "run", *AVERAGED)
    outcome = on_ranks(context, 2, [run], killed_in_its_second_evaluation)[run.path]
    assert outcome.state == schema.INTERRUPTED
    assert run.result is None
    on_ranks(context, 2, [run])
    assert run.result["metrics"] == straight.result["metrics"]
    assert run.result["checkpoint_step"] == straight.result["checkpoint_step"]
    assert curve(run, "val_id/forces_mae") == curve(straight, "val_id/forces_mae")
    assert all(torch.equal(v, weights(straight)[k]) for k, v in weights(run).items())


def broken_on_rank_one(path):
    """Rank 1 cannot read a batch at step 3; the others wait for its part."""
    if Ranks.here().rank == 1:
        read, calls = GraphDataset.batch, []

        def batch(self, indices):
            calls.append(indices)
            if len(calls) > 3:
                raise ValueError("structure 17 of train is damaged")
            return read(self, indices)

        GraphDataset.batch = batch
    job(path)


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_with_its_message(tmp_path, made, context):
    run = made(tmp_path)
    outcome = on_ranks(context, 2, [run], broken_on_rank_one)[run.path]
    assert outcome.state == schema.FAILED
    assert outcome.message == ("RankFailed: rank 1: ValueError: structure 17 of train is damaged")


def infinite_on_rank_one(path):
    """The loss of rank 1 is infinite at step 3."""
    from atomsweep.models.base import Prediction
    from atomsweep.models.forcenet import ForceNet

    forward, calls = ForceNet.forward, []

    def broken(self, batch):
        out = forward(self, batch)
        calls.append(self.training)
        if Ranks.here().rank == 1 and sum(calls) == 3:
            return Prediction(out.energy, out.forces / 0.0)
        return out

    ForceNet.forward = broken
    job(path)


def test_an_infinite_loss_on_one_rank_ends_all_and_names_the_whole_batch(tmp_path, made, context):
    run = made(tmp_path)
    outcome = on_ranks(context, 2, [run], infinite_on_rank_one)[run.path]
    assert outcome.state == schema.FAILED
    assert "NotFiniteError: the loss is not finite at step 3" in outcome.message
    assert outcome.message.split("(sid/fid) ")[1].split(";")[0].count("/") == 7


# Parts of it, in one process


def test_synchronised_batch_norm_is_batch_norm_where_nothing_is_distributed():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    two = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    two.load_state_dict(one.state_dict())
    synchronise_batch_norm(two)
    assert isinstance(two[1], SyncBatchNorm1d)
    x = torch.randn(9, 3)
    assert torch.equal(one(x), two(x))
    assert list(one.state_dict()) == list(two.state_dict())
    with pytest.raises(ValueError, match="0 is a BatchNorm2d"):
        synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))


def group_of_two(monkeypatch, rank, theirs):
    """A world of two in which the other rank's part of each message is known."""

    def all_reduce(tensor, op=None):
        tensor += theirs.pop(0)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return World(rank, 2)


def test_batch_norm_over_ranks_has_the_statistics_and_gradients_of_all_rows(monkeypatch):
    torch.manual_seed(1)
    x = torch.randn(11, 4, dtype=torch.float64) + 3
    whole = nn.BatchNorm1d(4).double()
    mine = SyncBatchNorm1d(4).double()
    expected = whole(x)
    a, b = x[:7], x[7:]
    mean = x.mean(0)
    theirs = [
        torch.cat([b.sum(0), torch.tensor([4.0], dtype=torch.float64)]),
        (b - mean).square().sum(0),
    ]
    group_of_two(monkeypatch, 0, theirs)
    torch.testing.assert_close(mine(a), expected[:7])
    torch.testing.assert_close(mine.running_mean, whole.running_mean)
    torch.testing.assert_close(mine.running_var, whole.running_var)
    assert int(mine.num_batches_tracked) == 1


def test_gradients_add_up_and_a_parameter_that_nobody_uses_keeps_none(monkeypatch):
    used, theirs_only, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    used.grad = torch.tensor([1.0, 2.0])
    message = torch.tensor([10.0, 20.0, 5.0, 6.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.25])
    world = group_of_two(monkeypatch, 0, [message])
    loss = world.add_gradients([used, theirs_only, unused], torch.tensor(0.5))
    assert used.grad.tolist() == [11.0, 22.0]
    assert theirs_only.grad.tolist() == [5.0, 6.0]
    assert unused.grad is None
    assert float(loss) == 0.75


def test_ranks_are_told_by_variables_of_pools_queues_and_torchrun():
    assert Ranks.here({}) == Ranks(0, 1)
    environ = {}
    Ranks(1, 4, 1, "abc").export(environ)
    assert Ranks.here(environ) == Ranks(1, 4, 1, "abc")
    Ranks.forget(environ)
    assert environ == {}
    step = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    assert Ranks.of_slurm("12.0", step) == Ranks(3, 4, 1, "12.0")
    assert Ranks.of_slurm("12.0", {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) == Ranks()
    elastic = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    elastic |= {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}
    assert Ranks.here(elastic) == Ranks(2, 3, 0, "torchrun-a-1-0")
    with pytest.raises(ValueError, match="ATOMSWEEP_RANK must be in"):
        Ranks(2, 2)


def test_an_invitation_of_an_earlier_start_is_not_followed(tmp_path):
    invite(tmp_path, "old", "here", 1)
    with pytest.raises(RankLost, match="rank 0 of .* did not come within 0 s"):
        invitation(tmp_path, "new", lambda: None, wait_s=0.3)
    invite(tmp_path, "new", "there", 2)
    assert invitation(tmp_path, "new", lambda: None) == ("there", 2)


def test_ranks_that_never_come_are_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_S", 0.3)
    with (
        pytest.raises(RankLost, match="2 of 3 ranks did not come"),
        distributed.join(Ranks(0, 3, 0, "m"), Path(tmp_path), torch.device("cpu")),
    ):
        pass


def test_every_structure_is_evaluated_once_whatever_the_number_of_ranks(mini_oc_tiny):
    from atomsweep.engine.batches import eval_shares

    data = GraphDataset(mini_oc_tiny.split("val_id"), None)
    for size in (2, 5):  # in shards all ranks have as many forwards, some of which do not count
        shares = [
            [
                *eval_shares(
                    data,
                    MedianBaseline(),
                    2,
                    World(rank, size),
                    torch.device("cpu"),
                    0,
                    lambda: None,
                    together=True,
                )
            ]
            for rank in range(size)
        ]
        assert len({len(share) for share in shares}) == 1
        counted = [b for share in shares for b in share if "surplus" not in b]
        assert sum(len(b.sid) for b in counted) == len(data)
        assert size == 2 or len(counted) < sum(len(share) for share in shares)
    for size in (1, 2, 3):
        seen, checks = [], [[] for _ in range(size)]
        for rank in range(size):
            check = partial(checks[rank].append, None)
            for batch in eval_shares(
                data, MedianBaseline(), 2, World(rank, size), torch.device("cpu"), 0, check
            ):
                seen += zip(batch.sid.tolist(), batch.fid.tolist(), strict=True)
        assert len(seen) == len(set(seen)) == len(data)
        assert (
            len({len(made) for made in checks}) == 1
        )  # or ranks would wait for a message that never comes


def test_dealt_parts_of_micro_batches_make_up_the_step():
    from atomsweep.data.batches.sampler import BalancedSampler

    sizes = np.random.default_rng(0).integers(10, 99, 40)
    one = BalancedSampler(sizes, 7, 3, accumulate=2)
    both = [BalancedSampler(sizes, 7, 3, rank, 2, accumulate=2) for rank in range(2)]
    for step in (0, 4, 11):
        for whole, *parts in zip(one.parts(step), *(s.parts(step) for s in both), strict=True):
            places = np.concatenate([part.places for part in parts])
            assert sorted(places) == whole.places.tolist()
            for part in parts:
                assert np.array_equal(one.indices(step)[part.places], part.indices)
