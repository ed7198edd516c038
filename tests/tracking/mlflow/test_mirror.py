"""MLflow is slow to start: one store is made for the module and copied for each test."""

import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, loads, write_atomic
from atomsweep.tracking.lock import exclusive
from atomsweep.tracking.mlflow import run_writer, views, writer
from atomsweep.tracking.mlflow.connect import connect
from atomsweep.tracking.mlflow.mirror import (
    Mirror,
    Scope,
    TrackingUnavailable,
    attach_report,
    mirror,
    sync,
)
from atomsweep.tracking.mlflow.reader import read_mirrored
from atomsweep.tracking.mlflow.tables import Tables
from atomsweep.tracking.run import RunDirectory
from tests.contracts.params import first
from tests.places import SOURCE

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

CONFIG = "seed: 0\noptim:\n  lr: 0.001\nlong: " + "x" * 7000 + "\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}", "made with the store")
    return path


@pytest.fixture
def root(tmp_path, template):
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(template, root / "mlflow.db")
    return root


class View:
    """What MLflow holds, read with its own client."""

    def __init__(self, root):
        from mlflow import MlflowClient

        self.client = MlflowClient(f"sqlite:///{root}/mlflow.db")
        experiment = self.client.get_experiment_by_name("atomsweep")
        self.runs = self.client.search_runs([experiment.experiment_id])

    def one(self, kind="run"):
        (found,) = [run for run in self.runs if run.data.tags["kind"] == kind]
        return found

    def history(self, metric):
        found = self.client.get_metric_history(self.one().info.run_id, metric)
        return [(point.step, point.value) for point in sorted(found, key=lambda p: p.step)]

    def artifacts(self, run, path=None):
        return {a.path for a in self.client.list_artifacts(run.info.run_id, path)}


def make(root, identity="0123456789ab", sweep=None, config=CONFIG):
    about = {
        "identity": identity,
        "science": {},
        "choices": {"basis": "sph", "act": "swish"},
        "sweep": sweep,
        "seed": 0,
        "data": {"name": "mini_oc", "fingerprint": "ff"},
    }
    return RunDirectory.create(root / f"sph-{identity}", config, about)


def train(run, steps, offset=0.0):
    for step in steps:
        run.log(step, {"train/loss": 1.0 / step + offset}, 0.1 * step + offset, 0.0)
        if step % 20 == 0:
            run.log(step, {"val_id/forces_mae": 2.0 / step}, 0.1 * step + offset, step / 7)


def finish(run):
    checkpoints = run.path / schema.CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "best.pt").write_bytes(b"weights")
    metrics = {"val_id/forces_mae": 0.1, "val_avg/forces_mae": 1 / 3}
    run.finish({"step": 40, "parameters": 11, "device_seconds": 4.0, "metrics": metrics})


def uri(root):
    return f"sqlite:///{root}/mlflow.db"


def curves(run):
    """Of a run directory, as MLflow should hold them."""
    found = {}
    for point in views.points(run.journal()):
        for name, value in point.values.items():
            found.setdefault(name, []).append((point.step, value))
    return found


