"""What one GPU does with this package, in at most six minutes.

    python benchmarks/gpu.py --out gpu.json            # on the first CUDA device
    python benchmarks/gpu.py --device cpu --quick      # the script itself, in some minutes
    python benchmarks/gpu.py --minutes 60 --rows "forcenet compiled" "schnet compiled"

Rows run in a process beside this one. A row that fails, aborts or takes more than half of the time
says so, and ends that process with all that it has started, so that a broken CUDA context or a call
that never returns harms no other row: the next has a new one. A row that no time is left for is
left out. What is found is printed as it comes and written after every row.

Steps are those of the training loop, with its loader, on slabs of 86 atoms: seconds of the wall,
the device waited for at the end, after steps that are not measured. `loader` is what the loader
alone gives. Beside a model in TF32 stands a plain form of it, that of `training_step.py` or
`so3.py`: concatenation of what an edge knows, torch_geometric's own, products of e3nn. Compiling
takes the most time, so it comes last, and `--rows` with more `--minutes` measures what was left
out.
"""

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.graph import search
from atomsweep.launch.execute import warm_up
from atomsweep.processes import PARTING_S, Worker
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.relax.potentials import ModelPotential
from atomsweep.tracking.files import write_atomic
from atomsweep.tracking.schema import FORCES_MAE, metric_name
from atomsweep.worker.train import train
from benchmarks.bare_training import BareTraining, cell, config_of, slabs

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
GRACE = 45.0  # s after `Options.until`, at which a row that has not ended is ended
GPU_TESTS = {"tests marked gpu": "gpu and not slow", "slow tests marked gpu": "gpu and slow"}
BOUND = 1.2  # a row is bound by the loader that gives less than so many times its speed


@dataclass
class Options:
    """How it is measured.

    Attributes:
        device: of torch.
        quick: small models and few steps.
        until: `time.monotonic` at which no row begins any more.
        longest: seconds that a row may take.
        workers: threads of the loader.
    """

    device: str
    quick: bool
    until: float
    longest: float
    workers: int

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.get_device_module(self.device).synchronize()


Row = dict[str, Any]


