"""Studies of a toy: a run whose error falls with its steps to (x - 0.3)², in milliseconds."""

import sys
import time
from pathlib import Path

from atomsweep.engine.signals import StopFlag
from atomsweep.launch.local.pool import fork_server, run_cells
from atomsweep.launch.plan import Cell
from atomsweep.launch.slurm.job import attend
from atomsweep.launch.study import record as study_record
from atomsweep.launch.study import storage as study_store
from atomsweep.launch.study.driver import Driver
from atomsweep.sweep.study import StudyFile
from atomsweep.tracking import schema
from atomsweep.tracking.lock import exclusive
from atomsweep.tracking.run import RunDirectory
from tests.launch.silent import Silent

METRIC = "val_id/forces_mae"
EXTRA = {}  # of the config of a run


def statement(**changes):
    content = {
        "title": "A toy",
        "objectives": {METRIC: "minimize"},
        "space": {"x": {"low": 0.0, "high": 1.0}, "kind": ["a", "b"]},
        "sampler": {"name": "tpe", "seed": 3, "startup": 4},
        "trials": 6,
    }
    return StudyFile.model_validate(content | changes)


def cell(point, seed):
    config = {"x": point["x"], "kind": point["kind"], "seed": seed, **EXTRA}
    overrides = [f"{key}={value}" for key, value in config.items()]
    return Cell(config, {"kind": point["kind"]}, overrides, {"name": "toy", "fingerprint": "f0"})


def size(cell):
    return 100 if cell.config["kind"] == "a" else 1000


def error(config, step):
    return (config["x"] - 0.3) ** 2 + 0.01 * config["seed"] + 1.0 / step


def train(run, steps, until=None):
    """The steps of a run up to `until`, as a trainer journals them."""
    config = run.config()
    for step in range(1, (until or steps) + 1):
        run.log(step, {METRIC: error(config, step)}, float(step), 0.0)
    if until is None:
        run.finish(
            {
                "metrics": {METRIC: error(config, steps)},
                "parameters": size(cell(config, config["seed"])),
                "device_seconds": 10.0 * config["x"],
                "eval_seconds": 0.0,
            }
        )


def job(path):
    """Thirty slow steps; leaves a line in `starts` for each process that worked on a run."""
    run = RunDirectory(path)
    if run.result is not None:
        return
    stop = StopFlag(run.path / schema.STOP)
    with run.lock():
        run.rewind(0)
        run.start_segment(device="cpu")
        config = run.config()
        for step in range(1, 31):
            if step == 30:
                run.update_status(fraction=1.0)
            run.log(step, {METRIC: error(config, step)}, float(step), 0.0)
            time.sleep(config.get("sleep", 0.02))
            if stop:
                run.interrupt("asked to stop")
                return
        run.finish({"metrics": {METRIC: error(config, 30)}, "device_seconds": 1.0})


def queued(path):
    """The job as SLURM runs it."""
    attend(job, path)


def driver(root, wanted=None, parallel=2, rerun="failed", check=size):
    wanted = wanted or statement()
    study_store.repair(root, "toy")
    study = study_store.open_study(wanted, root, "toy", ["base"])
    study.pruner = study_store.pruner(wanted, eval_every=1, steps=30)
    made = Driver(wanted, study, "toy", root, "run.py", cell, check, parallel, rerun)
    made.changed = lambda: study_record.write_plan(study, wanted, root, "toy", made.wanted, {})
    return made


def main(root, trials):
    """Drive the toy study with real processes, as `launch_study` does."""
    root = Path(root)
    (root / schema.PLANS).mkdir(parents=True, exist_ok=True)
    with exclusive(root / schema.PLANS / "toy.driver.lock", wait_s=30.0):
        pruner = {"name": "asha", "first": 5, "factor": 3}
        made = driver(root, statement(trials=trials, pruner=pruner))
        run_cells([], job, 2, "cpu", fork_server(["atomsweep.tracking.run"]), Silent(), made)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