def test_finished_run_is_there_as_a_whole_and_again_changes_nothing(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # as a user's shell might have it
    run = make(root, sweep="table5")
    with run.lock():
        run.write_environment(device="cpu")
        run.start_segment("cpu")
        train(run, range(10, 50, 10))
        finish(run)
    report = sync(root, uri(root))
    assert (report.runs, report.created, report.problems) == (1, 1, [])
    view = View(root)
    found = view.one()
    assert found.info.status == "FINISHED"
    assert found.info.run_name == run.name
    assert found.info.end_time == round(1000 * run.status["finished"])
    assert found.data.params["optim.lr"] == "0.001"
    assert found.data.params["long"].endswith(views.CUT)
    assert found.data.tags["choice.basis"] == "sph"
    assert found.data.tags[schema.TAG_IDENTITY] == run.identity
    assert found.data.metrics["final/val_avg/forces_mae"] == 1 / 3
    for name, points in curves(run).items():
        assert view.history(name) == points
    assert {"config.yaml", "run.json", "result.json", "environment.json", "metrics.jsonl"} <= (
        view.artifacts(found)
    )
    assert view.artifacts(found, "checkpoints") == {"checkpoints/best.pt"}
    parent = view.one("sweep")
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"

    again = sync(root, uri(root))
    assert (again.created, again.changed, again.values) == (0, 0, 0)
    assert len(View(root).runs) == 2


def test_growing_run_is_followed_without_gap_or_double(root):
    run = make(root)
    with run.lock():
        run.start_segment("cpu")
        train(run, (10, 20))
        sync(root, uri(root))
        view = View(root)
        assert view.one().info.status == "RUNNING"
        assert view.history("train/loss") == [(10, 0.1)]  # step 20 may still grow
        train(run, (30, 40))
        sync(root, uri(root))
        finish(run)
    assert sync(root, uri(root)).created == 0
    view = View(root)
    for name, points in curves(run).items():
        assert view.history(name) == points
    assert view.one().data.tags[schema.TAG_MIRRORED] == "40"


def test_run_that_was_rewound_is_held_once_and_as_it_is(root):
    run = make(root)
    with run.lock():
        run.start_segment("cpu")
        train(run, (10, 20, 30))
    assert run.state() == schema.INTERRUPTED
    sync(root, uri(root))
    assert View(root).one().info.status == "KILLED"
    with run.lock():
        run.start_segment("cpu")
        run.rewind(10)
        train(run, (20, 30, 40), offset=0.5)
        report = sync(root, uri(root))
        assert report.created == 1
        assert View(root).one().info.status == "RUNNING"
        finish(run)
    sync(root, uri(root))
    view = View(root)
    for name, points in curves(run).items():
        assert view.history(name) == points
    assert view.history("train/loss")[0] == (10, 0.1)
    assert view.history("train/loss")[1] == (20, 0.55)


def test_run_that_continues_where_it_stopped_is_not_written_anew(root):
    run = make(root)
    with run.lock():
        run.start_segment("cpu")
        train(run, (10, 20))
        run.interrupt("stopped")
    sync(root, uri(root))
    with run.lock():
        run.start_segment("cpu")
        run.rewind(20)
        train(run, (30, 40))
        finish(run)
    assert sync(root, uri(root)).created == 0
    assert View(root).history("train/loss") == curves(run)["train/loss"]


def test_batch_whose_answer_was_lost_is_not_doubled(root, monkeypatch):
    run = make(root)
    train(run, range(10, 50, 10))
    finish(run)
    send = writer._Pass._log

    def lose_the_position(self, found, **entities):
        entities["tags"] = [t for t in entities.get("tags", []) if "mirrored" not in t.key]
        send(self, found, **entities)
        if entities.get("metrics"):
            raise ConnectionResetError("lost")

    monkeypatch.setattr(writer._Pass, "_log", lose_the_position)
    assert "lost" in sync(root, uri(root)).problems[0]
    monkeypatch.undo()
    assert sync(root, uri(root)).problems == []
    view = View(root)
    assert len(view.runs) == 1
    for name, points in curves(run).items():
        assert view.history(name) == points


def test_second_copy_in_mlflow_is_removed(root):
    run = make(root)
    finish(run)
    sync(root, uri(root))
    view = View(root)
    tags = {schema.TAG_KIND: "run", schema.TAG_UID: views.uid(run)}
    view.client.create_run(view.one().info.experiment_id, tags=tags)
    run.update_status(note="changed")
    sync(root, uri(root))
    assert View(root).one().info.run_id == view.one().info.run_id


def test_points_are_sent_in_batches_that_mlflow_takes(root, monkeypatch):
    run = make(root)
    lines = [
        {"step": s, "device_seconds": float(s), "eval_seconds": 0.0, "time": 1.7e9 + s, "a": 1.0}
        for s in range(1, 1001)
    ]
    (run.path / schema.JOURNAL).write_text("".join(dumps(line) + "\n" for line in lines))
    finish(run)
    sizes = []
    send = writer._Pass._log

    def count(self, found, **entities):
        sizes.append(len(entities.get("metrics", ())))
        send(self, found, **entities)

    monkeypatch.setattr(writer._Pass, "_log", count)
    sync(root, uri(root))
    assert max(sizes) <= run_writer.BATCH
    assert sum(size > 0 for size in sizes) == 4  # 3000 values, and the final ones
    assert len(View(root).history("a")) == 1000


def test_failed_and_non_finite_come_through(root):
    run = make(root)
    with run.lock():
        run.start_segment("cpu")
        run.log(10, {"train/loss": math.nan, "train/x": math.inf}, 1.0, 0.0)
        run.fail("the loss is not finite at step 10", "Traceback")
    sync(root, uri(root))
    view = View(root)
    assert view.one().info.status == "FAILED"
    assert view.one().data.tags[schema.TAG_MESSAGE] == "the loss is not finite at step 10"
    assert math.isnan(view.history("train/loss")[0][1])
    assert view.history("train/x")[0][1] == sys.float_info.max  # how SQLite keeps infinity


def test_cells_of_a_plan_share_a_parent_that_says_how_they_stand(root):
    one, two = make(root, "0" * 12, "table5"), make(root, "1" * 12, "other")
    finish(one)
    (root / schema.PLANS).mkdir()
    plan = {"cells": [{"identity": one.identity}, {"identity": two.identity}]}
    write_atomic(root / schema.PLANS / "table5.json", dumps(plan))
    sync(root, uri(root))

    def parent():
        return next(r for r in View(root).runs if r.data.tags.get("mlflow.runName") == "table5")

    assert parent().info.status == "SCHEDULED"
    assert loads(parent().data.tags["document.plan"]) == plan
    finish(two)
    sync(root, uri(root))
    other = next(r for r in View(root).runs if r.data.tags.get(schema.TAG_IDENTITY) == "1" * 12)
    assert other.data.tags["sweep.table5"] == "true"


def test_trials_of_a_study_are_children_with_their_number_and_pruned_ones_are_no_failure(root):
    one, two = make(root, "0" * 12, "hpo/toy"), make(root, "1" * 12, "hpo/toy")
    finish(one)
    train(two, range(1, 21))
    two.interrupt("asked to stop")
    two.ask_to_stop(study="hpo/toy", trial=7)
    (root / schema.PLANS / "hpo").mkdir(parents=True)
    cells = [{"identity": run.identity, "trial": n} for run, n in ((one, 3), (two, 7))]
    write_atomic(root / schema.PLANS / "hpo" / "toy.json", dumps({"cells": cells}))
    sync(root, uri(root))
    runs = View(root).runs
    (parent,) = [r for r in runs if r.data.tags["kind"] == "sweep"]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["trial.hpo/toy"]: r.info.status for r in children} == {
        "3": "FINISHED",
        "7": "KILLED",
    }
    assert parent.info.status == "FINISHED"


