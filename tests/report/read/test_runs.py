import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atomsweep.report.pages import report
from atomsweep.report.read.directories import read_directories
from atomsweep.report.read.runs import UnknownSweep
from atomsweep.report.read.tidy import is_gpu, share_machines
from atomsweep.report.read.values import normal
from atomsweep.tracking import schema


def test_a_run_is_one_row(table5):
    runs = read_directories(table5.path)
    df = runs.df
    assert len(df) == 5
    row = df.set_index("identity").loc["000000000002"]
    assert row["name"] == "forcenet_small-sine-swish"
    assert row["state"] == schema.FINISHED
    assert row["choice.basis"] == "sine"
    assert row["choice.act"] == "swish"
    assert row["metric.val_id/forces_mae"] == 0.0504
    assert row["config.task.fixed_weight"] == 0.05
    assert (row["parameters"], row["device_seconds"], row["eval_seconds"]) == (123456, 80.0, 9.0)
    assert (row["commit"], row["dirty"]) == ("0123456789abcdef", False)
    assert (row["data"], row["data_fingerprint"]) == ("mini_oc", "d474")
    assert row["data_provenance"] == "EMT, not DFT."
    assert row["count.train"] == 1200
    assert row["created"] == "2026-08-12T10:00:00+00:00"
    assert row["budget"] == "800 steps"
    assert row["sweeps"] == ("basis_act-1a2b3c",)
    assert row["command"] == "atomsweep run model=forcenet_small basis=sine act=swish"
    assert Path(row["path"]).is_dir()
    assert runs.problems == []


def test_time_on_a_cpu_is_never_gpu_time(root):
    root.run("a" * 12, device="cpu (AMD EPYC 7B13)")
    root.run("b" * 12, device="NVIDIA H200")
    df = read_directories(root.path).df.set_index("identity")
    assert np.isnan(df.loc["a" * 12, "gpu_days"])
    assert df.loc["b" * 12, "gpu_days"] == pytest.approx(80 / 86400)
    assert df["device_days"].tolist() == pytest.approx([80 / 86400] * 2)


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("cpu (Intel Xeon)", False),
        ("NVIDIA A100-SXM4-80GB", True),
        ("Tesla V100", True),
        ("AMD Instinct MI300X", True),
        ("AMD EPYC 7B13", False),
        ("abacus", False),
        ("", False),
        (None, False),
    ],
)
def test_only_known_gpus_are_gpus(device, gpu):
    assert is_gpu(device) is gpu


def test_a_planned_cell_without_a_directory_is_missing(table5):
    shutil.rmtree(next(table5.path.glob("*-000000000003")))
    df = read_directories(table5.path).sweep("basis_act-1a2b3c")
    assert df["state"].tolist() == ["finished"] * 3 + ["missing"]
    row = df.iloc[3]
    assert row["identity"] == "000000000003"
    assert row["choice.basis"] == "sine"
    assert row["command"] == "atomsweep run basis=sine act=relu"
    assert pd.isna(row["path"])


def test_rows_of_a_sweep_follow_its_plan_and_name_its_axes(table5):
    df = read_directories(table5.path).sweep("latest")
    assert df["identity"].tolist() == [f"{i:012x}" for i in range(4)]
    assert df.attrs["axes"] == ["choice.basis", "choice.act"]
    assert df.attrs["command"] == "atomsweep run -m basis=sph,sine act=swish,relu"


def test_latest_is_the_newest_plan(table5):
    table5.plan({"0" * 12: {"basis": "sph"}}, {"basis": ["sph"]}, "older", "2026-01-01T00:00:00")
    assert read_directories(table5.path).sweep("latest").attrs["sweep"] == "basis_act-1a2b3c"
    table5.plan({"0" * 12: {"basis": "sph"}}, {"basis": ["sph"]}, "newer", "2026-12-01T00:00:00")
    assert read_directories(table5.path).sweep("latest").attrs["sweep"] == "newer"


