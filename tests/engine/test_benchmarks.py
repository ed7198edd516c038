"""The benchmarks of GPUs, where there is none: counts that are kept, and the script itself."""

import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from atomsweep.build import build_learner
from atomsweep.engine.fit import fit
from atomsweep.models.schnet import SchNet
from atomsweep.sweep.file import read_sweep
from atomsweep.sweep.grid import grid
from atomsweep.tracking.run import RunDirectory
from benchmarks import gpu, roofline, so3, training_step
from benchmarks.bare_training import SEED, BareTraining, config_of, slabs
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
    rows = [f"equiformer_v2_31m, DeNS{more}" for more in ("", ", compiled")]
    most = [roofline.line(row, roofline.Count(**kept[row])).split("|")[-2].strip() for row in rows]
    told = f"no faster than {most[0]} structures/s on an H200 eagerly, and {most[1]} compiled"
    assert told in " ".join(gpus.split())


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


OPTIONS = gpu.Options("cpu", quick=True, until=0.0, longest=60.0, workers=0)


def measured(made, context, out, seconds=60.0, longest=60.0):
    """What `gpu.py` finds of some rows."""
    until = time.monotonic() + seconds
    options = gpu.Options("cpu", True, until, longest, 0)
    with mock.patch.object(gpu, "rows", return_value=made):
        return gpu.measure(options, None, out, context)


def works(options):
    return {"process": os.getpid(), "speed": 1.25}


def raises(options):
    raise RuntimeError("an illegal access")


def aborts(options):
    os.abort()


def hangs(options, file):
    """In C, with the interpreter's lock: no alarm, no handler and no thread of Python runs."""
    file.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    ctypes.PyDLL(None).sleep(600)


@pytest.mark.slow
def test_a_row_that_raises_aborts_or_hangs_harms_no_other(tmp_path, context, capfd):
    out, pid = tmp_path / "found.json", tmp_path / "pid"
    made = {"a": works, "b": works, "raises": raises, "c": works, "aborts": aborts}
    made |= {"hangs": partial(hangs, file=pid), "d": works}
    found = measured(made, context, out, longest=15.0)
    assert list(found) == list(made)
    assert json.loads(out.read_text()) == found
    assert found["raises"]["error"] == "RuntimeError: an illegal access"
    assert found["aborts"]["error"].startswith("its process ended by SIGABRT")
    assert found["hangs"]["error"] == "it was ended after 15 s"
    good = [found[name]["process"] for name in "abcd"]
    assert good[0] == good[1]  # imports are paid once where rows behave
    assert len(set(good)) == 3
    assert not is_running(int(pid.read_text()))
    assert "d: process" in capfd.readouterr().out


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_row_for_which_no_time_is_left_is_left_out(tmp_path, context):
    found = measured({"a": works}, context, tmp_path / "found.json", seconds=-1.0)
    assert found == {"a": {"left out": "no time is left"}}