def about(options: Options) -> Row:
    """Device and versions."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
    }
    if options.device.startswith("cuda"):
        of = torch.cuda.get_device_properties(0)
        found |= {"device": of.name, "GiB": of.total_memory / 2**30, "CUDA": torch.version.cuda}
    return found


def pytest_command(marks: str) -> list[str]:
    """What runs the tests whose marks an expression selects."""
    return [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", marks, "tests"]


def gpu_tests(options: Options, marks: str) -> Row:
    """Tests of such marks; that none was there to pass is a failure."""
    done = subprocess.run(pytest_command(marks), cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip() or "nothing was said").splitlines()[-1]
    if done.returncode or " passed" not in last:
        raise RuntimeError(f"{last}\n{done.stdout[-2000:]}")
    return {"outcome": last}


def training(options: Options, choices: list[str], batch: int, steps: int, other: bool) -> Row:
    """Structures per second of training steps with their loader, and of the loader alone."""
    if options.quick:
        choices, batch, steps = [*choices, "size=small"], 2, 2
    config = config_of(choices)
    sets = slabs(4 if options.quick else 2 * batch)
    bare = BareTraining(
        config, sets, options.device, options.workers, batch_size=batch, accumulate=1
    )
    found: Row = {"batch": batch}
    with bare.steps() as loop:  # the loader is measured before the device is busy
        start = time.perf_counter()
        for _ in range(steps):
            loop.next()
        options.synchronise()
        found["loader structures/s"] = steps * batch / (time.perf_counter() - start)
    found |= _speed(options, bare, batch, steps)
    found["bound by the loader"] = found["loader structures/s"] < BOUND * found["structures/s"]
    if other:
        name, context = bare.other_form()
        with context:
            found[f"{name} structures/s"] = _speed(options, bare, batch, steps)["structures/s"]
    return found


def _speed(options: Options, bare: BareTraining, batch: int, steps: int) -> Row:
    found: Row = {}
    with bare.steps() as loop:
        start = time.perf_counter()
        loop.run(loop.next())
        options.synchronise()
        if bare.trainer.compile != "none":
            found["first step s"] = time.perf_counter() - start
        for _ in range(0 if options.quick else 2):
            loop.run(loop.next())
        options.synchronise()
        cuda = options.device.startswith("cuda")
        if cuda:  # of these steps: the first one of what is compiled goes through eager code, too
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(steps):
            loop.run(loop.next())
        options.synchronise()
        found["structures/s"] = steps * batch / (time.perf_counter() - start)
        if cuda:
            found["peak MiB"] = torch.cuda.max_memory_allocated() / MIB
        if not math.isfinite(loss := float(loop.training.loss_sum)):
            raise RuntimeError(f"the loss after {steps} steps is {loss}")
        if bare.trainer.compile != "none":
            found |= shapes(loop.training.forward)
    return found


def shapes(forward: Any) -> Row:
    """How many shapes a `CompiledForward` has met, and how many of them it has run eagerly."""
    graphs = list(forward.graphs.values())
    found: Row = {"shapes": len(graphs)}
    if eager := graphs.count(None):
        found |= {"eager shapes": eager, "why": forward.failed}
    return found


def relaxations(options: Options, count: int, steps: int) -> Row:
    """Steps of relaxations per second, all at once against one by one."""
    if options.quick:
        count, steps = 2, 2
    config = config_of(["model=forcenet", "size=small", "task=s2ef"])
    bare = BareTraining(config, slabs(count), "cpu", 0)
    bare.model.to(options.device).eval()
    made = [bare.data.dataset[index] for index in range(count)]
    there = search.device_search() is not None and options.device.startswith("cuda")
    found: Row = {"structures": count, "neighbours searched on the device": there}

    def speed(size: int) -> float:
        potential = ModelPotential(bare.model)  # that knows no neighbours yet
        start = time.perf_counter()
        list(relax(made, potential, LBFGS(), fmax=0.0, steps=steps, batch_size=size))
        options.synchronise()
        return count * steps / (time.perf_counter() - start)

    speed(count)  # kernels are made and loaded
    for name, size in (("one by one", 1), ("all at once", count)):
        found[f"{name}, steps/s"] = speed(size)
    if there:
        with mock.patch.object(search, "device_search", return_value=None):
            found["all at once, searched on the CPU, steps/s"] = speed(count)
    return found


def sweep(options: Options) -> Row:
    """What a sweep of two tiny cells costs beyond their training."""
    command = [sys.executable, str(ROOT / "benchmarks" / "sweep_overhead.py"), "--cells", "2"]
    command += ["--engine", "cpu" if options.device == "cpu" else "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    head, values = (line.split("  ") for line in done.stdout.strip().splitlines()[-2:])
    names = [name.strip() for name in head if name.strip()]
    return dict(zip(names, [v.strip() for v in values if v.strip()], strict=True))


def precisions(options: Options, steps: int) -> Row:
    """Errors of forces on mini_oc's validation after a whole run of some steps, in each precision.

    A run as `run.py` trains it, so that its schedule ends with its steps.
    """
    data, steps = ("mini_oc_tiny", 3) if options.quick else ("mini_oc", steps)
    found: Row = {"steps": steps}
    for precision in ("float32", "tf32", "bf16"):
        choices = ["model=forcenet", "size=small", f"data={data}", "tracking=none"]
        engine = {"device": options.device, "workers": options.workers, "precision": precision}
        engine |= {"steps": steps, "eval_every": steps, "checkpoint_every": steps}
        choices += [f"engine.{name}={value}" for name, value in engine.items()]
        with tempfile.TemporaryDirectory() as root:
            run = cell(choices).create(Path(root), sweep=None, command=__file__)
            train(run, lambda update: None)
            result = run.result
        assert result is not None
        error = result["metrics"][metric_name("val_id", FORCES_MAE)]
        found[f"forces_mae {precision}, eV/Å"] = error
    return found


def rows(options: Options) -> dict[str, Callable[[Options], Row]]:
    """What is measured, the most wanted first."""
    found: dict[str, Callable[[Options], Row]] = {"about": about}
    first, last = ((name, partial(gpu_tests, marks=marks)) for name, marks in GPU_TESTS.items())
    if not options.quick:
        found |= [first]
    s2f, oc20 = ["task=s2f"], ["task=s2ef_oc20", "augmentation=none"]
    models = {
        "forcenet": (["model=forcenet", *s2f], 64, 20),
        "schnet": (["model=schnet", *s2f, "augmentation=none"], 32, 20),
        "equiformer_v2_31m": (["model=equiformer_v2_31m", *oc20], 8, 8),
        "equiformer_v2_31m with DeNS": (["model=equiformer_v2_31m", *oc20, "dens=oc20"], 8, 8),
        "forcenet_large": (["model=forcenet_large", *s2f], 32, 10),
        "dimenet_pp": (["model=dimenet_pp", *s2f, "augmentation=none"], 16, 10),
    }

    def row(name: str, precision: str, mode: str = "none") -> None:
        choices, batch, steps = models[name]
        title = name if mode == "none" else f"{name} compiled {mode}"
        choices = [*choices, f"engine.precision={precision}", f"engine.compile={mode}"]
        other = precision == "tf32" and mode == "none"
        found[f"{title}, {precision}"] = partial(
            training, choices=choices, batch=batch, steps=steps, other=other
        )

    for name in models:
        row(name, "tf32")
    found["relaxations"] = partial(relaxations, count=32, steps=5)
    found["300 steps"] = partial(precisions, steps=300)
    found["a sweep of two cells"] = sweep
    if options.quick:  # on a CPU a model takes a minute to compile, so one stands for all
        row("forcenet", "tf32", "default")
        row("forcenet", "bf16")
        return found
    for name in models:
        row(name, "tf32", "default")
    found |= [last]
    for precision, mode in (("bf16", "none"), ("float32", "none"), ("bf16", "default")):
        for name in models:
            row(name, precision, mode)
    for precision, mode in (("tf32", "max"), ("float32", "default")):
        for name in models:
            row(name, precision, mode)
    return found


def outcome(row: Callable[[Options], Row], options: Options) -> Row:
    """What a row found or why it failed, and how long it took: what the process of rows calls."""
    os.setpgid(0, 0)  # so that it can be ended with all that it starts
    start = time.monotonic()
    try:
        found = row(options)
    except Exception as error:  # of any kind, CUDA's too: the other rows are worth more
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
    found["seconds"] = time.monotonic() - start
    if options.device.startswith("cuda") and "error" not in found:
        torch.cuda.empty_cache()
    return found


def measure(options: Options, wanted: list[str] | None, out: Path, context: Any) -> dict[str, Row]:
    """All rows, or those whose names begin as wanted; each is written as it comes.

    Args:
        options: of each.
        wanted: beginnings of names, or None.
        out: file that holds what is found.
        context: of `multiprocessing`: where the process of rows comes from.
    """
    found: dict[str, Row] = {}
    worker: Worker | None = None
    try:
        for name, row in rows(options).items():
            if wanted is not None and not name.startswith(tuple(wanted)):
                continue
            start = time.monotonic()
            if start > options.until:
                found[name] = {"left out": "no time is left"}
            else:
                worker = Worker(context) if worker is None else worker
                most = min(options.longest, options.until + GRACE - start)
                found[name] = answered(worker, row, options, most)
                if "error" in found[name]:
                    worker = None
            told = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in found[name].items()
            )
            print(f"{name}: {told}", flush=True)
            write_atomic(out, json.dumps(found, indent=1).encode())
    finally:
        if worker is not None:
            end(worker)
    return found


def answered(worker: Worker, row: Callable[[Options], Row], options: Options, most: float) -> Row:
    """The `outcome` of a row, after at most so many seconds; the process is ended if it failed."""
    start = time.monotonic()
    worker.ask(outcome, (row, options))
    in_time = worker.connection.poll(most)
    answer = worker.answer() if in_time else None
    found: Row = answer[0] if isinstance(answer, tuple) else {}
    if found and "error" not in found:
        return found
    how = end(worker)  # who knows what the row has left there
    if not found:
        why = f"its process ended {how}" if in_time else f"it was ended after {most:.3g} s"
        found = {"error": why, "seconds": time.monotonic() - start}
    return found


def end(worker: Worker) -> str:
    """End a process of rows and what it has started; says how it had ended."""
    with suppress(ProcessLookupError):  # it has begun no row yet, or all of it has ended
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.kill()
    return worker.end(PARTING_S)


def main() -> int:
    """Measure; 1 where a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small models, few steps")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which no row begins")
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--rows", nargs="+", help="only those whose names begin so")
    default = Path(tempfile.gettempdir()) / "atomsweep-gpu.json"
    parser.add_argument("--out", type=Path, default=default)
    given = parser.parse_args()
    seconds = 60 * given.minutes
    until = time.monotonic() + seconds
    options = Options(given.device, given.quick, until, seconds / 2, given.workers)
    found = measure(options, given.rows, given.out, warm_up(None).context)
    failed = [name for name, row in found.items() if "error" in row]
    print(f"{len(found) - len(failed)} of {len(found)} rows are in {given.out}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