def test_a_run_belongs_to_every_sweep_that_has_it_as_a_cell(table5):
    table5.plan({"0" * 12: {"basis": "sph"}}, {"basis": ["sph"]}, "other")
    df = read_directories(table5.path).df.set_index("identity")
    assert df.loc["0" * 12, "sweeps"] == ("basis_act-1a2b3c", "other")
    assert df.loc["f" * 12, "sweeps"] == ()


def test_without_its_plan_a_sweep_is_found_by_its_runs(table5):
    shutil.rmtree(table5.path / schema.PLANS)
    df = read_directories(table5.path).sweep("basis_act-1a2b3c")
    assert len(df) == 4
    assert sorted(df.attrs["axes"]) == ["choice.act", "choice.basis"]


def test_an_unknown_sweep_lists_the_known_ones(table5):
    with pytest.raises(UnknownSweep, match=r"no sweep table9 in .*; known: basis_act-1a2b3c"):
        read_directories(table5.path).sweep("table9")


def test_a_root_without_runs_says_so(root):
    root.path.mkdir(exist_ok=True)
    with pytest.raises(UnknownSweep, match="has none"):
        read_directories(root.path).sweep("latest")
    root.run("a" * 12, sweep=None)
    with pytest.raises(UnknownSweep, match="there is no sweep other in .*; known: dens/"):
        read_directories(root.path).sweep("other")


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*nowhere.*--root"):
        read_directories(tmp_path / "nowhere")


def test_filters_keep_runs_that_have_one_of_the_values(table5):
    df = read_directories(table5.path).where({"choice.basis": "sph,none", "choice.task": "s2f"})
    assert sorted(df["identity"]) == ["000000000000", "000000000001", "f" * 12]
    by_number = read_directories(table5.path).where({"config.task.fixed_weight": "5e-2"})
    assert len(by_number) == 5


def test_filters_that_keep_nothing_or_name_nothing_are_refused(table5):
    with pytest.raises(UnknownSweep, match=r"no run of the 5 .* has choice\.basis=gauss"):
        read_directories(table5.path).where({"choice.basis": "gauss"})
    with pytest.raises(UnknownSweep, match=r"no column choice\.colour; known: .*choice\.act"):
        read_directories(table5.path).where({"choice.colour": "red"})


def test_an_axis_of_the_config_is_a_column(root):
    cells = {}
    for number, weight in enumerate(("0.0", "0.05")):
        identity = str(number) * 12
        cells[identity] = {"task.fixed_weight": weight, "act": "swish"}
        root.run(identity, config={"task": {"fixed_weight": float(weight)}})
    cells["2" * 12] = {"task.fixed_weight": "1", "act": "swish"}
    root.plan(cells, {"task.fixed_weight": ["0.0", "0.05", "1"]})
    df = read_directories(root.path).sweep("latest")
    assert df.attrs["axes"] == ["config.task.fixed_weight"]
    assert df["config.task.fixed_weight"].map(normal).tolist() == ["0", "0.05", "1"]


def test_of_two_finished_runs_the_newest_counts_and_contradiction_is_told(root):
    root.run("a" * 12, name="first", val_id=0.06, created=100.0)
    root.run("a" * 12, name="second", val_id=0.05, created=200.0)
    root.run("a" * 12, name="third", state="failed", created=300.0)
    runs = read_directories(root.path)
    assert runs.df["name"].tolist() == ["second"]
    (problem,) = runs.problems
    assert "different results" in problem
    assert "first" in problem
    assert "third" not in problem


def test_an_unfinished_run_has_no_final_numbers(root):
    root.run("a" * 12, state="failed", message="loss is NaN at step 400")
    row = read_directories(root.path).df.iloc[0]
    assert (row["state"], row["message"]) == ("failed", "loss is NaN at step 400")
    assert (row["step"], row["total_steps"]) == (400, 800)
    assert np.isnan(row["parameters"])
    assert not any(column.startswith("metric.") for column in row.index)


def test_running_without_a_process_is_interrupted(root):
    root.run("a" * 12, state="running")
    assert read_directories(root.path).df["state"].tolist() == ["interrupted"]


