"""What a sweep costs beyond its training: seconds to the first step, and seconds per cell.

    python benchmarks/sweep_overhead.py --cells 4 16 64

Every cell is a tiny run on `data=mini_oc_tiny`. The same cells are trained twice: by `run.py -m`,
one at a time, and one after another in a bare process that has imported everything. What the
sweep takes longer, divided by the number of cells, is the overhead; the last column is what that
would be of a cell that trains for 30 seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL = [
    "data=mini_oc_tiny",
    "model.hidden_channels=8",
    "model.decoder_channels=8",
    "model.num_layers=1",
    "engine.steps=40",
    "engine.eval_every=40",
    "engine.log_every=1",
    "engine.checkpoint_every=40",
]
TARGET_SECONDS = 30.0
HEADER = ("cells", "to first step", "sweep", "bare", "per cell", "at 30 s a cell")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--tracking", default="none", help="none, or mlflow for the mirror too")
    parser.add_argument("--engine", default="cpu", help="of the cells: cpu, or gpu where one is")
    parser.add_argument("--bare", metavar="ROOT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    CELL.insert(0, f"engine={options.engine}")
    if options.bare is not None:
        print(bare(Path(options.bare), options.cells[0]))
        return
    rows = [HEADER]
    with tempfile.TemporaryDirectory() as place:
        sweep(Path(place, "first"), 1, options.tracking)  # the data set is made here, if it must be
        for cells in options.cells:
            first, whole = sweep(Path(place, f"sweep-{cells}"), cells, options.tracking)
            where = ["--bare", str(Path(place, f"bare-{cells}")), "--engine", options.engine]
            told = start(*where, "--cells", str(cells))
            training = float(told.split()[-1])
            each = (whole - training) / cells
            share = f"{100 * each / TARGET_SECONDS:.1f} %"
            seconds = (f"{value:.1f} s" for value in (first, whole, training))
            rows.append((str(cells), *seconds, f"{each:.2f} s", share))
    for row in rows:
        print("  ".join(text.rjust(14) for text in row))


def sweep(root: Path, cells: int, tracking: str) -> tuple[float, float]:
    """Seconds from the command to the first training step, and to the end of the sweep."""
    seeds = ",".join(map(str, range(cells))) if cells > 1 else "0"
    arguments = [*CELL, f"seed={seeds}", f"root={root}", f"tracking={tracking}"]
    began = time.time()
    subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "-m", *arguments, "cluster.parallel=1"],
        check=True,
        capture_output=True,
        env=environment(),
    )
    whole = time.time() - began
    journals = [path.open(encoding="utf-8") for path in root.glob("*/metrics.jsonl")]
    return min(json.loads(journal.readline())["time"] for journal in journals) - began, whole


def bare(root: Path, cells: int) -> float:
    """Seconds of training the cells one after another in this process, imports left out."""
    from hydra import compose, initialize_config_dir

    from atomsweep.launch.compose import cell_of
    from atomsweep.launch.preflight import prepare_data
    from atomsweep.worker.train import train

    runs = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for seed in range(cells):
            cfg = compose("config", [*CELL, f"seed={seed}"], return_hydra_config=True)
            cell = cell_of(cfg, cfg.hydra.runtime.choices, [f"seed={seed}"])
            runs.append(cell.create(root, None, ""))
    prepare_data(cell.config)
    warm = cell.create(root / "warm", None, "")
    train(warm, lambda update: None)
    began = time.time()
    for run in runs:
        train(run, lambda update: None)
    return time.time() - began


def start(*arguments: str) -> str:
    """Output of this file in a process of its own."""
    command: Sequence[str] = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return done.stdout


def environment() -> dict[str, str]:
    """This process's environment, with the code of this repository and one thread."""
    path = os.pathsep.join(p for p in (str(ROOT / "src"), os.environ.get("PYTHONPATH")) if p)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
