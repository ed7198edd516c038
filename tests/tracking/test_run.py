import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking import segments as segments_module
from atomsweep.tracking.files import dumps, write_atomic
from atomsweep.tracking.find import find_runs, run_name
from atomsweep.tracking.run import RunDirectory, RunLocked, creating
from tests.places import SOURCE

IDENTITY = "0123456789ab"
RUN = {"identity": IDENTITY, "science": {"seed": 0}, "choices": {"basis": "sph"}, "sweep": None}
CONFIG = "seed: 0\noptim:\n  lr: 1.0e-05\n"


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / f"sph-{IDENTITY}", CONFIG, RUN)


def spawn(code, run):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys, time, os\nfrom atomsweep.tracking.run import RunDirectory\n{code}",
            str(run.path),
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )


def test_created_directory_says_what_it_was_given(run):
    assert run.run["choices"] == {"basis": "sph"}
    assert run.identity == IDENTITY
    assert run.config() == {"seed": 0, "optim": {"lr": 1e-5}}
    assert run.state() == schema.QUEUED
    assert run.result is None
    assert run.problems() == []


def test_creating_again_changes_nothing(run):
    before = run.run
    again = RunDirectory.create(run.path, CONFIG, {**RUN, "choices": {}})
    assert again.run == before


def test_other_identity_is_refused(run):
    with pytest.raises(ValueError, match=f"belongs to run {IDENTITY}, not to other"):
        RunDirectory.create(run.path, CONFIG, {**RUN, "identity": "other"})
    with pytest.raises(ValueError, match="identity"):
        RunDirectory.create(run.path, CONFIG, {})


def test_new_neutral_settings_reach_a_run_that_is_not_done(run):
    RunDirectory.create(run.path, "seed: 0\ncluster: {name: x}\n", RUN)
    assert run.config() == {"seed": 0, "cluster": {"name": "x"}}
    run.finish({"metrics": {}})
    RunDirectory.create(run.path, "seed: 0\ncluster: {name: y}\n", RUN)
    assert run.config()["cluster"] == {"name": "x"}


def test_creation_that_was_killed_is_completed(tmp_path):
    path = tmp_path / f"sph-{IDENTITY}"
    path.mkdir()
    (path / schema.CONFIG).write_text("half")
    assert find_runs(tmp_path) == []
    assert RunDirectory.create(path, CONFIG, RUN).config()["seed"] == 0
    assert [found.path for found in find_runs(tmp_path)] == [path]


def test_identity_is_found_whatever_the_directory_is_called(tmp_path, run):
    assert RunDirectory.for_identity(tmp_path, IDENTITY).path == run.path
    assert RunDirectory.for_identity(tmp_path, IDENTITY[1:]) is None
    assert RunDirectory.for_identity(tmp_path / "none", IDENTITY) is None
    claimed = RunDirectory.find_or_create(tmp_path, f"other-{IDENTITY}", CONFIG, RUN)
    assert claimed.path == run.path


def test_of_two_directories_of_one_identity_the_finished_one_counts(tmp_path, run):
    other = RunDirectory.create(tmp_path / f"zzz-{IDENTITY}", CONFIG, RUN)
    other.finish({"metrics": {}})
    assert RunDirectory.for_identity(tmp_path, IDENTITY).path == other.path