@pytest.mark.slow
def test_no_row_goes_on_after_the_end(tmp_path, context, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    made = {"a": partial(hangs, file=tmp_path / "pid"), "b": works}
    start = time.monotonic()
    found = measured(made, context, tmp_path / "found.json", seconds=0.5)
    assert time.monotonic() - start < 30
    assert found["a"]["error"] == "it was ended after 1 s"
    assert found["b"] == {"left out": "no time is left"}


WITH_OTHER_FORM = {
    name: row.keywords["choices"]
    for name, row in gpu.rows(gpu.Options("cuda", False, 0.0, 0.0, 0)).items()
    if isinstance(row, partial) and row.keywords.get("other")
}
FORMS = {  # what a step of each must call
    "torch_geometric, schnet": [(training_step.PublicSchNet, "energy")],
    "torch_geometric, dimenet_pp": [(training_step.PublicDimeNet, "energy")],
    "concatenation": [(training_step, "concatenated")],
    "e3nn": [(so3, name) for name in ("edge_matrices", "gather", "convolution", "whole_grid")],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if "dimenet" not in name else pytest.mark.slow)
        for name in WITH_OTHER_FORM
    ],
)
def test_the_other_form_is_what_a_step_trains(name):
    config = config_of([*WITH_OTHER_FORM[name], "size=small"])
    bare = BareTraining(config, slabs(2), "cpu", 0, batch_size=2, accumulate=1)
    ours, calls = bare.model, Counter()

    def counted(function):
        @wraps(function)
        def call(*args, **kwargs):
            calls[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for owner, function in itertools.chain(*FORMS.values()):
            changed = counted(getattr(owner, function))
            stack.enter_context(mock.patch.object(owner, function, changed))
        form, context = bare.other_form()
        stack.enter_context(context)
        assert not calls
        with bare.steps() as steps:
            steps.run(steps.next())
    kind = f", {name.partition(',')[0]}" if form == "torch_geometric" else ""
    assert set(calls) == {function for _, function in FORMS[form + kind]}
    trained = steps.training.model
    assert (trained is ours) == (form != "torch_geometric")
    lacking = [n for n, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert set(lacking) <= {"net.lin2.bias"}  # it moves energies, of which this loss knows nothing


def test_steps_of_benchmarks_are_those_of_a_run(tmp_path):
    """First weights from data, and the learning rates of the schedule over the run's own steps."""
    choices = ["model=forcenet", "size=small", "engine.steps=4", "engine.eval_every=4"]
    config = config_of(choices)
    bare = BareTraining(config, slabs(4), "cpu", 0, batch_size=2)
    with bare.steps() as steps:
        for _ in range(4):
            steps.run(steps.next())
    torch.manual_seed(SEED)
    model, task = build_learner(config)
    data = {"train": bare.data, "val_id": bare.data}
    run = RunDirectory.create(tmp_path, "seed: 0\n", {"identity": "abcdef012345", "science": {}})
    fit(bare.trainer, model, task, bare.recipe, data, bare.augment, run, SEED)
    kept = torch.load(tmp_path / "checkpoints" / "last.pt")["model"]
    for name, value in bare.model.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_a_row_says_how_many_of_its_shapes_were_eager():
    some = SimpleNamespace(graphs={"a": None, "b": object(), "c": object()}, failed="no memory")
    assert gpu.shapes(some) == {"shapes": 3, "eager shapes": 1, "why": "no memory"}
    assert gpu.shapes(SimpleNamespace(graphs={"a": object()}, failed=None)) == {"shapes": 1}


@pytest.mark.slow
def test_the_rows_of_tests_select_those_for_a_gpu():
    found = []
    for marks in gpu.GPU_TESTS.values():
        command = [*gpu.pytest_command(marks), "--collect-only"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        found.append({line.partition(":")[0] for line in done.stdout.splitlines()})
    assert {"tests/engine/test_gpu.py", "tests/worker/evaluate/test_gpu.py"} < found[0]
    assert "tests/engine/test_compiled.py" in found[1] - found[0]


@pytest.mark.parametrize(
    ("code", "last", "fails"),
    [
        (0, "23 passed, 1 skipped, 9000 deselected in 20.00s", False),
        (0, "24 skipped, 9000 deselected in 20.00s", True),  # no device was seen
        (5, "9000 deselected in 20.00s", True),
        (1, "1 failed, 23 passed, 9000 deselected in 20.00s", True),
    ],
)
def test_tests_of_which_none_has_passed_are_a_failure(code, last, fails, monkeypatch):
    done = SimpleNamespace(returncode=code, stdout=f"...\n{last}\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    expected = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
    with expected:
        assert gpu.gpu_tests(OPTIONS, "gpu") == {"outcome": last}


def test_every_row_that_was_asked_for_is_there():
    """Six models, eager and compiled, in three precisions, and what is not a speed."""
    names = list(gpu.rows(gpu.Options("cuda", False, 0.0, 0.0, 0)))
    models = ["forcenet", "forcenet_large", "schnet", "dimenet_pp"]
    models += ["equiformer_v2_31m", "equiformer_v2_31m with DeNS"]
    for model in models:
        for precision in ("tf32", "float32", "bf16"):
            assert f"{model}, {precision}" in names
            assert f"{model} compiled default, {precision}" in names
    others = {"about", "relaxations", "300 steps", "a sweep of two cells", *gpu.GPU_TESTS}
    assert others < set(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        ["about", "schnet, tf32", "300 steps"],
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
    assert {name for name in found["300 steps"] if "bf16" in name} == {"forces_mae bf16, eV/Å"}
    if rows is None:
        assert found["relaxations"]["all at once, steps/s"] > 0