def test_new_sweep_of_runs_that_are_done_appears(root):
    run = make(root, sweep="one")
    finish(run)
    beside = writer.Writer(root, uri(root), "atomsweep")
    beside.sync(None, 0.0)
    (root / schema.PLANS).mkdir()
    write_atomic(root / schema.PLANS / "two.json", dumps({"cells": [{"identity": run.identity}]}))
    beside.sync(None, 0.0)
    view = View(root)
    assert view.one().data.tags["sweep.two"] == "true"
    names = {r.info.run_name: r.info.status for r in view.runs if r.data.tags["kind"] == "sweep"}
    assert names == {"one": "FINISHED", "two": "FINISHED"}


def test_damaged_run_is_named_and_the_others_are_mirrored(root):
    bad, good = make(root, "0" * 12), make(root, "1" * 12)
    finish(good)
    (bad.path / schema.RUN).write_text("{")
    report = sync(root, uri(root))
    assert len(report.problems) == 1
    assert "run.json is damaged" in report.problems[0]
    assert View(root).one().data.tags[schema.TAG_IDENTITY] == "1" * 12


@pytest.mark.parametrize("content", first(1, [b"no database at all" * 200, None, b""]))
def test_a_damaged_store_is_a_sentence_with_the_remedy(root, content):
    finish(make(root))
    database = root / "mlflow.db"
    raw = database.read_bytes()
    database.write_bytes(content if content is not None else raw[:4096] + b"x" * 8192)
    if content == b"":  # an empty file is a store to be made
        assert sync(root, uri(root)).created == 1
        return
    with pytest.raises(TrackingUnavailable, match=r"damaged .*move it away: `atomsweep sync --ro"):
        sync(root, uri(root))
    database.write_bytes(raw)
    assert sync(root, uri(root)).created == 1


