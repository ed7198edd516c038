"""Sweep files as a user launches them: plan, launch twice at once, kill at random, make again."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking.lock import holder_of
from tests.contracts.commands import Started, last_of_each
from tests.faults.harness import descendants
from tests.test_commands import SMALL, science_of, wait_for_step

TABLE = ["sweeps=forcenet/table5", "basis=sph,sine", "act=swish", "seed=0", *SMALL]


@pytest.mark.slow
def test_a_plan_launches_nothing_and_two_launches_train_every_cell_once(place):
    code, output = place.run(*TABLE, "plan=true")
    assert code == 0, output
    assert "2 cells: 2 missing; a launch runs 2" in output
    assert not (place.path / "runs").exists()

    launches = [place.start(*TABLE, "engine.steps=100") for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in launches]
    assert [process.returncode for process in launches] == [0, 0], outputs
    runs = place.runs()
    assert [run.state() for run in runs] == [schema.FINISHED] * 3  # with the Median of the data
    assert [len(run.segments()) for run in runs] == [1, 1, 1]

    (path,) = (place.path / "runs" / schema.PLANS / "forcenet").glob("*.json")
    plan = json.loads(path.read_text())
    assert plan["sweep"] == f"forcenet/{path.stem}"
    assert plan["groups"] == {"basis": ["sph", "sine"]}
    assert (plan["published"], plan["scale"]) == ("forcenet.table5", "laptop")
    assert [list(plan["statement"][part]) for part in ("rows", "columns")] == [["basis"], ["act"]]
    assert plan["statement"]["claims"]
    assert plan["command"].startswith("run.py sweeps=forcenet/table5 basis=sph,sine")


def test_a_plan_without_its_data_shows_the_cells_and_says_what_is_missing(place):
    code, output = place.run("sweeps=dens/table1d", "scale=paper", "seed=0", "plan=true")
    assert code == 1
    lines = output.splitlines()
    assert "dens/table1d-paper" in lines[0]
    assert lines[0].endswith("6 cells, whose data are not there")
    assert sum("data=oc20_2m" in line for line in lines[1:7]) == 6
    assert any("optim=dens_oc20_30" in line for line in lines)
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert "s2ef/2M/train" in error
    assert "docs/data.md, Bring the data" in error


@pytest.mark.slow
def test_a_key_that_only_the_options_of_the_cells_have_can_be_typed(place):
    (place.path / "sweeps").mkdir(exist_ok=True)
    (place.path / "sweeps" / "mine.yaml").write_text(
        "title: Widths\nrows: {model: [equiformer_v2_small, escn_small]}\nmetrics: [forces_mae]\n"
        "scale: {laptop: [data=mini_oc_tiny]}\n"
    )
    code, output = place.run("sweeps=mine", "model.channels=16", "plan=true")
    assert code == 0, output
    assert "2 cells: 2 missing" in output
    code, output = place.run("-m", "model=escn_small,gns", "model.channels=16", "plan=true")
    assert code != 0
    assert "error: there is no model.channels with model=gns; it is of model=" in output


@pytest.mark.slow
def test_what_chosen_options_say_of_a_launch_counts_in_sweeps_too(place):
    for folder in ("conf/experiment", "more/mine"):
        (place.path / folder).mkdir(parents=True)
    (place.path / "conf/experiment/named.yaml").write_text(
        "# @package _global_\nsweep: named\nroot: elsewhere/${model.hidden_channels}\n"
    )
    (place.path / "more/mine/new.yaml").write_text("# @package _global_\nseed: 7\n")
    words = [*SMALL, "engine.steps=2", "engine.eval_every=2", "--config-dir", "more", "+mine=new"]
    process = Started(
        [str(place.script), "-m", "experiment=named", "basis=sph,sine", *last_of_each(words)],
        place.path,
        place.env,
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "sweep named: 2 cells" in output
    assert "its table: atomsweep report named --root elsewhere/8\n" in output
    runs = place.runs("elsewhere/8")
    assert [run.config()["seed"] for run in runs] == [7, 7]
    assert (place.path / "elsewhere/8/_snapshots").is_dir()
    assert not (place.path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["hydra.mode=RUN", "model=gns"], "error: hydra.mode=RUN asks for one run, and -m or "),
        (["--experimental-rerun", "job.pickle"], "error: --experimental-rerun does nothing here"),
        (["model.chanels=16"], "error: there is no model.chanels; "),  # and not the file's line 2
    ],
)
def test_a_sweep_that_cannot_be_meant_trains_nothing(place, arguments, sentence):
    (place.path / "sweeps").mkdir()
    (place.path / "sweeps" / "mine.yaml").write_text(
        "title: x\n# 16 of them\nrows: {act: [relu, tanh]}\nmetrics: [forces_mae]\n"
    )
    code, output = place.run("sweeps=mine", *arguments)
    assert code != 0
    assert sentence in output
    assert not (place.path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["sweeps=forcenet/table5", "scale=huge"],
            "error: the sweep has no scale huge; it has lap",
        ),
        (["sweeps=forcenet/table5", "rerun=maybe"], "error: rerun must be one of none, failed"),
    ],
)
def test_a_wrong_word_is_a_sentence_before_any_work(place, arguments, sentence):
    code, output = place.run(*arguments)
    assert code != 0
    assert sentence in output
    assert "Traceback" not in output
    assert not (place.path / "runs").exists()


@pytest.mark.long
def test_a_single_run_is_planned_and_made_again_too(place):
    assert place.run(*SMALL)[0] == 0
    code, output = place.run(*SMALL, "plan=true")
    assert code == 0
    assert "1 cells: 1 finished; a launch runs 0" in output
    (run,) = place.runs()
    before = run.result["metrics"]
    assert place.run(*SMALL, "rerun=all")[0] == 0
    assert (run.path / schema.EARLIER / "1" / schema.RESULT).exists()
    assert run.result["metrics"] == before


@pytest.mark.long
def test_a_stale_cell_is_made_again_only_when_asked(place):
    assert place.run(*TABLE)[0] == 0
    runs = place.runs()
    stale = runs[0].path / schema.ENVIRONMENT
    stale.write_text(
        json.dumps(json.loads(stale.read_text()) | {"code": [{"nn/basis.py": "0" * 12}]})
    )
    stamps = [(run.path / schema.RESULT).stat().st_mtime_ns for run in runs]
    assert place.run(*TABLE)[0] == 0
    assert [(run.path / schema.RESULT).stat().st_mtime_ns for run in runs] == stamps
    code, output = place.run(*TABLE, "rerun=stale")
    assert code == 0, output
    assert "a launch runs 1" in output
    assert (runs[0].path / schema.EARLIER / "1" / schema.RESULT).exists()
    assert runs[0].state() == schema.FINISHED
    assert (runs[1].path / schema.RESULT).stat().st_mtime_ns == stamps[1]


@pytest.mark.long
def test_cancel_from_another_shell_and_retry(place):
    long = [*TABLE, "engine.steps=400"]
    process = place.start(*long)
    wait_for_step(place.path / "runs", 20, process)
    name = next((place.path / "runs" / schema.PLANS / "forcenet").glob("*.json")).stem
    told = control(place, "cancel", f"forcenet/{name}")
    assert "launcher" in told
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert schema.RUNNING not in [run.state() for run in place.runs()]
    control(place, "retry", f"forcenet/{name}")
    assert [run.state() for run in place.runs()] == [schema.FINISHED] * 2


@pytest.mark.long
def test_a_sweep_killed_twenty_times_at_random_ends_like_one_that_was_not(
    place,
    server,
):
    cells = [*TABLE, "act=swish,relu", "engine.steps=1500", "engine.eval_every=500"]
    cells.remove("act=swish")
    assert place.run(*cells, root="whole")[0] == 0
    cells.remove("tracking=none")
    cells += [f"tracking.uri={server.uri}", "tracking.every_s=2"]
    chance = random.Random(0)
    kills = 0
    while kills < 20:
        server.start()
        process = place.start(*cells)
        while kills < 20 and process.poll() is None:
            training = [run for run in place.runs() if run.state() == schema.RUNNING]
            if not training:
                time.sleep(0.1)
                continue
            time.sleep(chance.uniform(0.0, 1.5))
            # one that trains, the tracking server, the launcher, or a child of it: fork server,
            # mirror, what there is
            trainer = holder_of(chance.choice(training).path / schema.LOCK)["pid"]
            other = chance.choice([process.pid, *descendants(process.pid)])
            victim = chance.choices(["trainer", "server", "other"], [5, 2, 4])[0]
            if victim == "server":
                server.kill()
            else:
                kill(trainer if victim == "trainer" else other)
            kills += 1
        process.communicate(timeout=300)
        assert kills >= 20 or process.returncode != 0, "the sweep ended before it was killed enough"
    server.start()
    code, output = place.run(*cells)
    assert code == 0, output
    control(place, "sync", "--uri", server.uri)
    runs = place.runs()
    assert [run.state() for run in runs] == [schema.FINISHED] * 4
    assert [science_of(run) for run in runs] == [science_of(run) for run in place.runs("whole")]
    for run in runs:
        assert [s["ended"] for s in run.segments()].count(schema.FINISHED) == 1
        assert all(s["end"] is not None for s in run.segments())
    cut = [s for run in runs for s in run.segments() if s["ended"] != schema.FINISHED]
    assert cut  # the kills did hit training
    mirrored = histories(server.uri)
    assert {r.info.status for r in mirrored} == {"FINISHED"}
    assert len(mirrored) == 4
    for history in mirrored.values():
        assert history == list(range(5, 1501, 5))


WRITE = """\
import sys
from pathlib import Path
from atomsweep.tracking.run import RunDirectory
run = RunDirectory.create(Path("runs") / f"cell-{int(sys.argv[1]):012x}", CONFIG, {
    "identity": f"{int(sys.argv[1]):012x}", "science": {}, "choices": {}, "seed": 0})
