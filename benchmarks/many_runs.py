"""What a root of many finished runs costs: CPU seconds of a survey, of MLflow, of one more run.

    python benchmarks/many_runs.py --runs 200

Runs are made-up ends of real cells: their config, identity and files are those of `run.py`.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.launch.compose import composed_cells
from atomsweep.launch.plan import Cell, Plan, create_all
from atomsweep.launch.survey import survey
from atomsweep.sweep.grid import Grid
from atomsweep.tracking import schema
from atomsweep.tracking.mlflow.connect import connect
from atomsweep.tracking.mlflow.mirror import EXPERIMENT, Scope, sync
from atomsweep.tracking.mlflow.writer import Writer
from atomsweep.tracking.run import RunDirectory

CHOSEN = ["data=mini_oc_tiny", "engine.steps=800"]
EVALUATIONS = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "runs"
        cells = cells_of(options.runs)
        told("compose", options.runs, lambda: cells_of(options.runs))
        told("make directories", options.runs, lambda: make(root, cells))
        told("again", options.runs, lambda: make(root, cells))
        for run in make(root, cells):
            finish(run)
        told("survey", options.runs, lambda: survey(cells, root, {}))
        (one,) = make(Path(place) / "empty", cells_of(1, "seed=100000"))
        finish(one)
        empty, full = (f"sqlite:///{place}/{name}.db" for name in ("empty", "full"))
        connect(full, EXPERIMENT)  # imports, and the tables of the store
        connect(empty, EXPERIMENT)
        told("one, beside none", 1, lambda: sync(one.path.parent, empty, runs=[one]))
        told("first sync", options.runs, lambda: sync(root, full))
        told("sync again", options.runs, lambda: sync(root, full))
        (two,) = make(root, cells_of(1, "seed=100001"))
        finish(two)
        beside = Writer(root, full, EXPERIMENT, scope=Scope([two.name]))
        told("one, beside all", 1, lambda: beside.sync(None, 60.0))
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def cells_of(count: int, *more: str) -> list[Cell]:
    """Cells that differ by seed and learning rate."""
    cell = composed_cells()
    return [
        cell([*CHOSEN, f"seed={i // 10}", f"optim.optimizer.lr={(1 + i % 10) * 1e-4}", *more])
        for i in range(count)
    ]


def make(root: Path, cells: Sequence[Cell]) -> list[RunDirectory]:
    """Their run directories, and the plan of a sweep over them."""
    runs = create_all(cells, root, "many", "run.py -m")
    Plan(cells, Grid({}, []), "many", ["run.py"]).save(root, runs, {})
    return runs


def finish(run: RunDirectory, seconds: float = 80.0) -> None:
    """Give a run the files that a training leaves."""
    if run.result is not None:
        return
    with run.lock():
        run.write_environment(device="cpu (made up)")
        run.start_segment("cpu (made up)")
        metrics = {f"{split}/forces_mae": 0.1 for split in schema.VAL_SPLITS}
        for step in range(0, 801, 800 // EVALUATIONS):
            run.log(step, metrics, seconds * step / 800, 9.0 * step / 800)
        (run.path / schema.CHECKPOINTS).mkdir(exist_ok=True)
        (run.path / schema.CHECKPOINTS / "best.pt").write_bytes(b"made up")
        (run.path / schema.LOG).write_text("made up\n")
        run.finish(
            {
                "step": 800,
                "checkpoint": "best",
                "parameters": 123456,
                "metrics": metrics,
                "device_seconds": seconds,
                "eval_seconds": 9.0,
            }
        )


def told(what: str, runs: int, work: Callable[[], object]) -> None:
    """CPU and wall seconds of some work, and milliseconds of CPU a run."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    each = 1000 * cpu / runs
    print(f"{what:18s} {cpu:7.2f} s CPU  {wall:7.2f} s  {each:7.2f} ms CPU a run", flush=True)


if __name__ == "__main__":
    main()