def test_a_store_that_was_moved_says_where_mlflow_keeps_its_files(root):
    finish(make(root))
    sync(root, uri(root))
    moved = root.rename(root.with_name("moved"))
    with pytest.raises(
        TrackingUnavailable, match=f"keeps its files in {root}/mlflow-artifacts; .*"
    ):
        sync(moved, uri(moved))
    assert not root.exists()


def test_mlflow_alone_says_what_the_directories_say(root):
    done, failed, idle = (make(root, i * 12, "one") for i in "012")
    with done.lock():
        done.start_segment("cpu")
        done.write_environment(device="cpu")
        train(done, range(10, 50, 10))
        done.log(50, {"train/loss": -math.inf, "train/x": math.nan}, 1 / 3, 0.1)
        finish(done)
    failed.start_segment("cpu")
    failed.fail("no luck", "Traceback")
    (root / schema.PLANS).mkdir()
    plan = {"sweep": "two", "cells": [{"identity": idle.identity}]}
    write_atomic(root / schema.PLANS / "two.json", dumps(plan))
    sync(root, uri(root))
    held = read_mirrored(uri(root))
    assert held.problems == []
    assert held.plans == {"two": plan}
    for run, mirrored in zip((done, failed, idle), held.runs, strict=True):
        assert mirrored.name == run.name
        assert mirrored.state == run.state()
        assert mirrored.run == run.run
        assert mirrored.status == {
            k: v for k, v in run.status.items() if (k, v) != ("traceback", "Traceback")
        }
        assert mirrored.result == (run.result or {})
        assert mirrored.environment == run.environment
        expected = [
            {schema.STEP: p.step, schema.TIME: p.time / 1000, **p.values}
            for p in views.points(run.journal())
        ]
        assert list(map(dumps, map(_sorted, held.journal(mirrored)))) == list(
            map(dumps, map(_sorted, expected))
        )
    assert held.runs[2].sweeps == ("one", "two")


def _sorted(line):
    return dict(sorted(line.items()))


def test_second_writer_is_told_that_another_is_at_work(root):
    make(root)
    with exclusive(root / writer.LOCK):
        assert sync(root, uri(root), wait_s=0.0).busy
    assert not sync(root, uri(root), wait_s=0.0).busy


def test_report_is_attached_to_the_parent(root, tmp_path):
    page = tmp_path / "table5.html"
    page.write_text("<html>")
    assert attach_report(root, uri(root), "table5", [page])
    view = View(root)
    assert view.artifacts(view.one("sweep"), "report") == {"report/table5.html"}


def test_server_that_is_down_loses_nothing(root):
    run = make(root)
    finish(run)
    start = time.monotonic()
    with pytest.raises(TrackingUnavailable, match="Connection refused"):
        sync(root, f"http://127.0.0.1:{closed_port()}")
    assert time.monotonic() - start < 5
    assert sync(root, uri(root)).created == 1


