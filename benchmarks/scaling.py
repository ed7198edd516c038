"""Structures per second of training on 1, 2, 4 processes of this machine, and with workers.

    python benchmarks/scaling.py [--ranks 1 2 4] [--scaling strong weak] [KEY=VALUE ...]
    python benchmarks/scaling.py --workers 0 1 2 [--read-each-batch]

Each number is a run of `run.py`, the fastest entry of its journal, the best of the repeats, which
take turns. Strong scaling: the batch of a step is the same on any number of ranks, and so is the
loss curve. Weak scaling: each rank has as much of a batch as one process alone. The efficiency is
the speed over that of the first row, divided by how many times its ranks there are. Ranks that
outnumber the cores share them; what such a row shows is the cost of messages and of small parts,
not how the program scales. Set OMP_NUM_THREADS=1: one thread a rank is assumed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from atomsweep.tracking import schema
from atomsweep.tracking.find import find_runs

ROOT = Path(__file__).resolve().parents[1]
CELL = ["data=mini_oc_tiny", "tracking=none", "engine.log_every=5"]
BATCH = 16  # of a step; in weak scaling of each rank


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="+", help="instead: one rank, so many threads")
    parser.add_argument("--scaling", nargs="+", choices=["strong", "weak"], default=["strong"])
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--read-each-batch", action="store_true", help="keep no data in memory")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    options, overrides = parser.parse_known_args()
    by_ranks = options.workers is None
    key = "cluster.ranks" if by_ranks else "engine.workers"
    numbers = options.ranks if by_ranks else options.workers
    words = [*CELL, f"engine.steps={options.steps}", f"engine.eval_every={options.steps}"]
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {' '.join([*words, *overrides])}")
    for kind in options.scaling if by_ranks else ["strong"]:
        best = dict.fromkeys(numbers, 0.0)
        for _ in range(options.repeats):
            for number in numbers:
                batch = options.batch_size * (number if kind == "weak" else 1)
                choice = [*words, f"optim.batch_size={batch}", *overrides, f"{key}={number}"]
                best[number] = max(best[number], speed(choice, options.read_each_batch))
        each = " of each rank" if kind == "weak" else ""
        print(f"\n{kind if by_ranks else 'workers'}: optim.batch_size={options.batch_size}{each}")
        print("\n".join(table(key, best, cores if by_ranks else None)))
    if by_ranks and max(numbers) > cores:
        print(
            f"\n{cores} cores show what {cores} ranks gain, and beyond that what messages and "
            "smaller parts cost; not how more cores, GPUs or nodes scale"
        )


def table(key: str, best: Mapping[int, float], cores: int | None) -> list[str]:
    """Lines: structures per second, and against the first row; with `cores` the efficiency too."""
    first, base = next(iter(best.items()))
    lines = [f"{key:>14}  structures/s  against {first}" + ("  efficiency" if cores else "")]
    for number, rate in best.items():
        line = f"{number:>14}  {rate:12.1f}  {rate / base:8.2f} x"
        if cores is not None:
            line += f"  {rate / base * first / number:9.0%}"
            line += "  more ranks than cores" if number > cores else ""
        lines.append(line)
    return lines


def speed(overrides: Sequence[str], read_each_batch: bool) -> float:
    """Structures per second of a run, the first entry of its journal left out."""
    kept = ["engine.cache_gib=0"] if read_each_batch else []
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "run.py", *overrides, *kept, f"root={place}"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        (run,) = find_runs(place)
        name = f"{schema.TRAIN}/{schema.STRUCTURES_PER_S}"
        return max([line[name] for line in run.journal() if name in line][1:])


if __name__ == "__main__":
    main()
