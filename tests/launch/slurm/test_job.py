"""What a queued job does when it is warned, without a scheduler."""

import os
import re
import signal
import subprocess
import time

import pytest

from atomsweep.engine.signals import stop_on_signals
from atomsweep.launch.slurm import job as slurm_job
from atomsweep.launch.slurm import queue as slurm_queue
from atomsweep.launch.slurm.job import attend
from atomsweep.launch.slurm.ledger import Submission
from atomsweep.launch.slurm.settings import FAILED_LINE, MAX_REQUEUES, SIGNAL_S, TIME_S
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory
from tests.launch.slurm.fakes import settings


@pytest.fixture
def run(tmp_path):
    name = f"cell-{0:012x}"
    return RunDirectory.create(tmp_path / name, "{}", {"identity": f"{0:012x}", "science": {}})


@pytest.fixture
def requeued(monkeypatch):
    """Ids of jobs that were requeued; signal handlers are as before afterwards."""
    before = {number: signal.getsignal(number) for number in slurm_job.WARNINGS}
    found = []
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    monkeypatch.setattr(slurm_queue, "is_running", lambda job: True)
    monkeypatch.setattr(slurm_queue, "requeue", found.append)
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def warned(path):
    """A cell that gets a warning while it trains."""
    run = RunDirectory(path)
    with run.lock(), stop_on_signals() as stop:
        run.start_segment(device="cpu")
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop
        run.interrupt(f"stopped by {stop.signal}")
    raise SystemExit(1)


def test_a_warned_cell_checkpoints_and_is_requeued(run, requeued):
    with pytest.raises(SystemExit):
        attend(warned, str(run.path))
    assert requeued == ["12_3"]
    assert run.state() == schema.QUEUED
    assert run.segments()[0]["slurm_job_id"] == "12_3"


def test_a_cell_that_is_cancelled_is_not_requeued(run, requeued, monkeypatch):
    monkeypatch.setattr(slurm_queue, "is_running", lambda job: False)
    with pytest.raises(SystemExit):
        attend(warned, str(run.path))
    assert requeued == []
    assert run.state() == schema.INTERRUPTED


def test_a_refused_requeue_leaves_the_cell_interrupted(run, requeued, monkeypatch):
    def refuse(job):
        raise slurm_queue.SlurmError("scontrol failed: disabled")

    monkeypatch.setattr(slurm_queue, "requeue", refuse)
    with pytest.raises(SystemExit):
        attend(warned, str(run.path))
    assert run.state() == schema.INTERRUPTED
    assert "disabled" in run.status["message"]


def test_requeues_come_to_an_end(run, requeued, monkeypatch):
    monkeypatch.setenv(MAX_REQUEUES, "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "7")
    with pytest.raises(SystemExit):
        attend(warned, str(run.path))
    assert requeued == []
    assert "raise cluster.time_min" in run.status["message"]
    assert run.state() == schema.FAILED


def test_only_the_first_rank_requeues(run, requeued, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit):
        attend(warned, str(run.path))
    assert requeued == []


def test_a_finished_cell_is_not_trained_again(run, requeued):
    run.finish({"metrics": {}})
    attend(warned, str(run.path))
    assert run.segments() == []


def test_a_cell_that_cannot_start_is_failed_with_its_message(run, requeued):
    def broken(path):
        raise ImportError("no module named torch")

    with pytest.raises(ImportError):
        attend(broken, str(run.path))
    assert run.state() == schema.FAILED
    assert run.status["message"] == "ImportError: no module named torch"


def test_a_job_warns_itself_before_its_end(run, requeued, monkeypatch):
    """A limit of 8 s that SLURM says nothing about; its own warning comes 2 s before the end."""
    monkeypatch.setenv(TIME_S, "8")
    monkeypatch.setenv(SIGNAL_S, "4")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 2.2))
    began = time.monotonic()

    def waiting(path):
        with stop_on_signals() as stop:
            while not stop and time.monotonic() - began < 5:
                time.sleep(0.01)
        run.interrupt(str(stop.signal))
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        attend(waiting, str(run.path))
    assert run.status["message"].startswith("SIGUSR2")
    assert requeued == ["12_3"]
    assert 0.5 < time.monotonic() - began < 3


def test_a_trained_cell_goes_on_with_its_evaluations_and_a_whole_one_returns_at_once(run, requeued):
    run.finish({"metrics": {}})
    evaluations.want(run, {"rotation": {}})
    calls = []
    attend(calls.append, str(run.path))
    assert calls == [str(run.path)]
    evaluations.write(run, "rotation", {"settings": {}})
    attend(calls.append, str(run.path))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("preamble", "told"),
    [
        (["true", "x=1"], None),
        (["module load 'a b'", "true"], "module load 'a b', exit code 127"),
        (["true", "(exit 3)", "false"], "(exit 3), exit code 3"),
        (["if false; then", "false", "fi"], None),
        (["cd /nowhere \\\n  2>/dev/null", "true"], "cd /nowhere \\\n  2>/dev/null, exit code 1"),
    ],
)
def test_a_command_of_the_preamble_that_fails_fails_the_cell(
    run, requeued, monkeypatch, preamble, told
):
    setup = settings(preamble=preamble).executor_parameters("x", run.path)["setup"]
    script = "\n".join([*setup, f'printf %s "${{{FAILED_LINE}-}}"'])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == (told or "")
    monkeypatch.setenv(FAILED_LINE, done.stdout)
    trained = []
    if told is None:
        attend(trained.append, str(run.path))
        assert trained == [str(run.path)]
        return
    with pytest.raises(SystemExit):
        attend(trained.append, str(run.path))
    assert trained == []
    assert run.state() == schema.FAILED
    assert re.fullmatch(
        rf"a command of cluster.preamble failed on \S+: {re.escape(told)}", run.status["message"]
    )


def test_the_last_word_of_a_job_that_could_not_start(tmp_path):
    submission = Submission("x", None, "7", 0.0, "code", str(tmp_path))
    assert submission.last_word() is None
    (tmp_path / "7_0_log.err").write_text(
        "slurmstepd: error: execve(): /no/python: No such file or directory\n"
        "srun: error: node1: task 0: Exited with exit code 2\n"
    )
    assert "/no/python: No such file" in submission.last_word()
