"""What a plan costs: CPU seconds and memory of the launcher, seconds to its first line.

    python benchmarks/plan.py --cells 100 1000 10000

The process that imports torch and builds the models is counted in the wall seconds alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = {
    "seeds": lambda n: [f"seed=range(0,{n})"],
    "seeds x rates": lambda n: [f"seed=range(0,{n // 10})", f"optim.optimizer.lr={rates()}"],
    "a value that others read": lambda n: [f"seed=range(0,{n // 2})", f"metric={METRICS}"],
}
METRICS = "forces_mae,forces_cos"  # which engine.metric refers to
HEADER = ("cells", "sweep", "first line", "CPU", "a further cell", "wall", "memory")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    rows = [HEADER]
    for name, words in SWEEPS.items():
        _, few, _, _ = plan(words(10))
        for cells in options.cells:
            first, cpu, wall, memory = plan(words(cells))
            each = f"{1000 * (cpu - few) / cells:.2f} ms"
            told = (f"{first:.1f} s", f"{cpu:.1f} s", each, f"{wall:.1f} s", f"{memory:.0f} MB")
            rows.append((str(cells), name, *told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


def plan(words: list[str]) -> tuple[float, float, float, float]:
    """Seconds to the first line, CPU seconds, seconds, and megabytes of one plan."""
    command = [sys.executable, str(ROOT / "run.py"), "-m", *words, "plan=true"]
    path = os.pathsep.join(p for p in (str(ROOT / "src"), os.environ.get("PYTHONPATH")) if p)
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"root={place}/runs"],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stderr is not None
        process.stderr.readline()
        first = time.perf_counter() - began
        process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    if status:
        sys.exit(f"the plan ended with status {status}")
    return first, used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024


def rates() -> str:
    """Ten learning rates."""
    return ",".join(f"{n}e-4" for n in range(1, 11))


if __name__ == "__main__":
    main()