def test_server_that_dies_in_the_middle_is_said_and_completed_later(root, monkeypatch):
    from mlflow import MlflowClient

    run = make(root)
    train(run, (10, 20))
    finish(run)

    def away(self, *_, **__):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(Tables, "log", away)
    monkeypatch.setattr(MlflowClient, "get_experiment", away)
    with pytest.raises(TrackingUnavailable, match="stopped answering: gone"):
        sync(root, uri(root))
    monkeypatch.undo()
    assert sync(root, uri(root)).problems == []
    assert View(root).history("train/loss") == curves(run)["train/loss"]


def test_no_tracking_starts_nothing(root):
    with mirror(None, root):
        pass
    assert not (root / ".mirror.follower.lock").exists()


def test_training_goes_on_when_mlflow_is_away_and_hears_it_once(root, capfd):
    run = make(root)
    with Mirror(root, f"http://127.0.0.1:{closed_port()}", every_s=0.1) as beside:
        time.sleep(0.3)
        finish(run)
    assert beside._process.returncode == 1
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert "WARNING" in told[0]
    assert f"atomsweep sync --root {root}" in told[0]


@pytest.mark.long
def test_mirror_beside_a_run_has_everything_when_it_ends(root, caplog):
    tracking = {"uri": uri(root), "experiment": "atomsweep", "every_s": 0.2}
    with caplog.at_level(logging.WARNING), mirror(tracking, root):
        run = make(root)
        train(run, range(10, 50, 10))
        finish(run)
    assert not caplog.records
    view = View(root)
    assert view.one().info.status == "FINISHED"
    assert view.history("train/loss") == curves(run)["train/loss"]


@pytest.mark.long
def test_mirror_of_a_killed_process_does_a_last_pass(root):
    run = make(root)
    code = (
        "import sys, time; from atomsweep.tracking.mlflow.mirror import Mirror\n"
        "from atomsweep.tracking.run import RunDirectory\n"
        "run = RunDirectory(sys.argv[1])\n"
        "with run.lock(), Mirror(sys.argv[2], sys.argv[3], every_s=1000):\n"
        "    run.start_segment('cpu'); run.log(10, {'train/loss': 0.5}, 1.0, 0.0)\n"
        "    print('on', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path), str(root), uri(root)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    assert process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if _statuses(root) == ["KILLED"]:
            break
    assert View(root).one().info.status == "KILLED"
    assert View(root).history("train/loss") == [(10, 0.5)]


@pytest.mark.long
def test_many_first_syncs_at_once_make_one_whole_store(tmp_path):
    roots = [tmp_path / f"root{i}" for i in range(8)]
    store = f"sqlite:///{tmp_path}/shared.db"
    for i, root in enumerate(roots):
        finish(make(root, f"{i:012d}"))
    code = (
        "import sys; from atomsweep.tracking.mlflow.mirror import sync\n"
        "print(sync(sys.argv[1], sys.argv[2]).created)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root), store],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
        )
        for root in roots
    ]
    assert [process.communicate()[0] for process in processes] == [b"1\n"] * 8
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("atomsweep")
    assert len(client.search_runs([experiment.experiment_id])) == 8
    assert not list(tmp_path.glob(".shared.db*"))


