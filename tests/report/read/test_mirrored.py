"""The df from MLflow alone equals the one from run directories."""

import json

import pandas as pd
import pytest

from atomsweep.cli.report import main
from atomsweep.report.pages import report
from atomsweep.report.pages.markdown import report_markdown
from atomsweep.report.read.directories import read_directories
from atomsweep.report.read.mirrored import _page, read_mlflow
from atomsweep.tracking import schema
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.mlflow.connect import connect
from atomsweep.tracking.mlflow.mirror import sync
from atomsweep.tracking.mlflow.reader import MirroredRun

SWEEP = "basis_act-1a2b3c"


def evaluated(run, rate, created=1786529000.0):
    """What `cost` leaves in a run."""
    content = {"metrics": {"cost/structures_per_second": rate}, "device": "cpu (Other)"}
    (run / schema.EVALUATIONS).mkdir(exist_ok=True)
    path = run / schema.EVALUATIONS / "cost.json"
    path.write_text(json.dumps(content | {"settings": {}, "created": created}))


@pytest.fixture(scope="module")
def places(tmp_path_factory, make_root):
    """The same runs as directories and in MLflow, with a failed, a missing and an odd one."""
    root = make_root(tmp_path_factory.mktemp("mirrored") / "runs")
    root.run("0" * 12, val_id=0.05)
    root.run("1" * 12, act="relu", state="failed", message="loss is NaN at step 400")
    root.run("2" * 12, basis="sine", val_id=0.0504, device="NVIDIA H200", sweep="big")
    root.run("f" * 12, model="median", basis="none", act="none", val_id=0.1, sweep=None)
    long = root.run("e" * 12, name="long", sweep=None, overrides=["note=" + "x" * views.MAX_TAG])
    assert (long / schema.RUN).stat().st_size > views.MAX_TAG
    for run in root.path.iterdir():
        if (run / schema.RESULT).is_file():
            evaluated(run, 12.5)
    cells = {
        "0" * 12: {"basis": "sph", "act": "swish"},
        "1" * 12: {"basis": "sph", "act": "relu"},
        "2" * 12: {"basis": "sine", "act": "swish"},
        "3" * 12: {"basis": "sine", "act": "relu"},
    }
    root.plan(cells, {"basis": ["sph", "sine"], "act": ["swish", "relu"]})
    many = {f"{i:012x}": {"basis": "sph", "note": "y" * 100} for i in range(100)}
    root.plan({"0" * 12: {"basis": "sph"}} | many, {"basis": ["sph"]}, "big", "2026-01-01T00:00:00")
    uri = f"sqlite:///{root.path.parent / 'mlflow.db'}"
    assert sync(root.path, uri).problems == []
    return root.path, uri


def same(left, right):
    pd.testing.assert_frame_equal(
        left.drop(columns=["path", "link"]), right.drop(columns=["path", "link"])
    )


def test_frames_of_all_runs_are_equal(places):
    root, uri = places
    same(read_directories(root).df, read_mlflow(uri).df)


def test_frames_of_a_sweep_are_equal(places):
    root, uri = places
    ours, theirs = read_directories(root).sweep(SWEEP), read_mlflow(uri).sweep(SWEEP)
    same(ours, theirs)
    assert ours.attrs == theirs.attrs
    assert theirs["state"].tolist() == ["finished", "failed", "finished", "missing"]


def test_plans_are_equal_even_where_they_are_long(places):
    root, uri = places
    ours, theirs = read_directories(root), read_mlflow(uri)
    assert ours.sweeps() == theirs.sweeps() == [SWEEP, "big"]
    assert ours.plans == theirs.plans


def test_curves_are_equal(places):
    root, uri = places
    ours, theirs = read_directories(root).curves(), read_mlflow(uri).curves()
    assert len(ours) > 10
    pd.testing.assert_frame_equal(ours, theirs)


def test_reports_are_equal(places):
    root, uri = places
    texts = []
    for runs in (read_directories(root), read_mlflow(uri)):
        texts.append(report_markdown(report.build(runs, runs.sweep(SWEEP))))
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_command_reads_mlflow(places, tmp_path, capsys):
    _, uri = places
    words = ["report", SWEEP, "--from", "mlflow", "--uri", uri, "--out", str(tmp_path)]
    assert main(words) == 0
    assert "| Sine      | Swish |" in capsys.readouterr().out


def test_a_store_or_experiment_that_is_not_there_is_one_sentence(places, tmp_path):
    _, uri = places
    missing = tmp_path / "none.db"
    with pytest.raises(LookupError, match="there is no MLflow store"):
        read_mlflow(f"sqlite:///{missing}")
    assert not missing.exists()
    with pytest.raises(LookupError, match=r"no run is in MLflow's experiment else .* sync"):
        read_mlflow(uri, "else")


def test_a_run_that_cannot_be_read_is_a_problem(places):
    _, uri = places
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("damaged")
    tags = {schema.TAG_KIND: "run", schema.TAG_STATE: "finished", schema.TAG_NAME: "odd"}
    document = {f"{schema.TAG_DOCUMENT}run": json.dumps({"schema_version": 9})}
    for number, more in enumerate((document, {}, {f"{schema.TAG_DOCUMENT}run": "{"})):
        name = f"odd{number}"
        client.create_run(experiment, tags=tags | more | {schema.TAG_NAME: name}, run_name=name)
    runs = read_mlflow(uri, "damaged")
    assert len(runs.df) == 0
    assert len(runs.problems) == 3
    for name in ("odd0", "odd1", "odd2"):
        assert any(name in problem for problem in runs.problems)


def test_evaluations_and_predictions_are_mirrored_and_replaced_when_made_again(make_root, tmp_path):
    root = make_root(tmp_path / "runs")
    run = root.run("0" * 12)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert sync(root.path, uri).values > 0  # trained, not yet evaluated
    (run / schema.PREDICTIONS).mkdir()
    (run / schema.PREDICTIONS / "val_id.npz").write_bytes(b"a sample")
    evaluated(run, 12.5)
    assert sync(root.path, uri).values == 1
    assert sync(root.path, uri).changed == 0  # twice is once
    name = f"{schema.FINAL}cost/structures_per_second"
    for later, rate in enumerate((12.5, 11.0)):  # the later counts, larger or smaller
        evaluated(run, rate, 1786529000.0 + later)
        sync(root.path, uri)
        client = connect(uri, "atomsweep").client
        found = read_mlflow(uri).df
        assert found["metric.cost/structures_per_second"].tolist() == [rate]
        assert found["measured_on.cost"].tolist() == ["cpu (Other)"]
        mlflow_id = found["path"][0].removeprefix("mlflow:")
        assert client.get_run(mlflow_id).data.metrics[name] == rate
    files = {file.path for file in client.list_artifacts(mlflow_id, schema.PREDICTIONS)}
    files |= {file.path for file in client.list_artifacts(mlflow_id, schema.EVALUATIONS)}
    assert files == {"predictions/val_id.npz", "evaluations/cost.json"}


def test_a_run_has_a_link_where_it_was_read_from_a_server_and_nowhere_else(root):
    run = MirroredRun("r1", "x", "finished", {}, {}, {}, {}, (), {})
    assert _page("https://mlflow.example/", "7", run) == (
        "https://mlflow.example/#/experiments/7/runs/r1"
    )
    assert _page("sqlite:////tmp/mlflow.db", "7", run) is None
    root.run("a" * 12)
    assert read_directories(root.path).df["link"].isna().all()