def test_many_claims_at_once_get_one_directory(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        claims = pool.map(
            lambda i: RunDirectory.find_or_create(tmp_path, f"n{i}-{IDENTITY}", CONFIG, RUN),
            range(16),
        )
        assert len({claim.path for claim in claims}) == 1


def test_runs_are_found_by_name_and_other_directories_are_not(tmp_path, run):
    (tmp_path / schema.PLANS).mkdir()
    (tmp_path / "mlflow.db").write_text("")
    assert [found.name for found in find_runs(tmp_path)] == [run.name]
    assert find_runs(tmp_path / "none") == []


def test_life_of_a_run(run):
    with run.lock():
        run.start_segment("cpu", 1)
        assert run.state() == schema.RUNNING
        run.log(10, {"train/loss": 0.5}, 1.25, 0.5)
        run.finish({"metrics": {"val_id/forces_mae": 0.1}})
        assert run.state() == schema.FINISHED
    assert run.state() == schema.FINISHED
    assert run.result == {"metrics": {"val_id/forces_mae": 0.1}}
    (line,) = run.journal()
    assert {k: line[k] for k in line if k != schema.TIME} == {
        "step": 10,
        "device_seconds": 1.25,
        "eval_seconds": 0.5,
        "train/loss": 0.5,
    }
    assert abs(line[schema.TIME] - time.time()) < 60
    assert run.status["step"] == 10
    assert run.segments()[0]["ended"] == schema.FINISHED


def test_failed_run_keeps_its_message_until_it_is_started_again(run):
    with run.lock():
        run.start_segment("cpu")
        run.fail("the loss is not finite at step 3", "Traceback ...")
    assert run.state() == schema.FAILED
    assert run.status["message"] == "the loss is not finite at step 3"
    with run.lock():
        run.start_segment("cpu")
        assert run.state() == schema.RUNNING
    assert run.status["message"] is None


def test_stopped_run_is_interrupted(run):
    with run.lock():
        run.start_segment("cpu")
        run.interrupt("stopped by SIGTERM at step 5; the same command continues")
    assert run.state() == schema.INTERRUPTED


def test_running_without_a_process_is_interrupted(run):
    process = spawn(
        "run = RunDirectory(sys.argv[1])\n"
        "with run.lock():\n"
        "    run.start_segment('cpu', 2)\n"
        "    print('on', flush=True); time.sleep(60)\n",
        run,
    )
    assert process.stdout.readline() == b"on\n"
    assert run.state() == schema.RUNNING
    with (
        pytest.raises(
            RunLocked,
            match=f"in use by process {process.pid} on {re.escape(socket.gethostname())}; wait",
        ),
        run.lock(),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert run.state() == schema.INTERRUPTED
    with run.lock():  # and the next process closes the books of the killed one
        run.start_segment("cpu")
        killed, alive = run.segments()
    assert killed["ended"] == segments_module.KILLED
    assert killed["end"] == killed["heartbeat"]
    assert killed["pid"] == process.pid
    assert alive["end"] is None
    assert alive["segment"] == 1


@pytest.mark.parametrize(
    ("shared", "age", "state"),
    [
        (True, 10, schema.RUNNING),
        (True, 10_000, schema.INTERRUPTED),
        (False, 10, schema.INTERRUPTED),  # its lock is seen to be free
    ],
)
def test_a_heartbeat_of_another_host_counts_while_fresh_where_its_lock_may_be_unseen(
    run, monkeypatch, shared, age, state
):
    monkeypatch.setattr("atomsweep.tracking.saved.is_shared", lambda path: shared)
    run.update_status(state=schema.RUNNING)
    status = {**run.status, "host": "node017", "heartbeat": time.time() - age}
    write_atomic(run.path / schema.STATUS, dumps(status))
    assert run.state() == state


def test_finished_needs_a_result(run):
    run.update_status(state=schema.FINISHED)
    assert run.state() == schema.INTERRUPTED
    assert any("no readable result.json" in problem for problem in run.problems())


@pytest.mark.parametrize("name", [schema.STATUS, schema.RESULT, schema.ENVIRONMENT])
def test_half_written_file_is_reported_and_breaks_nothing(run, name):
    run.update_status(state=schema.RUNNING)
    run.log(1, {}, 0, 0)
    (run.path / name).write_text('{"state": "fin')
    assert run.state() == schema.INTERRUPTED
    assert any(name in problem for problem in run.problems())
    run.start_segment("cpu")
    run.update_status(step=2)
    assert run.status["step"] == 2


def test_rewound_journal_continues_without_gap_or_double(run):
    for step in (10, 20, 30):
        run.log(step, {"train/loss": 1 / step}, step, 0)
    run.rewind(20)
    run.log(30, {"train/loss": 0.5}, 31, 0)
    assert [(line["step"], line["device_seconds"]) for line in run.journal()] == [
        (10, 10),
        (20, 20),
        (30, 31),
    ]


def test_metric_cannot_take_the_name_of_a_field(run):
    with pytest.raises(ValueError, match="step"):
        run.log(1, {"step": 2.0}, 0, 0)


def test_segments_add_up_over_requeues(run, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    run.start_segment("cpu", 4)
    segments_module.update(run.path / schema.SEGMENTS, device_seconds=8.0)
    run.end_segment("done")
    run.start_segment("cpu", 2)
    first, second = run.segments()
    assert (first["slurm_job_id"], first["requeues"], first["device_seconds"]) == ("77", 2, 8.0)
    expected = 4 * (first["end"] - first["start"]) + 2 * (second["heartbeat"] - second["start"])
    assert run.allocated_seconds() == pytest.approx(expected)
    run.end_segment("done")
    run.end_segment("done")  # closing twice is harmless
    assert not segments_module.update(run.path / schema.SEGMENTS, step=1)


def test_lock_sweeps_away_what_killed_writers_left(run):
    checkpoints = run.path / schema.CHECKPOINTS
    checkpoints.mkdir()
    here = socket.gethostname()
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = {
        "killed": f".last.pt.{here}-{gone.pid}-ab12.tmp",
        "alive": f".last.pt.{here}-{os.getpid()}-ab12.tmp",
        "elsewhere": f".last.pt.node7-{gone.pid}-ab12.tmp",
        "old": ".last.pt.12-ab.tmp",
    }
    for name in names.values():
        (checkpoints / name).write_bytes(b"half")
    os.utime(checkpoints / names["old"], (0, 0))
    (checkpoints / "last.pt").write_bytes(b"whole")
    with run.lock():
        left = {path.name for path in checkpoints.iterdir()}
    assert left == {"last.pt", names["alive"], names["elsewhere"]}


def test_environment_names_versions_host_and_what_it_is_told(run):
    run.write_environment(device="some GPU")
    env = run.environment
    assert env["python"] == sys.version.split()[0]
    assert env["packages"]["numpy"]
    assert env["host"] == socket.gethostname()
    assert env["device"] == "some GPU"
    assert "commit" in env


def test_environment_without_git_says_why(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    run.write_environment()
    assert run.environment["commit"] is None
    assert "git" in run.environment["commit_missing"]


def test_uncommitted_changes_are_kept(run, monkeypatch, tmp_path):
    repository = tmp_path / "code"
    repository.mkdir()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(repository)]
    subprocess.run([*git, "init", "-q"], check=True)
    (repository / "a.txt").write_text("one\n")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.setattr(
        "atomsweep.tracking.environment.source_directory", lambda: repository, raising=True
    )
    run.write_environment()
    assert run.environment["dirty"] is False
    assert not (run.path / schema.DIFF).exists()
    (repository / "a.txt").write_text("two\n")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook would have it
    run.write_environment()
    assert run.environment["dirty"] is True
    assert len(run.environment["commit"]) == 40
    assert "+two" in (run.path / schema.DIFF).read_text()


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        ({"basis": "sph", "act": "leaky_relu"}, "basis_sph-act_leaky_relu"),
        (["basis=sph", "optim.optimizer.lr=1e-3"], "basis_sph-lr_1e-3"),
        (["+data.path=/a/b c,d.extxyz", "~x"], "path_b_c_d-x"),
        (["act=relu", f"x={'y' * 60}", "lr=1"], "act_relu-lr_1"),
        ({}, "run"),
        ({"x": "../.."}, "x"),
    ],
)
def test_name_of_a_run_is_readable_and_safe(choices, name):
    assert run_name(choices, IDENTITY) == f"{name}-{IDENTITY}"


def test_name_of_a_run_is_short():
    many = {f"group{i}": "option" for i in range(20)}
    for choices in (many, {"x": "y" * 300}, ["é" * 300 + "=1"]):
        readable = run_name(choices, IDENTITY).removesuffix(f"-{IDENTITY}")
        assert 0 < len(readable) <= 60


def test_nothing_heavy_is_imported():
    code = (
        "import sys, atomsweep.tracking.run, atomsweep.tracking.identity;"
        "print([m for m in ('torch', 'mlflow', 'pandas', 'numpy', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_flag_to_stop_is_pruned_until_it_is_queued_and_never_hides_an_end(tmp_path):
    run = RunDirectory.create(tmp_path / "a-0123456789ab", "{}", {"identity": "0123456789ab"})
    run.ask_to_stop(study="s", trial=4)
    assert run.asked_to_stop == {"study": "s", "trial": 4}
    assert run.state() == schema.PRUNED
    with run.lock():
        assert run.state() == schema.RUNNING
        (tmp_path / "a-0123456789ab" / schema.STOP).write_text('{"stu')  # killed while it wrote
        assert run.asked_to_stop == {}
    assert run.state() == schema.PRUNED
    run.fail("as asked")
    assert run.state() == schema.FAILED
    run.queue()
    assert (run.state(), run.asked_to_stop) == (schema.QUEUED, None)
    run.ask_to_stop(study="s", trial=4)
    run.finish({"metrics": {}})
    assert run.state() == schema.FINISHED


def test_making_a_run_waits_for_the_disk_twice(tmp_path, monkeypatch):
    synced = []

    def fsync(fd):
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    run = RunDirectory.find_or_create(tmp_path, f"sph-{IDENTITY}", CONFIG, RUN)
    names = [path.name.split(".")[1] for path in synced]
    assert names == ["config", "run"]  # what run.json says is there by then
    (run.path / schema.STATUS).unlink()  # which a power cut may take
    assert run.state() == schema.QUEUED


def test_many_that_are_made_look_through_the_root_once(tmp_path, monkeypatch):
    looked = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: looked.append(self) or iterdir(self))
    with creating(tmp_path) as there:
        runs = [
            RunDirectory.find_or_create(
                tmp_path, f"n-{i:012x}", CONFIG, {**RUN, "identity": f"{i:012x}"}, (), there
            )
            for i in (1, 2, 3, 2)
        ]
    assert runs[1].path == runs[3].path
    assert looked == [tmp_path]