FAULTS = {
    "no run.json": (lambda p: (p / schema.RUN).unlink(), "half-written", None),
    "cut run.json": (
        lambda p: (p / schema.RUN).write_text('{"identity": "00'),
        "cannot be read",
        None,
    ),
    "run.json a list": (lambda p: (p / schema.RUN).write_text("[]"), "cannot be read", None),
    "later schema": (
        lambda p: change(p / schema.RUN, schema_version=9),
        "schema version 9, known is 1",
        None,
    ),
    "no choices": (lambda p: change(p / schema.RUN, choices=None), "cannot be read", None),
    "no identity": (lambda p: drop(p / schema.RUN, "identity"), "has no 'identity'", None),
    "cut status": (lambda p: (p / schema.STATUS).write_text("{"), "status.json", "finished"),
    "cut result": (lambda p: (p / schema.RESULT).write_text("{"), "result.json", "interrupted"),
    "no result": (
        lambda p: (p / schema.RESULT).unlink(),
        "says finished, but has no readable",
        "interrupted",
    ),
    "no metrics": (
        lambda p: drop(p / schema.RESULT, "metrics"),
        "finished without metrics",
        "finished",
    ),
    "cut environment": (
        lambda p: (p / schema.ENVIRONMENT).write_text("{]"),
        "environment.json",
        "finished",
    ),
}


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop(path, key):
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_run_is_a_problem_with_a_name_and_stops_nothing(table5, fault):
    damage, told, state = FAULTS[fault]
    path = next(table5.path.glob("*-000000000001"))
    damage(path)
    runs = read_directories(table5.path)
    assert any(told in problem and path.name in problem for problem in runs.problems)
    states = dict(zip(runs.df["identity"], runs.df["state"], strict=True))
    assert states.get("000000000001") == state
    assert [states[f"{i:012x}"] for i in (0, 2, 3)] == ["finished"] * 3
    in_sweep = runs.sweep("latest")
    assert in_sweep["state"].iloc[1] == (state or "missing")


def test_a_damaged_plan_is_a_problem_and_the_others_stay(table5):
    (table5.path / schema.PLANS / "bad.json").write_text('{"cells": [{"name": "x"}]}')
    (table5.path / schema.PLANS / "cut.json").write_text('{"cells": [')
    runs = read_directories(table5.path)
    assert runs.sweeps() == ["basis_act-1a2b3c"]
    assert len(runs.problems) == 2
    assert "sweep bad" in runs.problems[0]


def test_what_is_no_run_is_left_alone(table5):
    (table5.path / "notes").mkdir()
    (table5.path / "mlflow.db").write_text("")
    (table5.path / ".create.lock").write_text("")
    runs = read_directories(table5.path)
    assert len(runs.df) == 5
    assert runs.problems == []


def test_an_empty_root_is_an_empty_frame(root):
    root.path.mkdir()
    df = read_directories(root.path).df
    assert len(df) == 0
    assert "identity" in df


def test_curves_are_long_and_merged_by_step(root):
    path = root.run("a" * 12, journal=False)
    lines = [
        '{"step": 10, "device_seconds": 1.0, "eval_seconds": 0.0, "train/loss": 0.9}',
        '{"step": 10, "device_seconds": 1.0, "eval_seconds": 0.5, "val_id/forces_mae": 0.2}',
        '{"step": 20, "device_seconds": 2.0, "eval_seconds": 0.5, "train/loss": "NaN"}',
        '{"step": 10, "device_seconds": 1.5, "eval_seconds": 0.6, "train/loss": 0.8}',
        '{"step": 30, "device_sec',
    ]
    (path / schema.JOURNAL).write_text("\n".join(lines))
    curves = read_directories(root.path).curves()
    assert curves.drop(columns="identity").to_numpy().tolist()[0] == [
        10, 1.5, 0.6, "train/loss", 0.8
    ]  # fmt: skip
    assert curves["metric"].tolist() == ["train/loss", "train/loss", "val_id/forces_mae"]
    assert np.isnan(curves["value"].iloc[1])
    only = read_directories(root.path).curves(metrics=["val_id/forces_mae"])
    assert only["value"].tolist() == [0.2]


