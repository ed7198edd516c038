"""Whole steps on a GPU that is none (`benchmarks/fake_gpu.py`): devices never mix, nothing waits.

Each test is one process for many cases, since the device belongs to a process for good.
"""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.places import REPOSITORY, SOURCE

# Every family, and every task, objective, augmentation and precision somewhere
SMALL = ["size=small", "model.num_layers=1"]
DEGREE_1 = [f"model.{name}=[8,4]" for name in ("channels", "head_channels", "ffn_channels")]
TRAINED = {
    "forcenet_small": [*SMALL, "task=s2f", "augmentation=rotate_z", "engine.precision=tf32"],
    "gns": [*SMALL, "task=s2f", "augmentation=none", "engine.precision=bf16"],
    "schnet": [*SMALL, "task=s2ef", "augmentation=rotate_so3"],
    "dimenet_pp": [*SMALL, "task=s2ef", "augmentation=none", "engine.precision=bf16"],
    "egnn_72k": [*SMALL, "task=is2re", "augmentation=none"],
    "megnet_986k": [*SMALL, "task=s2ef_matsci", "augmentation=none"],
    "gala": [*SMALL, "task=is2re", "augmentation=rotate_so3", "engine.precision=bf16"],
    "equiformer_l2": [*SMALL, *DEGREE_1, "task=s2ef_md17", "dens=md17", "augmentation=none"],
    "equiformer_v2_small": [*SMALL, "task=s2ef_oc20", "dens=v3", "engine.precision=bf16"],
    "escn_small": [*SMALL, "task=s2ef_oc20", "dens=oc20_escn", "augmentation=none"],
    "median": ["task=s2f"],
}
GNS = [*SMALL, "task=s2f"]
ENCODING = ["model.force_encoding=edge_projection", "model.energy_head=true"]
FAULTS = {
    "item": "a value is read",
    "mask": "a mask becomes indices",
    "size": "the size of repeat_interleave is read",
    "host copy": "copied to the host",
    "tensor of the CPU": "at least two devices",
    "indices": "",  # torch sends them by itself, and finds no kernel for it
    "literal": "of Python's numbers",
    "sent in the step": "sent to the device, and the host waits",
    "singular values": "a value is read",
    "eigenvalues": "a value is read",
    "range": "the range of histc",
    "number of the host": "sent to the device, and the host waits",
}


def outcomes(cases):
    """What became of each case, by its name; the process itself must survive."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.engine.fake_gpu_cases"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{REPOSITORY}"},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert len(found) == len(cases)
    return found


def case(model, *overrides, what="train", steps=1, batches=1):
    """Of so many steps, evaluated in so many batches: new sizes take most of the time."""
    named = [f"model={model}", *overrides]
    return {"overrides": named, "what": what, "steps": steps, "batches": batches}


def test_steps_never_wait_and_a_step_that_does_is_found():
    dens = ["forcenet_small", *SMALL, "task=s2ef", "dens=oc20", *ENCODING]
    bad = ["item", "mask", "host copy", "tensor of the CPU", "sent in the step"]
    cases = [case(*dens, steps=2, batches=2), *(case("gns", *GNS, what=fault) for fault in bad)]
    (_, good), *others = outcomes(cases).items()
    assert good == "ok"
    for (name, told), fault in zip(others, bad, strict=True):
        assert told != "ok", name
        assert FAULTS[fault] in told, name


@pytest.mark.slow
def test_training_evaluation_ranks_and_relaxations_of_every_family_never_wait():
    schnet = ["schnet", *SMALL, "task=s2ef"]
    cases = [case(model, *overrides) for model, overrides in TRAINED.items()]
    cases += [
        case(*schnet, what="ranks"),
        case("gns", *GNS, what="ranks"),
        case("forcenet_small", *SMALL, "task=s2f", "engine.precision=bf16", what="compiled"),
        case(*schnet, what="compiled", steps=2),
        *(case(*schnet, what=what) for what in ("relaxation", "dynamics")),
        *(case("gns", *GNS, what=what) for what in ("relaxation", "paths", "dynamics")),
        *(case("gala", *SMALL, "task=s2ef", what=what) for what in ("relaxation", "dynamics")),
    ]
    found = list(outcomes([*cases, *(case(*schnet, what=fault) for fault in FAULTS)]).items())
    assert [(name, told) for name, told in found[: len(cases)] if told != "ok"] == []
    for (name, told), words in zip(found[len(cases) :], FAULTS.values(), strict=True):
        assert told != "ok", name
        assert words in told, name


@pytest.mark.long
def test_a_relaxation_of_every_family_waits_where_it_must_and_as_often():
    forces = {"task=is2re": "task=s2ef"}
    cases = [
        case(model, *(forces.get(word, word) for word in overrides), what="relaxation")
        for model, overrides in TRAINED.items()
        if model not in {"median", "gns", "schnet", "gala"}  # which are looked at above
    ]
    assert {name: told for name, told in outcomes(cases).items() if told != "ok"} == {}


MODELS = sorted(path.stem for path in (REPOSITORY / "conf" / "model").glob("*.yaml"))


@pytest.mark.long
@pytest.mark.parametrize("model", [name for name in MODELS if name != "median"])
def test_every_model_task_objective_augmentation_and_precision(model):
    encodes = model.startswith(("equiformer", "escn", "forcenet"))
    dens = ["none", *(["oc20", "md17", "v1_multiscale"] if encodes else [])]
    more = ENCODING if model.startswith("forcenet") else []
    cases = [
        case(model, "size=small", f"task={task}", f"dens={denoising}", *more, *rest, batches=2)
        for task, denoising in itertools.product(("s2f", "s2ef", "s2ef_oc20", "is2re"), dens)
        for rest in itertools.product(
            [f"augmentation={name}" for name in ("none", "rotate_z", "rotate_so3")],
            [f"engine.precision={name}" for name in ("float32", "tf32", "bf16")],
        )
        if denoising == "none" or task.startswith("s2ef")
    ]
    found = outcomes(cases)
    refused = "needs a model that predicts the energy"  # of models of forces alone
    wrong = {name: told for name, told in found.items() if told != "ok" and refused not in told}
    assert wrong == {}
    assert "ok" in found.values()
