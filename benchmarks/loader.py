"""Structures that a thread of the loader makes ready in a second, and threads that a GPU needs.

    OMP_NUM_THREADS=1 python benchmarks/loader.py

A batch of slabs of 86 atoms is cut out, turned, corrupted, its graph found where it is to be
rebuilt, and its clouds for Gala, as in training (`engine/batches.py`). Seconds are those of the
CPU, the least of the repeats.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bare_training import BareTraining, config_of, slabs

EQUIFORMER = ["model=equiformer_v2_31m", "task=s2ef_oc20", "augmentation=none"]
ROWS = {
    "forcenet, rotate_z": ["model=forcenet", "size=small"],
    "equiformer_v2": EQUIFORMER,
    "equiformer_v2, dens, graph kept": [*EQUIFORMER, "dens=oc20", "dens.graph=keep"],
    "equiformer_v2, dens": [*EQUIFORMER, "dens=oc20"],
    "gala": ["model=gala", "size=small", "task=is2re", "augmentation=rotate_so3"],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="structures of a step")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sets = slabs(2 * options.batch)
    print("| what is made | edges | ms | structures/s of a core |\n|---|--:|--:|--:|")
    for name, choices in ROWS.items():
        bare = BareTraining(config_of(choices), sets, "cpu", 0, batch_size=options.batch)
        least, edges = float("inf"), 0
        with bare.steps() as steps:
            steps.next()
            for _ in range(options.repeats):
                start = time.process_time()
                (batch,) = steps.next()
                least = min(least, time.process_time() - start)
                edges = batch.edge_index.shape[1] if "edge_index" in batch else 0
        each = least / options.batch
        print(
            f"| {name} | {edges / options.batch:.0f} | {1e3 * each:.2f} | {1 / each:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