def test_names_of_numbers_do_not_matter():
    assert normal(0.05) == normal("5e-2") == normal("0.050") == "0.05"
    assert normal(512) == normal(512.0) == normal("512")
    assert normal(True) == normal(np.bool_(True)) == "true"  # as a column of pandas gives it
    assert normal(np.int64(2**60 + 1)) == normal(2**60 + 1) == str(2**60 + 1)
    assert normal(np.float64("nan")) == ""
    assert normal(None) == normal(float("nan")) == ""
    assert normal("none") == "none"


def test_hashes_and_large_whole_numbers_are_not_rounded_into_one_another():
    """An identity of digits and one e is no number, though it can be read as one."""
    for name in (
        "8643446e4577",
        "1234567890e1",
        "012345678901",
        "12345e678",
        "1_000",
        "nan",
        "12e456",
    ):
        assert normal(name) == name
    seeds = [1234567890123, "1234567890124", 1234567890125.0, 2**70, 2**70 + 1]
    assert [normal(seed) for seed in seeds] == [str(int(seed)) for seed in seeds]
    assert (normal(-0.0), normal("1e3"), normal("-2.50"), normal(".5")) == (
        "0",
        "1000",
        "-2.5",
        "0.5",
    )
    assert (normal(math.inf), normal("inf"), normal(1e20)) == ("inf", "inf", "1e+20")
    assert (normal(True), normal("True"), normal(None), normal(math.nan)) == (
        "true",
        "True",
        "",
        "",
    )


def test_latest_is_the_newest_run_where_no_sweep_is(root):
    root.run("a" * 12, created=1_000_000.0, sweep=None)
    root.run("b" * 12, created=2_000_000.0, sweep=None)
    assert read_directories(root.path).sweep("latest")["identity"].tolist() == ["b" * 12]


def test_a_run_shared_its_machine_where_another_trained_on_its_host_at_the_same_time():
    spans = {
        "a": [("node1", 0.0, 10.0)],
        "b": [("node1", 20.0, 30.0), ("node2", 0.0, 5.0)],
        "c": [("node1", 12.0, 13.0), ("node1", 29.0, 40.0)],  # with the first process of b
        "d": [("node2", 5.0, 9.0)],  # begins as b ends
        "e": [("node1", 0.0, 99.0)],
        "f": [("node3", 0.0, 99.0)],
    }
    rows = [{"path": path, "device": "cpu (x)"} for path in spans if path != "e"]
    without = {path: own for path, own in spans.items() if path != "e"}
    share_machines(rows, without)
    assert [row["shared"] for row in rows] == [False, True, True, False, False]
    rows = [{"path": path, "device": "cpu (x)"} for path in spans]
    rows[0]["device"] = "NVIDIA H200"  # has its processor for itself
    share_machines([*rows, {"path": "g", "device": "cpu (x)"}], spans)
    assert [row.get("shared") for row in rows] == [None, True, True, False, True, False]


def test_times_of_runs_that_shared_a_machine_are_said_to_be(table5):
    for number, path in enumerate(sorted(table5.path.glob("*-00000000000?"))):
        start = 10.0 * (number // 2)  # two at a time
        part = {"start": start, "end": start + 9, "heartbeat": start + 9, "host": "node1",
                "world_size": 1}  # fmt: skip
        (path / schema.SEGMENTS).write_text(json.dumps(part) + "\n")
    runs = read_directories(table5.path)
    made = report.build(runs, runs.sweep("latest"))
    (section,) = [s for s in made.sections if s.slug == "compute-1"]
    assert section.notes[0].startswith("Times are wall time on a shared machine: 4 of 4 runs")
    saved = [told for told in section.text if "less training" in told]
    assert saved
    assert all("wall time on a shared machine" in told for told in saved)
