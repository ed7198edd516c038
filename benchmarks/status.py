"""CPU seconds of `status` and of live pages over a root of made-up runs; nothing is trained.

    python benchmarks/status.py                  # 1 000 runs
    python benchmarks/status.py --runs 10000     # target 10 s for the first look

Runs have the files that a trained one leaves: half are finished, a quarter waits, and a quarter was
interrupted. A look is what `status` does, and `status --watch` and `watch` again and again.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.cli import live
from atomsweep.launch.overview import Overview
from atomsweep.launch.plan import Cell, Plan
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

TARGET = 10.0  # s of the first look at 10 000 runs
METRIC = "val_id/forces_mae"
LINES = 40  # of a journal


def main() -> None:
    """Make the root and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        runs = make_root(root, options.runs)
        print(f"{options.runs} runs; CPU seconds", flush=True)
        overview = Overview(root)
        print(
            f"  {spent(overview.look):7.2f}  first look (target {TARGET:g} at 10 000)", flush=True
        )
        print(f"  {spent(overview.look):7.2f}  again, nothing changed")
        runs[-1].update_status(step=9)
        print(f"  {spent(overview.look):7.2f}  again, one run changed")
        live.EVERY = live.REST = 0.0
        site = live.Site(root)
        for page in ("/", "/sweep/big"):
            print(f"  {spent(lambda page=page: site.page(page)):7.2f}  first page {page}")
            print(f"  {spent(lambda page=page: site.page(page)):7.2f}  refresh of {page}")


def make_root(root: Path, number: int) -> list[RunDirectory]:
    """A planned sweep of so many cells."""
    cells = [_cell(seed) for seed in range(number)]
    with mock.patch("os.fsync"):  # none has to outlive a power cut
        runs = [_run(cell, root, seed) for seed, cell in enumerate(cells)]
    grid = Grid({"seed": [str(seed) for seed in range(number)]}, [], name="big")
    Plan.of(cells, grid, ["run.py", "-m"], root).save(root, runs, {c.identity: 1000 for c in cells})
    return runs


def _cell(seed: int) -> Cell:
    config = {
        "model": {"_target_": "atomsweep.models.schnet.SchNet", "cutoff": 6.0},
        "optim": {"_target_": "atomsweep.engine.optim.Recipe", "batch_size": 8},
        "engine": {"steps": 100, "device": "cpu", "precision": "float32", "metric": METRIC},
        "task": {"_target_": "atomsweep.tasks.s2f.S2F"},
        "data": {"root": "x"},
        "seed": seed,
    }
    data = {"name": "d", "fingerprint": "f0", "provenance": {}}
    return Cell(config, {"model": "schnet", "engine": "cpu"}, [f"seed={seed}"], data)


def _run(cell: Cell, root: Path, seed: int) -> RunDirectory:
    run = RunDirectory.create(
        root / cell.name,
        "engine: {device: cpu}\n",
        {
            "identity": cell.identity,
            "choices": dict(cell.choices),
            "overrides": list(cell.overrides),
            "sweep": "big",
            "seed": seed,
            "data": dict(cell.data),
            "science": dict(cell.science),
        },
    )
    if seed % 4 == 0:
        return run
    for name, text in _alike().items():
        (run.path / name).write_text(text, encoding="utf-8")
    run.start_segment("cpu")
    if seed % 4 == 1:
        run.interrupt("stopped")
        return run
    times = {"device_seconds": 50.0, "eval_seconds": 1.0}
    run.finish({"metrics": {METRIC: 0.03}, "step": 100, "parameters": 1000, **times})
    assert run.state() == schema.FINISHED
    return run


@cache
def _alike() -> dict[str, str]:
    """Files that all runs have alike, as a run writes them."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "one", "engine: {}\n", {"identity": "0" * 12})
        run.write_environment(device="cpu (made up)")
        for step in range(LINES):
            run.log(step, {METRIC: 1.0 / (1 + step)}, float(step), 0.0)
        names = (schema.ENVIRONMENT, schema.JOURNAL)
        return {name: (run.path / name).read_text(encoding="utf-8") for name in names}


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    before = now()
    work()
    return now() - before


if __name__ == "__main__":
    main()
