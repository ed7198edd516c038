"""The benchmarks of GPUs, where there is none: counts that are kept, and the script itself."""

import json
import time

import pytest

from benchmarks import gpu, roofline
from tests.contracts.commands import Started, environment
from tests.places import REPOSITORY

CHEAP = ["schnet"]
EACH = [
    *CHEAP,
    *("forcenet", "forcenet, compiled", "gns", "dimenet_pp", "egnn_72k", "megnet_986k", "gala"),
    *("equiformer_l2", "equiformer_v2_31m", "escn_l4"),
]


@pytest.fixture
def script(tmp_path):
    """What runs a script in a process of its own: exit code and output."""

    def run(name, *words):
        path = str(REPOSITORY / "benchmarks" / name)
        process = Started([path, *words], tmp_path, environment())
        output, _ = process.communicate(timeout=3000)
        return process.returncode, output

    return run


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(EACH, marks=pytest.mark.slow),
        pytest.param([m for m in roofline.ROWS if m not in EACH], marks=pytest.mark.long),
    ],
    ids=["each architecture", "others"],
)
def test_no_model_asks_more_of_a_gpu_than_it_did(script, models):
    code, output = script("roofline.py", "--check", "--models", *models)
    assert code == 0, output[-2000:]
    assert output.count("| ") > len(models)


@pytest.mark.parametrize(
    "models",
    [
        pytest.param([*CHEAP, "gala"], marks=pytest.mark.slow),
        pytest.param([m for m in roofline.MODELS if m not in CHEAP], marks=pytest.mark.long),
    ],
    ids=["cheap", "others"],
)
def test_a_larger_batch_launches_no_more_kernels(script, models):
    launched = []
    for batch in ("2", "6"):
        code, output = script("roofline.py", "--batch", batch, "--models", *models)
        assert code == 0, output[-2000:]
        lines = [[cell.strip() for cell in line.split("|")] for line in output.splitlines()]
        launched.append({line[1]: line[3] for line in lines if len(line) > 3})
    assert set(launched[0]) > set(models)
    assert launched[0] == launched[1]


def test_growth_is_told_and_rounding_is_not():
    kept = {"kernels": 100, "bytes": 1e9, "flops": 1e9, "edges": 50.0}
    assert roofline.grown(roofline.Count(104, 1.04e9, 1e9, 50.0), kept) == []
    assert roofline.grown(roofline.Count(106, 1.0e9, 2e9, 50.0), kept) == [
        "kernels 100 -> 106",
        "flops 1e+09 -> 2e+09",
    ]


def test_the_limit_is_that_of_the_scarcer_thing():
    count = roofline.Count(kernels=1, bytes=2e9, flops=1e12, edges=1.0)
    assert count.limit(bandwidth=2.0, rate=500.0) == pytest.approx(500.0)
    assert count.limit(bandwidth=2.0, rate=1000.0) == pytest.approx(1000.0)
    assert count.limit(bandwidth=2.0, rate=4000.0) == pytest.approx(1000.0)


def test_the_table_in_the_docs_is_made_of_the_counts_that_are_kept():
    kept = json.loads(roofline.COUNTS.read_text())
    page = (REPOSITORY / "docs" / "gpus.md").read_text()
    assert set(kept) == set(roofline.ROWS)
    assert roofline.HEAD in page
    for name in roofline.ROWS:
        assert roofline.line(name, roofline.Count(**kept[name])) in page, name


def test_a_row_that_fails_stops_no_other_and_time_that_is_over_leaves_rows_out(
    tmp_path, monkeypatch, capsys
):
    def fails(options):
        raise RuntimeError("out of memory")

    def late(options):
        options.until = 0.0
        return {"speed": 1.25}

    made = {"a": fails, "b": late, "c": fails}
    monkeypatch.setattr(gpu, "rows", lambda options: made)
    options = gpu.Options("cpu", True, time.monotonic() + 60, 0)
    found = gpu.measure(options, None, tmp_path / "found.json")
    assert found["a"]["error"] == "RuntimeError: out of memory"
    assert found["b"]["speed"] == 1.25
    assert found["c"] == {"left out": "no time is left"}
    assert json.loads((tmp_path / "found.json").read_text()).keys() == made.keys()
    assert "b: speed 1.25" in capsys.readouterr().out


def test_a_row_that_takes_too_long_is_ended_and_nothing_takes_that_for_its_own_failure(
    tmp_path, monkeypatch
):
    def hangs(options):
        try:
            time.sleep(60)
        except Exception:  # as a compiler's, where training goes on eagerly
            return {"speed": 1.0}

    monkeypatch.setattr(gpu, "GRACE", 0.05)
    monkeypatch.setattr(gpu, "rows", lambda options: {"a": hangs})
    options = gpu.Options("cpu", True, time.monotonic() + 0.2, 0)
    start = time.monotonic()
    found = gpu.measure(options, None, tmp_path / "found.json")
    assert time.monotonic() - start < 30
    assert found["a"]["error"].startswith("Late: no time was left")


def test_every_row_that_was_asked_for_is_there():
    """Six models, eager and compiled, in three precisions, and what is not a speed."""
    names = list(gpu.rows(gpu.Options("cuda", False, 0.0, 0)))
    models = ["forcenet", "forcenet_large", "schnet", "dimenet_pp"]
    models += ["equiformer_v2_31m", "equiformer_v2_31m with DeNS"]
    for model in models:
        for precision in ("tf32", "float32", "bf16"):
            assert f"{model}, {precision}" in names
            assert f"{model} compiled default, {precision}" in names
    assert {"about", "tests marked gpu", "relaxations", "300 steps", "a sweep of two cells"} < {
        *names
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        ["about", "schnet, tf32"],
        pytest.param(None, marks=pytest.mark.long),
    ],
    ids=["some", "all"],
)
def test_the_script_for_a_gpu_runs_on_the_cpu(script, tmp_path, rows):
    out = tmp_path / "found.json"
    words = ["--device", "cpu", "--quick", "--workers", "1", "--out", str(out)]
    code, output = script("gpu.py", *words, *([] if rows is None else ["--rows", *rows]))
    assert code == 0, output[-3000:]
    found = json.loads(out.read_text())
    assert found["about"]["torch"]
    row = found["schnet, tf32"]
    assert row["structures/s"] > 0
    assert row["loader structures/s"] > 0
    assert row["torch_geometric structures/s"] > 0
    assert row["bound by the loader"] in (True, False)
    if rows is None:
        assert found["relaxations"]["all at once, steps/s"] > 0