def _statuses(root):
    """Statuses of the mirrored runs; none before the experiment is made."""
    try:
        return [run.info.status for run in View(root).runs]
    except AttributeError:
        return []


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_mlflows_own_columns_are_filled_user_source_version_and_data_set(root, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr(sys, "argv", ["/somewhere/run.py", "seed=0"])
    run = make(root)
    run.write_environment(device="cpu")
    uri = f"sqlite:///{root}/mlflow.db"
    assert sync(root, uri).problems == []
    found = View(root).one()
    assert found.data.tags["mlflow.user"] == "ada"
    assert found.data.tags["mlflow.source.name"] == "run.py"
    assert found.data.tags["mlflow.source.type"] == "LOCAL"
    commit = run.environment.get("commit")
    assert found.data.tags.get("mlflow.source.git.commit") == commit
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("mini_oc", "ff")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    run.update_status(step=1)
    sync(root, uri)
    assert len(View(root).one().inputs.dataset_inputs) == 1


class Counted:
    """How often a client of MLflow is asked for what."""

    def __init__(self, monkeypatch):
        from mlflow import MlflowClient

        self.calls = Counter()
        for name in ("create_run", "log_batch", "log_artifact", "search_runs", "get_run"):
            self._count(monkeypatch, MlflowClient, name)
        self._count(monkeypatch, Tables, "log")

    def _count(self, monkeypatch, client, name):
        call = getattr(client, name)

        def counted(*arguments, **named):
            self.calls[name] += 1
            return call(*arguments, **named)

        monkeypatch.setattr(client, name, counted)


def finished(root, identity, sweep=None):
    run = make(root, identity, sweep)
    train(run, (10, 20))
    finish(run)
    return run


def test_what_a_root_has_mirrored_is_not_asked_for_again(root, monkeypatch):
    for digit in "012":
        finished(root, digit * 12)
    sync(root, uri(root))
    counted = Counted(monkeypatch)
    assert sync(root, uri(root)).changed == 0  # as another process would
    assert not counted.calls
    new = finished(root, "3" * 12)
    report = sync(root, uri(root))
    assert (report.created, report.changed) == (1, 1)
    alone = Counter(counted.calls)
    counted.calls.clear()
    other = root.parent / "empty"
    other.mkdir()
    shutil.copytree(new.path, other / new.name)
    sync(other, uri(root), "another")
    assert counted.calls == alone  # beside three runs as in an empty root


@pytest.mark.parametrize("fate", ["removed", "put back", "forgotten"])
def test_a_store_that_lacks_what_was_mirrored_is_completed(root, template, fate):
    store = root / "mlflow.db"
    one = finished(root, "0" * 12)
    sync(root, uri(root))
    shutil.copy(store, root.parent / "copy.db")
    finished(root, "1" * 12)
    sync(root, uri(root))
    if fate == "forgotten":
        (root / ".mirror.json").unlink()
        assert sync(root, uri(root)).created == 0
    else:
        shutil.copy(template if fate == "removed" else root.parent / "copy.db", store)
        assert sync(root, uri(root)).created == (2 if fate == "removed" else 1)
    held = [r.data.tags[schema.TAG_IDENTITY] for r in View(root).runs]
    assert sorted(held) == ["0" * 12, "1" * 12]
    assert View(root).client.get_run(View(root).runs[0].info.run_id).info.status == "FINISHED"
    assert one.result


@pytest.mark.parametrize("note", ["{", "[]", '{"%s": 3}', '{"%s": {"runs": [1], "mark": {}}}'])
def test_a_damaged_note_costs_time_and_loses_nothing(root, note):
    finished(root, "0" * 12)
    sync(root, uri(root))
    key = next(iter(loads((root / ".mirror.json").read_text())))
    (root / ".mirror.json").write_text(note.replace("%s", key))
    assert sync(root, uri(root)).created == 0
    assert len(View(root).runs) == 1


def test_the_mirror_of_a_launch_is_about_its_own_runs(root):
    one, two, other = (finished(root, digit * 12) for digit in "012")
    (root / schema.PLANS).mkdir()
    write_atomic(root / schema.PLANS / "mine.json", dumps({"cells": [{"identity": two.identity}]}))
    scope = Scope([one.name, "not-yet-000000000009"], "mine")
    report = writer.Writer(root, uri(root), "atomsweep", scope=scope).sync(None, 0.0)
    assert (report.runs, report.created) == (2, 2)
    assert {r.info.run_name for r in View(root).runs} == {one.name, two.name, "mine"}
    assert sync(root, uri(root)).created == 1  # all that there is
    assert other.name in {r.info.run_name for r in View(root).runs}


def test_a_finished_run_takes_few_requests(root, monkeypatch):
    run = make(root, config=CONFIG + "many:\n" + "".join(f"  k{i}: {i}\n" for i in range(90)))
    train(run, range(10, 200, 10))
    finish(run)
    counted = Counted(monkeypatch)
    sync(root, uri(root))
    assert counted.calls["log"] == 1  # params, points and tags together
    assert counted.calls["log_batch"] == counted.calls["get_run"] == 0
    assert counted.calls["create_run"] == 1
    assert counted.calls["search_runs"] == 1


def rows_of(database, run_id):
    """What a store holds of a run, without its id."""
    with sqlite3.connect(database) as connection:
        columns = {
            "runs": "name, status, end_time, lifecycle_stage, user_id",
            "params": "key, value",
            "tags": "key, value",
            "metrics": "key, value, timestamp, step, is_nan",
            "latest_metrics": "key, value, timestamp, step, is_nan",
        }
        return {
            table: sorted(
                connection.execute(f"SELECT {names} FROM {table} WHERE run_uuid = ?", (run_id,))
            )
            for table, names in columns.items()
        }


def test_rows_written_at_once_are_those_that_mlflow_would_write(root):
    from mlflow.entities import Metric, Param, RunTag

    store = connect(uri(root), "atomsweep")
    assert store.tables is not None  # the installed MLflow is known
    early = [Metric("a", value, 7, step) for step, value in enumerate((3.0, math.nan, 0.5))]
    early += [Metric("b", value, 7, 5) for value in (math.inf, 1.0)]
    early += [Metric("b", -math.inf, 8, 5), Metric("c", math.nan, 9, 0), early[0]]
    late = [Metric("a", 9.0, 8, 1), Metric("b", 2, 8, 5), *early, Metric("d", 1e-300, 1, 0)]
    batches = [
        (early, [Param("p", "1"), Param("q", "x" * 6000)], [RunTag("t", "old"), RunTag("u", "é")]),
        (late, [], [RunTag("t", "new")]),
        ([], [Param("r", "")], []),
    ]
    names = ("metrics", "params", "tags")
    held = []
    for _ in range(2):
        run = store.client.create_run(store.experiment, tags={"t": "first"}, run_name="one")
        for batch in batches:
            entities = dict(zip(names, batch, strict=True))
            if held:
                store.client.log_batch(run.info.run_id, synchronous=True, **entities)
            else:
                assert store.tables.log(run.info.run_id, **entities)
        if held:
            store.client.set_terminated(run.info.run_id, "KILLED", 1234)
        else:
            assert store.tables.end(run.info.run_id, "KILLED", 1234)
        held.append(rows_of(root / "mlflow.db", run.info.run_id))
        whole = store.client.get_run(run.info.run_id)  # MLflow reads what was written
        assert whole.data.params["q"] == "x" * 6000
        assert whole.data.tags["t"] == "new"
    assert held[0] == held[1]
    assert [len(held[0][table]) for table in held[0]] == [1, 3, 3, 10, 4]
    assert held[0]["runs"][0][:3] == ("one", "KILLED", 1234)
    store.client.delete_run(run.info.run_id)
    assert not store.tables.log(run.info.run_id, **dict(zip(names, batches[0], strict=True)))
    assert not store.tables.end(run.info.run_id, "FAILED", 5)
    left = rows_of(root / "mlflow.db", run.info.run_id)
    assert left | {"runs": []} == held[1] | {"runs": []}
    assert left["runs"][0][:4] == ("one", "KILLED", 1234, "deleted")


def test_tables_of_another_version_are_left_to_mlflow(root):
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.execute("ALTER TABLE metrics ADD COLUMN what_is_new INTEGER")
    assert Tables.of(root / "mlflow.db") is None
    run = finished(root, "0" * 12)
    assert sync(root, uri(root)).problems == []
    assert View(root).history("train/loss") == curves(run)["train/loss"]
