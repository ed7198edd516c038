import dataclasses
import errno
import functools
import itertools
import math
import pydoc
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.dataset import InMemoryDataset
from atomsweep.data.structure import Structure
from atomsweep.engine import checkpoint
from atomsweep.engine import result as final
from atomsweep.engine.batches import eval_sample, eval_shares
from atomsweep.engine.distributed import World
from atomsweep.engine.events import NotFiniteError
from atomsweep.engine.fit import fit as fit_run
from atomsweep.engine.optim import Cosine, Recipe
from atomsweep.engine.signals import Interrupted, StopFlag
from atomsweep.engine.trainer import Trainer
from atomsweep.models.base import ForceField, Prediction
from atomsweep.models.median import MedianBaseline
from atomsweep.tasks.s2f import S2F
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory
from tests.contracts.checkpoints import harm
from tests.contracts.params import first

SEED = 3
SPEED = {f"train/{schema.STRUCTURES_PER_S}", f"train/{schema.STRUCTURES_PER_S_RANK}"}


class Springs(ForceField):
    """A small network of one atom's position and element; dropout shows that its seed is right."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.cutoff, self.max_neighbors = None, None
        self.net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(dropout), nn.Linear(8, 3))

    def forward(self, batch):
        x = torch.cat([batch.pos, batch.atomic_numbers[:, None].to(batch.pos.dtype) / 10], -1)
        return Prediction(forces=self.net(x))


def structures(num, seed):
    random = np.random.default_rng(seed)
    made = []
    for sid in range(num):
        n = int(random.integers(2, 6))
        pos = random.normal(size=(n, 3))
        made.append(
            Structure(
                atomic_numbers=random.integers(1, 9, n),
                pos=pos,
                cell=np.zeros((3, 3)),
                pbc=np.zeros(3, bool),
                tags=np.ones(n, int),
                fixed=random.random(n) < 0.2,
                forces=-pos,
                energy=0.0,
                sid=sid,
                fid=seed,
            )
        )
    return made


@functools.cache
def splits():
    names = (schema.TRAIN, *schema.VAL_SPLITS)
    return {
        name: GraphDataset(InMemoryDataset(structures(30, seed), name), None)
        for seed, name in enumerate(names)
    }


TRAINER = Trainer(
    device="cpu",
    threads=1,
    precision="float32",
    steps=24,
    epochs=None,
    device_hours=None,
    eval_every=10,
    eval_splits=["val_id"],
    eval_batch_size=16,
    metric="val_id/forces_mae",
    checkpoint_every=4,
    log_every=5,
)
RECIPE = Recipe(optimizer=lambda p: torch.optim.Adam(p, lr=0.01), schedule=Cosine(), batch_size=6)


def new_run(path):
    return RunDirectory.create(path, "seed: 3\n", {"identity": "abcdef012345", "science": {}})


def fit(run, trainer=TRAINER, recipe=RECIPE, stop_at=None, model=None, data=None, augment=None):
    torch.manual_seed(SEED)
    model = Springs() if model is None else model
    stop = StopFlag()

    def watch(update):
        if stop_at is not None and update.step >= stop_at:
            stop.signal = "SIGTERM"

    data = splits() if data is None else data
    result = fit_run(trainer, model, S2F(), recipe, data, augment, run, SEED, stop, watch)
    return model, result


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def metrics_of(run):
    clock = {schema.DEVICE_SECONDS, schema.EVAL_SECONDS, schema.TIME, *SPEED}
    lines = [line for line in run.journal() if "train/epoch" not in line]  # these are rates
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def shake(batch, random):
    batch = batch.clone()
    sizes = zip(batch.natoms.tolist(), random.generators(), strict=True)
    batch.pos = batch.pos + 0.1 * torch.cat([torch.randn(n, 3, generator=g) for n, g in sizes])
    return batch


class Undisturbed:
    """A run from its first step to its last. Made once for its tests, which only look at it."""

    def __init__(self, folder, dropout=0.0, **options):
        self.run = new_run(folder / "a")
        torch.manual_seed(SEED)
        self.model, self.result = fit(self.run, model=Springs(dropout), **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("dropout"), 0.3)


IN_PARTS = dataclasses.replace(RECIPE, accumulate=2)
AVERAGED = dataclasses.replace(IN_PARTS, ema_decay=0.9, clip_norm=1.0)


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("parts"), recipe=IN_PARTS, augment=shake)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    return Undisturbed(folder, 0.3, recipe=AVERAGED, augment=shake)


@pytest.mark.parametrize("stop_at", [4, 5, 8, 10, 12, 20])
def test_a_run_stopped_anywhere_and_continued_ends_with_the_same_bits(averaged, tmp_path, stop_at):
    straight, expected, whole = averaged.model, averaged.result, averaged.run
    run = new_run(tmp_path / "b")
    torch.manual_seed(SEED)
    with pytest.raises(Interrupted, match="the same command continues"):
        fit(run, recipe=AVERAGED, stop_at=stop_at, model=Springs(0.3), augment=shake)
    torch.manual_seed(999)
    other = Springs(0.3)  # its own weights are replaced by the checkpoint's
    continued, result = fit(run, recipe=AVERAGED, model=other, augment=shake)
    assert torch.equal(weights(straight), weights(continued))
    assert result["metrics"] == expected["metrics"]
    assert metrics_of(run) == metrics_of(whole)
    last = [checkpoint.load(r.path / "checkpoints" / "last.pt") for r in (whole, run)]
    assert all(torch.equal(last[0]["model"][k], v) for k, v in last[1]["model"].items())


def test_work_after_the_last_checkpoint_is_done_again_not_doubled(plain, tmp_path):
    """A kill between checkpoints leaves journal lines that the checkpoint does not know."""
    run = new_run(tmp_path / "b")
    with pytest.raises(Interrupted):
        fit(run, stop_at=10)
    early = checkpoint.load(run.path / "checkpoints" / "last.pt")
    assert early["step"] == 11
    fit(run)
    (run.path / schema.RESULT).unlink(missing_ok=True)
    torch.save(early, run.path / "checkpoints" / "last.pt")  # as if killed at step 24
    _, result = fit(run)
    assert metrics_of(run) == metrics_of(plain.run)
    assert result["metrics"] == plain.result["metrics"]


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = {  # what fails, and the call of it that does
    "an evaluation": ("atomsweep.engine.loop.evaluate", 2),
    "the first evaluation": ("atomsweep.engine.loop.evaluate", 1),
    "a checkpoint of an evaluation": ("atomsweep.engine.checkpoint.write_atomic", 5),
    "a checkpoint": ("atomsweep.engine.checkpoint.write_atomic", 7),
    "a checkpoint after that": ("atomsweep.engine.checkpoint.write_atomic", 8),
    "a line of the journal": ("atomsweep.tracking.run.append_line", 4),
    "another line of the journal": ("atomsweep.tracking.run.append_line", 5),
}


@pytest.mark.parametrize("fault", first(3, FAULTS))
@pytest.mark.parametrize("once", [True, False], ids=["once", "until the end"])
def test_what_fails_in_mid_run_is_made_again_and_the_end_is_the_undisturbed_one(
    plain, tmp_path, monkeypatch, fault, once
):
    name, which = FAULTS[fault]
    real, calls = pydoc.locate(name), itertools.count(1)

    def fails(*arguments, **options):
        call = next(calls)
        if call == which or (call > which and not once):
            full_disk()
        return real(*arguments, **options)

    run = new_run(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(name, fails)
        with pytest.raises(OSError, match="No space left"):
            fit(run)
    assert not (run.path / schema.RESULT).exists()
    again, result = fit(run)
    assert torch.equal(weights(again), weights(plain.model))
    assert metrics_of(run) == metrics_of(plain.run)
    assert result["metrics"] == plain.result["metrics"]
    assert result["checkpoint_step"] == plain.result["checkpoint_step"]


def test_training_learns_and_the_best_checkpoint_is_what_is_evaluated(tmp_path):
    trainer = dataclasses.replace(TRAINER, steps=300, eval_every=50, log_every=50)
    run = new_run(tmp_path / "a")
    _, result = fit(run, trainer)
    seen = [line["val_id/forces_mae"] for line in run.journal() if "val_id/forces_mae" in line]
    assert seen[-1] < 0.5 * seen[0]
    assert result["metrics"]["val_id/forces_mae"] == min(seen)
    assert result["step"] == 300
    four = [result["metrics"][f"{split}/forces_mae"] for split in schema.VAL_SPLITS]
    assert result["metrics"]["val_avg/forces_mae"] == pytest.approx(sum(four) / 4)


def test_parameters_that_are_not_trained_are_counted_too(tmp_path):
    """As papers count: public networks have some that nothing reads."""
    model = Springs()
    model.net[0].requires_grad_(False)
    before = model.net[0].weight.clone()
    _, result = fit(new_run(tmp_path / "a"), model=model)
    assert result["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    assert torch.equal(model.net[0].weight, before)


def test_an_evaluation_before_the_first_averaged_loss_says_nothing_of_it(tmp_path, caplog):
    trainer = dataclasses.replace(TRAINER, steps=40, eval_every=20, log_every=30)
    with caplog.at_level("INFO"):
        fit(new_run(tmp_path / "a"), trainer)
    first, second = [line for line in caplog.messages if line.startswith(("step 20", "step 40"))]
    assert "loss" not in first
    assert "train loss" in second
    assert "nan" not in caplog.text


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    """Structures differ in their number of atoms, so a mean of means would be wrong."""
    trainer = dataclasses.replace(TRAINER, steps=5)
    recipe = dataclasses.replace(RECIPE, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    one, _ = fit(new_run(tmp_path / "a"), trainer, recipe)
    three, _ = fit(new_run(tmp_path / "b"), trainer, dataclasses.replace(recipe, accumulate=3))
    torch.testing.assert_close(weights(one), weights(three), rtol=1e-5, atol=1e-6)


def test_an_infinite_loss_stops_with_step_and_structures_and_keeps_the_checkpoint(tmp_path):
    class Breaks(Springs):
        calls = 0

        def forward(self, batch):
            out = super().forward(batch)
            if self.training:
                self.calls += 1
            return Prediction(forces=out.forces / (0.0 if self.calls == 7 else 1.0))

    run = new_run(tmp_path / "a")
    with pytest.raises(NotFiniteError, match=r"at step 7; .* \(sid/fid\) (\d+/0, ){5}\d+/0;"):
        fit(run, model=Breaks())
    assert checkpoint.load(run.path / "checkpoints" / "last.pt")["step"] == 4


def test_a_budget_in_epochs_is_that_many_passes(tmp_path):
    trainer = dataclasses.replace(TRAINER, steps=None, epochs=2.0)
    run = new_run(tmp_path / "a")
    _, result = fit(run, trainer)
    assert result["step"] == 2 * 30 // 6
    epochs = [line for line in run.journal() if "train/epoch" in line]
    assert [(line["step"], line["train/epoch"]) for line in epochs] == [(5, 1), (10, 2)]
    assert result["throughput"] == {
        name: epochs[-1][name] for name in epochs[-1] if name.endswith("_per_s")
    }
    structures, _, edges = result["throughput"].values()
    assert structures > 0
    assert edges == 0  # the toy model asks for none


def test_a_budget_in_device_time_ends_when_it_is_used_and_evaluates(tmp_path):
    trainer = dataclasses.replace(TRAINER, steps=None, device_hours=0.2 / 3600)
    run = new_run(tmp_path / "a")
    _, result = fit(run, trainer)
    assert result["device_seconds"] >= 0.2
    assert math.isfinite(result["metrics"]["val_id/forces_mae"])
    assert run.journal()[-1]["step"] == result["step"]


@pytest.mark.parametrize("budget", [{"steps": 12}, {"epochs": 2.0}, {"device_hours": 0.1 / 3600}])
def test_that_the_budget_is_used_is_told_before_the_last_value(tmp_path, budget):
    """A study that sees the last value knows then that there is nothing left to stop."""
    run, seen = new_run(tmp_path / "a"), []

    def watch(update):
        if update.fraction >= 1.0 and not seen:
            seen.append((update.step, [line["step"] for line in valued(run)]))

    def valued(run):
        return [line for line in run.journal() if "val_id/forces_mae" in line]

    trainer = dataclasses.replace(TRAINER, **{"steps": None, **budget})
    torch.manual_seed(SEED)
    fit_run(trainer, Springs(), S2F(), RECIPE, splits(), None, run, SEED, StopFlag(), watch)
    ((step, before),) = seen
    assert step not in before
    assert valued(run)[-1]["step"] == step


def test_evaluation_is_not_counted_as_training(tmp_path, monkeypatch):
    """By a clock that stands still but for one second a step, and a hundred a batch evaluated."""
    passed = {True: 0.0, False: 0.0}

    class Timed(Springs):
        def forward(self, batch):
            passed[self.training] += 1.0 if self.training else 100.0
            return super().forward(batch)

    monkeypatch.setattr("time.perf_counter", lambda: sum(passed.values()))
    _, result = fit(new_run(tmp_path / "a"), model=Timed())
    assert result["device_seconds"] == passed[True] == TRAINER.steps
    assert result["eval_seconds"] == passed[False] >= 3 * 2 * 100.0


def test_bfloat16_trains_close_to_float32(tmp_path):
    trainer = dataclasses.replace(TRAINER, steps=100, eval_every=50)
    _, full = fit(new_run(tmp_path / "a"), trainer)
    _, half = fit(new_run(tmp_path / "b"), dataclasses.replace(trainer, precision="bf16"))
    name = "val_id/forces_mae"
    assert half["metrics"][name] == pytest.approx(full["metrics"][name], rel=0.2)
    assert half["metrics"][name] != full["metrics"][name]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run = new_run(tmp_path / "a")
    with pytest.raises(Interrupted):
        fit(run, stop_at=8)
    other = RunDirectory.create(tmp_path / "b", "seed: 3\n", {"identity": "0" * 12, "science": {}})
    (other.path / "checkpoints").mkdir()
    last = (run.path / "checkpoints" / "last.pt").read_bytes()
    (other.path / "checkpoints" / "last.pt").write_bytes(last)
    with pytest.raises(ValueError, match="belongs to run abcdef012345, not to 000000000000"):
        fit(other)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = new_run(tmp_path / "a")
    with pytest.raises(Interrupted):
        fit(run, stop_at=8)
    last = run.path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"last.pt cannot be read .*delete it to start"):
        fit(run)


def whole_folder(file):
    shutil.rmtree(file.parent)


@pytest.mark.parametrize(
    ("name", "follow", "advice"),
    [
        ("last.pt", Path.unlink, "delete it to start this run again from step 0"),
        ("best.pt", whole_folder, "delete the folder .*checkpoints and run the same command again"),
    ],
)
@pytest.mark.parametrize(
    "how", first(2, ["cut", "gone", "other weights", "no step", "weights of text"])
)
def test_the_advice_about_a_lost_checkpoint_works(plain, tmp_path, name, follow, advice, how):
    run = new_run(tmp_path / "b")
    if name == "last.pt":
        with pytest.raises(Interrupted):
            fit(run, stop_at=12)
    else:  # which every better evaluation before the end would write anew
        fit(run)
    file = run.path / "checkpoints" / name
    harm(file, how)
    if (name, how) != ("last.pt", "gone"):  # which is a run that begins
        with pytest.raises(ValueError, match=f"{name}.*; {advice}"):
            fit(run)
        follow(file)
    _, result = fit(run)
    assert result["metrics"] == plain.result["metrics"]
    assert [one["step"] for one in run.journal()] == sorted(one["step"] for one in run.journal())


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"model": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(tmp_path / "bad.pt")
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_keeps_the_previous_checkpoint_and_names_the_path(tmp_path, monkeypatch):
    import os

    path = tmp_path / "checkpoints" / "last.pt"
    checkpoint.save(path, {"model": {"w": torch.ones(3)}, "step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last\.pt"):
        checkpoint.save(path, {"model": {"w": torch.zeros(3)}, "step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": None}, "one budget, .*got none"),
        ({"epochs": 1.0}, "engine.epochs=1.0; for the last of these add engine.steps=null"),
        ({"steps": 0}, "positive"),
        ({"eval_frames": 0}, "engine.eval_frames must be at least 1"),
        ({"cache_gib": -1.0}, "engine.cache_gib must not be negative"),
        ({"log_every": 0}, "engine.log_every must be at least 1"),
        ({"metric": "val_ood_ads/forces_mae"}, "with a split of engine.eval_splits"),
    ],
)
def test_a_budget_or_cadence_that_makes_no_sense_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TRAINER, **change)


class StopsInEvaluation(Springs):
    """Asks for a stop in the `at`-th forward of an evaluation."""

    def __init__(self, stop, at):
        super().__init__(0.3)
        self.stop, self.left = stop, at

    def forward(self, batch):
        if not self.training:
            self.left -= 1
            if self.left == 0:
                self.stop.signal = "SIGUSR2"
        return super().forward(batch)


# Splits of 30 in batches of 16: two forwards for val_id at each of steps 10, 20 and 24, then at the
# end two for each of four splits. A stop is seen before the next batch.
@pytest.mark.parametrize("at", first(3, [1, 6, 12, 3, 5, 7, 8, 9, 13]))
def test_a_run_stopped_while_it_is_evaluated_continues_there(
    with_dropout, tmp_path, at, monkeypatch
):
    monkeypatch.setattr(final, "write_sample", lambda *_: None)  # its forwards are not counted
    trainer = dataclasses.replace(TRAINER, workers=at % 2)
    run = new_run(tmp_path / "b")
    stop = StopFlag()
    torch.manual_seed(SEED)
    model = StopsInEvaluation(stop, at)
    with pytest.raises(Interrupted, match="SIGUSR2"):
        fit_run(trainer, model, S2F(), RECIPE, splits(), None, run, SEED, stop)
    counting = StopsInEvaluation(StopFlag(), 1000)
    continued, result = fit(run, trainer, model=counting)
    assert torch.equal(weights(with_dropout.model), weights(continued))
    assert result["metrics"] == with_dropout.result["metrics"]
    assert metrics_of(run) == metrics_of(with_dropout.run)
    if at > 6:  # a split that was done is not evaluated again
        assert 1000 - counting.left == 2 * (4 - (at - 6) // 2)


@pytest.mark.parametrize("workers", first(1, [2, 1, 3]))
def test_workers_change_nothing_but_the_time(in_parts, tmp_path, workers):
    trainer = dataclasses.replace(TRAINER, workers=workers)
    run = new_run(tmp_path / "b")
    with pytest.raises(Interrupted):
        fit(run, trainer, IN_PARTS, stop_at=7, augment=shake)
    other, result = fit(run, trainer, IN_PARTS, augment=shake)
    assert torch.equal(weights(in_parts.model), weights(other))
    assert result["metrics"] == in_parts.result["metrics"]
    assert metrics_of(run) == metrics_of(in_parts.run)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


class Asked(Springs):
    """Counts structures of evaluations, and how often it is asked to take statistics."""

    def __init__(self):
        super().__init__()
        self.seen, self.fitted = [], 0

    def fit_labels(self, labels):
        self.fitted += 1
        assert labels()["structures"] == 30

    def forward(self, batch):
        if not self.training:
            self.seen += batch.sid.tolist()
        return super().forward(batch)


def test_evaluations_during_training_see_a_sample_and_the_last_one_all(tmp_path, monkeypatch):
    monkeypatch.setattr(final, "write_sample", lambda *_: None)
    model = Asked()
    trainer = dataclasses.replace(TRAINER, eval_frames=7)
    fit(new_run(tmp_path / "a"), trainer, model=model)
    chosen = eval_sample(30, 7).tolist()
    assert model.seen == 3 * chosen + 4 * list(range(30))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 7
    assert eval_sample(30, 30).tolist() == eval_sample(30, 99).tolist() == list(range(30))
    assert eval_sample(1 << 27, 7).max() > 1 << 24
    data = splits()["val_id"]
    shares = [
        batch.sid.tolist()
        for rank in range(2)
        for batch in eval_shares(
            data, MedianBaseline(), 2, World(rank, 2), torch.device("cpu"), 0, list, frames=7
        )
    ]
    assert sorted(itertools.chain(*shares)) == chosen


def test_a_run_that_continues_takes_no_statistics_again(tmp_path):
    run, first, second = new_run(tmp_path / "a"), Asked(), Asked()
    with pytest.raises(Interrupted):
        fit(run, stop_at=5, model=first)
    fit(run, model=second)
    assert (first.fitted, second.fitted) == (1, 0)