with run.lock():
    run.start_segment("cpu")
    for step in range(1, 201):
        run.log(step, {"train/loss": 1.0 / step}, device_seconds=step * 0.1, eval_seconds=0.0)
    run.finish({"metrics": {"val_id/forces_mae": float(sys.argv[1])}, "step": 200,
                "device_seconds": 20.0, "eval_seconds": 0.0, "parameters": 1})
"""


@pytest.mark.long
def test_sixteen_processes_that_log_at_once_lose_nothing_in_the_default_store(place):
    from atomsweep.tracking.mlflow.mirror import Mirror

    uri = f"sqlite:///{place.path}/runs/mlflow.db"
    config = f"tracking: {{uri: '{uri}', experiment: atomsweep}}\nengine: {{metric: none}}\n"
    code = WRITE.replace("CONFIG", repr(config))
    with Mirror(place.path / "runs", uri, every_s=1.0):
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=place.path, env=place.env)
            for i in range(16)
        ]
        assert [writer.wait(120) for writer in writers] == [0] * 16
    mirrored = histories(uri)
    assert len(mirrored) == 16
    assert {run.info.status for run in mirrored} == {"FINISHED"}
    assert all(history == list(range(1, 201)) for history in mirrored.values())


class Server:
    """An MLflow server on loopback that can be killed and started again."""

    def __init__(self, directory: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri, self.directory = f"http://127.0.0.1:{port}", directory
        store = ["--backend-store-uri", f"sqlite:///{directory}/server.db"]
        files = ["--artifacts-destination", str(directory / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self.command = [sys.executable, "-m", "mlflow", "server", *store, *files, *where]
        self.process = None

    def start(self):
        """Wait until it answers; nothing where it runs already."""
        if self.process is None:
            with (self.directory / "server.log").open("a") as log:
                self.process = subprocess.Popen(
                    self.command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
                )
        deadline = time.monotonic() + 120
        while True:
            try:
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).read()
            except OSError:
                assert time.monotonic() < deadline, (self.directory / "server.log").read_text()
                time.sleep(0.2)

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # and its workers
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.kill()


def histories(uri: str) -> dict:
    """MLflow run → steps of its training loss, of all runs of a store; no parents."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "atomsweep"]
    runs = client.search_runs([experiment.experiment_id], f"tags.{schema.TAG_KIND} = 'run'")
    steps = {}
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        steps[run] = sorted(metric.step for metric in history)
    return steps


def control(place, *arguments) -> str:
    words = ["-m", "atomsweep", *arguments, "--root", "runs"]
    process = Started(words, place.path, place.env)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
