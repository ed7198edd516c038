"""Structures per second of training on 1, 2, 4 processes of this machine, and with workers.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--ranks 1 2 4] [CHOICE=OPTION ...]
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --workers 0 1 2 [--read-each-batch]

Each number is a run of `run.py`, the fastest entry of its journal, the best of the repeats, which
take turns. The batch of a step is the same on any number of ranks, and so is the loss curve: this
is strong scaling. Ranks that outnumber the cores share them; what such a row shows is the cost of
messages and of small parts, not how the program scales. One thread a rank is assumed.
"""

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from atomsweep.tracking import schema
from atomsweep.tracking.run import find_runs

ROOT = Path(__file__).resolve().parents[1]
CELL = ["data=mini_oc_tiny", "tracking=none", "optim.batch_size=16", "engine.log_every=5"]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="+", help="instead: one rank, so many threads")
    parser.add_argument("--read-each-batch", action="store_true", help="keep no data in memory")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    options, overrides = parser.parse_known_args()
    if os.environ.get("ATOMSWEEP_READ_EACH_BATCH"):
        one_that_reads(overrides)
        return
    key = "cluster.ranks" if options.workers is None else "engine.workers"
    numbers = options.ranks if options.workers is None else options.workers
    words = [*CELL, f"engine.steps={options.steps}", f"engine.eval_every={options.steps}"]
    best = dict.fromkeys(numbers, 0.0)
    for _ in range(options.repeats):
        for number in numbers:
            choice = [*words, *overrides, f"{key}={number}"]
            best[number] = max(best[number], speed(choice, options.read_each_batch))
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {' '.join([*CELL, *overrides])}")
    print(f"{key:>14}  structures/s  against {numbers[0]}")
    for number, rate in best.items():
        shared = "  more ranks than cores" if options.workers is None and number > cores else ""
        print(f"{number:>14}  {rate:12.1f}  {rate / best[numbers[0]]:8.2f} x{shared}")


def speed(overrides: Sequence[str], read_each_batch: bool) -> float:
    """Structures per second of a run, the first entry of its journal left out."""
    script = Path(__file__) if read_each_batch else ROOT / "run.py"
    env = os.environ | ({"ATOMSWEEP_READ_EACH_BATCH": "1"} if read_each_batch else {})
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(script), *overrides, f"root={place}"]
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
        (run,) = find_runs(place)
        name = f"{schema.TRAIN}/{schema.STRUCTURES_PER_S}"
        return max([line[name] for line in run.journal() if name in line][1:])


def one_that_reads(overrides: Sequence[str]) -> None:
    """`run.py` with nothing kept in memory: each batch is read, and its edges are found, anew."""
    from atomsweep.data import batching

    batching.GraphDataset = partial(batching.GraphDataset, memory_budget=0)  # type: ignore[misc]
    sys.argv = ["run.py", *overrides]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


if __name__ == "__main__":
    main()
