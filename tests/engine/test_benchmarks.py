"""The benchmarks of GPUs, where there is none: counts that are kept, and the script itself."""

import json
import time
from dataclasses import replace

import pytest
import torch

from atomsweep.build import build_learner
from atomsweep.models.schnet import SchNet
from atomsweep.sweep.file import read_sweep
from atomsweep.sweep.grid import grid
from benchmarks import gpu, roofline, training_step
from benchmarks.bare_training import BareTraining, config_of, slabs
from tests.contracts.commands import Started, environment
from tests.contracts.compose import compose_with_choices
from tests.places import REPOSITORY

CHEAP = ["schnet"]
EACH = [  # of CPU seconds none takes more than forty
    *CHEAP,
    *("forcenet", "forcenet, bf16", "gns", "dimenet_pp", "egnn_72k", "megnet_986k", "gala"),
    *("egnn_629k, S2EF", "equiformer_l2", "equiformer_v2_31m", "escn_l4"),
    *("forcenet, compiled", "forcenet, bf16, compiled", "gns, compiled", "schnet, compiled"),
    *("dimenet_pp, compiled", "egnn_72k, compiled", "megnet_986k, compiled"),
    *("schnet, torch_geometric", "gns, concatenation", "equiformer_v2_31m, e3nn"),
]
EVERY = [*roofline.ROWS, *roofline.OTHERS]


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
        pytest.param([m for m in EVERY if m not in EACH], marks=pytest.mark.long),
    ],
    ids=["each architecture", "others"],
)
def test_what_models_ask_of_a_gpu_is_what_was_counted_to_the_last_byte(script, models):
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


def test_a_count_that_is_another_is_told_whichever_way_it_went():
    kept = {"kernels": 100, "bytes": 1e9, "flops": 1e9, "half": 0.0, "edges": 5.0, "update": 1}
    assert roofline.changed(roofline.Count(**kept), kept) == []
    assert roofline.changed(roofline.Count(101, 1e9, 1e9 - 1, 0.0, 5.0, 1), kept) == [
        "kernels 100 -> 101",
        "flops 1000000000 -> 999999999",
    ]


def test_the_limit_is_that_of_the_scarcer_thing():
    count = roofline.Count(kernels=1, bytes=2e9, flops=1e12, half=0.0, edges=1.0, update=0.0)

    def device(tf32, half=None, single=1.0):
        return roofline.Device(2.0, single, tf32, half)

    assert count.limit(device(500.0)) == pytest.approx(500.0)
    assert count.limit(device(1000.0)) == pytest.approx(1000.0)
    assert count.limit(device(4000.0)) == pytest.approx(1000.0)
    count = replace(count, half=0.75e12)  # the rest is in float32
    assert count.limit(device(9000.0)) is None
    assert count.limit(device(9000.0, 1500.0, 500.0)) == pytest.approx(1000.0)
    assert count.limit(device(9000.0, 750.0, 250.0)) == pytest.approx(500.0)


def test_tables_in_the_docs_are_made_of_the_counts_that_are_kept():
    kept = json.loads(roofline.COUNTS.read_text())
    gpus, models = ((REPOSITORY / "docs" / f"{n}.md").read_text() for n in ("gpus", "models"))
    assert set(kept) == set(EVERY)
    assert roofline.HEAD in gpus
    for name in roofline.ROWS:
        assert roofline.line(name, roofline.Count(**kept[name])) in gpus, name
    for name in roofline.FORMS:
        assert roofline.beside(name, kept) in models, name


@pytest.mark.parametrize(
    ("row", "numbers"), [("gns", 7), ("egnn_72k", 7), ("equiformer_v2_31m", 13)]
)
def test_what_follows_the_backward_is_counted(row, numbers):
    """Adam reads weight, gradient and two moments, and writes all but the gradient.

    Clipping reads gradients twice and writes them, an average reads two weights and writes one.
    """
    with torch.device("meta"):
        model, _ = build_learner(config_of(roofline.choices_of(row)))
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    update = json.loads(roofline.COUNTS.read_text())[row]["update"]
    assert update == pytest.approx(4 * numbers * weights, rel=0.01)


@pytest.mark.slow
def test_every_training_of_the_papers_has_a_row():
    """Model, task and whether there is denoising, of each cell at `scale=paper`."""

    def kind(choices):
        chosen = compose_with_choices(list(choices))[1]
        return chosen["model"], chosen["task"], chosen["dens"] != "none"

    wanted, sweeps = set(), REPOSITORY / "sweeps"
    groups = ("model=", "task=", "dens=", "experiment=")
    for path in [p for paper in ("forcenet", "dens", "matsci") for p in sweeps.glob(f"{paper}/*")]:
        statement = read_sweep(path)
        if "paper" in statement.scale:
            name = f"{path.parent.name}/{path.stem}"
            cells = grid({"seed": ["seed=0"]}, statement, name, "paper").cells
            wanted |= {tuple(o for o in cell if o.startswith(groups)) for cell, _ in cells}
    trained = {kind(choices) for choices in wanted}
    trained = {one for one in trained if one[0] != "median"}
    assert len(trained) > 15
    assert trained <= {kind(roofline.choices_of(name)) for name in roofline.MODELS}


def test_another_form_is_another_network():
    """Of models that a task wraps and of those that it does not."""
    for choices in (["model=schnet", "task=s2f"], ["model=schnet", "task=s2ef"]):
        bare = BareTraining(config_of([*choices, "size=small"]), slabs(2), "cpu", 0)
        label, _ = bare.other_form()
        assert label == "torch_geometric"
        assert {type(m) for m in bare.model.modules()} & {training_step.PublicSchNet}
        assert not {type(m) for m in bare.model.modules()} & {SchNet}


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
