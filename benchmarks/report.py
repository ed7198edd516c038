"""Seconds that a report takes over made-up runs: read, laid out, written.

python benchmarks/report.py             # 1 000 runs, target 10 s
python benchmarks/report.py --runs 20000  # target 60 s
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from atomsweep.report.pages import report, writing
from atomsweep.report.read.directories import read_directories
from benchmarks.synthetic_runs import make_runs

TARGETS = {1000: 10.0, 20_000: 60.0}


def main() -> None:
    """Measure the report of one table of the runs, and of every run in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        made = make_runs(root, "forcenet/table5", range(max(1, options.runs // 12)))
        print(f"{made} runs")
        for what in ("forcenet/table5", "every run"):
            seconds, size = measured(root, what, Path(folder) / "out")
            target = TARGETS.get(options.runs)
            print(f"{what}: {seconds}, page {size / 1e6:.2f} MB; target {target} s")


def measured(root: Path, what: str, out: Path) -> tuple[str, int]:
    """Seconds of each part, in words, and bytes of the page."""
    marks = [time.perf_counter()]
    runs = read_directories(root)
    marks.append(time.perf_counter())
    chosen = runs.where({"choice.data": "mini_oc"}) if what == "every run" else runs.sweep(what)
    built = report.build(runs, chosen)
    marks.append(time.perf_counter())
    page = writing.write(built, out)
    marks.append(time.perf_counter())
    told = [
        f"{marks[i + 1] - marks[i]:.1f} s {name}"
        for i, name in enumerate(("read", "build", "write"))
    ]
    return f"{marks[-1] - marks[0]:.1f} s ({', '.join(told)})", page.stat().st_size


if __name__ == "__main__":
    main()
