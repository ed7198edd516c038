import os
import re
import socket
import subprocess
import sys
import time

import pytest

from atomsweep.cli.main import main
from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, write_atomic
from atomsweep.tracking.run import RunDirectory
from tests.places import SOURCE

METRIC = "val_id/forces_mae"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    config = f"engine: {{metric: {METRIC}}}\nroot: runs\n"
    for identity, sweep in (("0" * 12, "one"), ("1" * 12, None)):
        about = {"identity": identity, "science": {"engine": {"metric": METRIC}}, "sweep": sweep}
        RunDirectory.create(root / f"r-{identity}", config, about)
    done = RunDirectory(root / f"r-{'0' * 12}")
    done.finish({"step": 40, "device_seconds": 7200.0, "metrics": {METRIC: 0.25}})
    other = RunDirectory(root / f"r-{'1' * 12}")
    other.start_segment("cpu")
    other.update_status(step=3, total_steps=40)
    return root


def test_status_shows_state_step_metric_and_time(root, capsys):
    assert main(["status"]) == 0
    header, done, cut, total = capsys.readouterr().out.splitlines()
    columns = ["run", "state", "step", "metric", "device time", "process or job", "heard of"]
    assert re.split(r"  +", header) == columns
    *cells, heard = re.split(r"  +", done)[1:]
    assert cells == ["finished", "40", f"{METRIC} 0.25", "2.0 h", "–"]
    assert re.fullmatch(r"\d+(\.\d)? s ago", heard)
    assert re.split(r"  +", cut)[5] == f"{os.getpid()}@{socket.gethostname()}"
    assert cut.split()[1:5] == ["interrupted", "3/40", "–", "–"]
    assert total == "2 runs, 1 finished, 1 interrupted"


def test_status_of_a_sweep_is_that_of_its_own_and_its_planned_runs(root, capsys):
    assert main(["status", "one"]) == 0
    assert "1 runs, 1 finished" in capsys.readouterr().out
    (root / schema.PLANS).mkdir()
    plan = {"cells": [{"identity": "1" * 12}]}
    write_atomic(root / schema.PLANS / "two.json", dumps(plan))
    assert main(["status", "two"]) == 0
    assert "1 runs, 1 interrupted" in capsys.readouterr().out
    assert main(["status", "three"]) == 1
    assert "no runs of sweep 'three' in runs; known: one" in capsys.readouterr().err


def test_status_names_what_is_damaged(root, capsys):
    (root / f"r-{'1' * 12}" / schema.STATUS).write_text("{")
    assert main(["status"]) == 0
    assert "status.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "sync"])
def test_missing_root_is_one_sentence(tmp_path, capsys, command):
    assert main([command, "--root", str(tmp_path / "none")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "say where the runs are with --root" in told


def test_unreachable_store_is_one_sentence(root, capsys):
    assert main(["sync", "--uri", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_ui_without_a_store_says_what_to_run(root, capsys):
    assert main(["ui"]) == 1
    assert "atomsweep sync" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tracking", "uri"),
    [
        ("{uri: 'sqlite:///runs/mlflow.db', experiment: e}", "sqlite:///{root}/mlflow.db"),
        ("{uri: 'http://host:5000', experiment: e}", "http://host:5000"),
    ],
)
def test_sync_writes_to_the_store_that_the_runs_name(root, monkeypatch, capsys, tracking, uri):
    from atomsweep.tracking.mlflow import mirror

    RunDirectory.create(
        root / f"r-{'2' * 12}",
        f"root: runs\ntracking: {tracking}\n",
        {"identity": "2" * 12, "science": {}},
    )
    asked = []

    def remember(root, uri, experiment, runs):
        asked.append((uri, experiment, [run.identity for run in runs]))
        return mirror.SyncReport()

    monkeypatch.setattr(mirror, "sync", remember)
    assert main(["sync", "--root", str(root)]) == 0
    assert asked == [(uri.format(root=root), "e", ["2" * 12])]


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from atomsweep.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow', 'pandas', 'numpy', 'hydra') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 3
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_sync_puts_the_report_of_a_sweep_on_its_parent(tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    config = "root: runs\ntracking: {uri: 'sqlite:///runs/mlflow.db', experiment: atomsweep}\n"
    about = {"identity": "2" * 12, "science": {}, "sweep": "both"}
    run = RunDirectory.create(root / f"r-{'2' * 12}", config, about)
    run.finish({"step": 1, "device_seconds": 1.0, "metrics": {METRIC: 0.5}})
    (root / schema.PLANS).mkdir()
    plan = {"sweep": "both", "groups": {}, "cells": [{"identity": "2" * 12, "run": run.name}]}
    write_atomic(root / schema.PLANS / "both.json", dumps(plan))
    (tmp_path / "reports" / "both").mkdir(parents=True)
    (tmp_path / "reports" / "both" / "report.md").write_text("a table")
    assert main(["sync"]) == 0
    assert "1 files of the report of both" in capsys.readouterr().out
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("atomsweep")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert [f.path for f in client.list_artifacts(parent.info.run_id, "report")] == [
        "report/report.md"
    ]
