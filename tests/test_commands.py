"""The commands as a user types them: run, sweep, kill, continue, break on purpose."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs
from atomsweep.tracking.run import RunDirectory

SMALL = [
    "data=mini_oc_tiny",
    "model.hidden_channels=8",
    "model.decoder_channels=8",
    "model.num_layers=1",
    "engine.steps=60",
    "engine.eval_every=30",
    "engine.checkpoint_every=10",
    "engine.log_every=5",
    "tracking=none",
]


def science_of(run: RunDirectory):
    """Everything that must be equal to the bit: weights, metrics, history."""
    clock = {schema.DEVICE_SECONDS, schema.EVAL_SECONDS, schema.TIME}
    clock |= {f"train/{schema.STRUCTURES_PER_S}", f"train/{schema.STRUCTURES_PER_S_RANK}"}
    # rates of an epoch are told by the process that saw it whole
    lines = [line for line in run.journal() if f"train/{schema.EPOCH}" not in line]
    journal = [{k: v for k, v in line.items() if k not in clock} for line in lines]
    weights = torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"]
    return run.result["metrics"], journal, {k: v.numpy().tobytes() for k, v in weights.items()}


def wait_for_step(run_root: Path, step: int, process):
    """The run directory under `run_root` once its journal has reached `step`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for run in find_runs(run_root):
            if any(line["step"] >= step for line in run.journal()):
                return run
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("the run did not get far enough in two minutes")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["basis=spherical"], r"basis has no option spherical; .*gauss.*sine.*sph"),
        (["-m", "basis=sph,sine", "model.cutoff=far"], "error: .*model.cutoff must be float"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["model.depth=3"], "depth"),
                (["plan=no"], "error: plan must be true or false, got no"),
                (["data=extxyz", "data.path=nowhere.extxyz"], "error: .*nowhere.extxyz"),
            )
        ),
    ],
)
def test_bad_input_is_a_sentence_and_an_exit_code_before_any_work(place, arguments, sentence):
    code, output = place.run(*arguments)
    assert code != 0
    assert re.search(sentence, output), output
    assert "Traceback" not in output
    assert not (place.path / "runs").exists()


def test_a_run_killed_in_the_middle_ends_with_the_same_bits(place):
    code, output = place.run(*SMALL, root="whole")
    assert code == 0, output
    (whole,) = place.runs("whole")

    process = place.start(*SMALL)
    run = wait_for_step(place.path / "runs", 25, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert run.state() == schema.INTERRUPTED

    code, output = place.run(*SMALL)
    assert code == 0, output
    (run,) = place.runs()
    assert "continuing from step" in (run.path / schema.LOG).read_text()
    assert science_of(run) == science_of(whole)
    assert len(run.segments()) == 2

    before = (run.path / schema.RESULT).stat().st_mtime_ns
    code, output = place.run(*SMALL)
    assert code == 0
    assert "already finished, not run again" in output
    assert (run.path / schema.RESULT).stat().st_mtime_ns == before


def test_a_signal_lets_the_step_end_and_a_second_process_is_refused(place):
    longer = [*SMALL, "engine.steps=100000"]
    process = place.start(*longer)
    run = wait_for_step(place.path / "runs", 5, process)
    code, output = place.run(*longer)
    assert code != 0
    assert re.search(rf"error: .* is in use by process {process.pid} on ", output), output
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(r"stopped by SIGTERM at step \d+; the same command continues", output)
    assert run.state() == schema.INTERRUPTED
    assert (run.path / "checkpoints" / "last.pt").exists()


@pytest.mark.slow
def test_a_failing_cell_leaves_the_others_alone_and_is_the_only_one_run_again(place):
    cells = ["-m", "optim.optimizer.lr=0.001,1e30", "act=swish,relu", *SMALL]
    code, output = place.run(*cells)
    assert code == 1
    by_state = {}
    for run in place.runs():
        by_state.setdefault(run.state(), []).append(run)
    assert {state: len(runs) for state, runs in by_state.items()} == {
        schema.FINISHED: 2,
        schema.FAILED: 2,
    }, output
    for run in by_state[schema.FAILED]:
        assert "the loss is not finite at step" in run.status["message"]
        assert run.path.name in output
    stamps = {r.path: (r.path / schema.RESULT).stat().st_mtime_ns for r in by_state["finished"]}
    tried = {r.path: len(r.segments()) for r in by_state[schema.FAILED]}

    code, output = place.run(*cells)
    assert code == 1
    assert "4 cells: 2 finished, 2 failed; a launch runs 2" in output
    assert all((p / schema.RESULT).stat().st_mtime_ns == t for p, t in stamps.items())
    assert all(len(RunDirectory(p).segments()) == n + 1 for p, n in tried.items())

    (plan,) = (place.path / "runs" / schema.PLANS).glob("*.json")
    content = json.loads(plan.read_text())
    assert content["groups"] == {
        "optim.optimizer.lr": ["0.001", "1e+30"],
        "act": ["swish", "relu"],
    }
    assert len(content["cells"]) == 4


@pytest.mark.slow
def test_an_interrupted_sweep_continues_to_the_same_bits(place):
    cells = ["-m", "act=swish,relu", *SMALL, "engine.steps=120"]
    assert place.run(*cells, root="whole")[0] == 0
    process = place.start(*cells)
    wait_for_step(place.path / "runs", 10, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "the same command continues" in output
    assert schema.RUNNING not in [run.state() for run in place.runs()]
    code, output = place.run(*cells)
    assert code == 0, output
    assert [science_of(run) for run in place.runs()] == [
        science_of(run) for run in place.runs("whole")
    ]


@pytest.mark.slow
def test_a_sweep_whose_parent_is_killed_is_completed_by_the_same_command(place):
    cells = ["-m", "act=swish,relu", *SMALL, "engine.steps=100"]
    process = place.start(*cells)
    wait_for_step(place.path / "runs", 10, process)
    process.kill()
    process.wait()
    code, output = place.run(*cells)
    assert code == 0, output
    runs = place.runs()
    assert [run.state() for run in runs] == [schema.FINISHED] * 2
    for run in runs:
        steps = [line["step"] for line in run.journal() if "train/loss" in line]
        assert steps == list(range(5, 101, 5))
