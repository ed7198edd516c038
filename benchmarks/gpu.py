"""What one GPU does with this package, in at most six minutes.

    python benchmarks/gpu.py --out gpu.json            # on the first CUDA device
    python benchmarks/gpu.py --device cpu --quick      # the script itself, in some minutes
    python benchmarks/gpu.py --minutes 60 --rows "forcenet compiled" "schnet compiled"

Rows, each by itself: one that fails says why, and the next begins; one that no time is left for is
left out. What is found is printed as it comes and written after every row. Steps are those of the
training loop, with its loader, on slabs of 86 atoms: seconds of the wall, the device waited for at
the end, after steps that are not measured. `loader` is what the loader alone gives. Beside a model
in TF32 stands a plain form of it, that of `training_step.py` or `so3.py`: concatenation of what an
edge knows, torch_geometric's own, products of e3nn. Compiling takes the most time, so it comes
last, and `--rows` with more `--minutes` measures what was left out.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.build import build
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.tensors import to_device
from atomsweep.graph import search
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.relax.potentials import ModelPotential
from atomsweep.tracking.files import write_atomic
from benchmarks.bare_training import BareTraining, config_of, slabs

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
GRACE = 45.0  # s after `Options.until`, at which a row that has not ended is ended
BOUND = 1.2  # a row is bound by the loader that gives less than so many times its speed


@dataclass
class Options:
    """How it is measured.

    Attributes:
        device: of torch.
        quick: small models and few steps.
        until: `time.monotonic` at which no row begins any more.
        workers: threads of the loader.
    """

    device: str
    quick: bool
    until: float
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


def gpu_tests(options: Options) -> Row:
    """Tests marked `gpu`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    last = (done.stdout.strip() or "nothing was said").splitlines()[-1]
    if done.returncode not in (0, 5):
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
        if (why := getattr(loop.training.forward, "failed", None)) is not None:
            found["eager, since"] = why
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
    """Errors of forces on mini_oc's validation after some steps, in each precision."""
    data, steps = ("mini_oc_tiny", 3) if options.quick else ("mini_oc", steps)
    found: Row = {"steps": steps}
    for precision in ("float32", "tf32", "bf16"):
        config = config_of(
            ["model=forcenet", "size=small", f"data={data}", f"engine.precision={precision}"]
        )
        source = build(config["data"], "data")
        source.prepare()
        bare = BareTraining(config, source.split("train"), options.device, options.workers)
        with bare.steps() as loop:
            for _ in range(steps):
                loop.run(loop.next())
        graph = RadiusGraph(bare.model.cutoff, bare.model.max_neighbors)
        held = GraphDataset(source.split("val_id"), graph)
        device = torch.device(options.device)
        bare.model.eval()
        total = atoms = 0.0
        for start in range(0, min(64, len(held)), 16):
            batch = to_device(held.batch(range(start, min(start + 16, len(held)))), device)
            with torch.no_grad(), bare.trainer.autocast():
                forces = bare.model(batch).forces
            error = (forces.float() - batch.forces).abs().mean(1)[~batch.fixed]
            total, atoms = total + float(error.sum()), atoms + len(error)
        found[f"forces_mae {precision}, eV/Å"] = total / atoms
    return found


def rows(options: Options) -> dict[str, Callable[[Options], Row]]:
    """What is measured, the most wanted first."""
    found: dict[str, Callable[[Options], Row]] = {"about": about}
    if not options.quick:
        found["tests marked gpu"] = gpu_tests
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
    for precision, mode in (("bf16", "none"), ("float32", "none"), ("bf16", "default")):
        for name in models:
            row(name, precision, mode)
    for precision, mode in (("tf32", "max"), ("float32", "default")):
        for name in models:
            row(name, precision, mode)
    return found


class Late(BaseException):
    """No time is left; no failure of what was going on, so nothing that expects one takes it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What takes longer is ended by `Late`, as soon as Python runs again."""

    def ends(*_: object) -> None:
        raise Late(f"no time was left after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ends)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def measure(options: Options, wanted: list[str] | None, out: Path) -> dict[str, Row]:
    """All rows, or those whose names begin as wanted; each is written as it comes."""
    found: dict[str, Row] = {}
    for name, row in rows(options).items():
        if wanted is not None and not name.startswith(tuple(wanted)):
            continue
        start = time.monotonic()
        if start > options.until:
            found[name] = {"left out": "no time is left"}
        else:
            try:
                with limited(options.until + GRACE - start):
                    found[name] = row(options)
            except (Exception, Late) as error:
                found[name] = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
                traceback.print_exc()
            found[name]["seconds"] = time.monotonic() - start
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
        told = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in found[name].items()
        )
        print(f"{name}: {told}", flush=True)
        write_atomic(out, json.dumps(found, indent=1).encode())
    return found


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
    until = time.monotonic() + 60 * given.minutes
    options = Options(given.device, given.quick, until, given.workers)
    found = measure(options, given.rows, given.out)
    failed = [name for name, row in found.items() if "error" in row]
    print(f"{len(found) - len(failed)} of {len(found)} rows are in {given.out}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
