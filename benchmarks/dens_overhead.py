"""What DeNS adds to a training step: the same model and batch with and without it, in turns.

    OMP_NUM_THREADS=1 python benchmarks/dens_overhead.py model=equiformer_v2_small --structures 8

`plain` has neither the parts for denoising nor corruption; `dens` has both. The graph of corrupted
structures is rebuilt, or kept. Times are CPU seconds of the process, the least of the repeats.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from atomsweep.build import build_learner, data_source
from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.graph.neighbors import RadiusGraph
from atomsweep.launch.compose import cell_of

CONF = Path(__file__).parents[1] / "conf"


def step_of(choices: list[str], structures: int) -> Callable[[int], dict[str, float]]:
    """A function of the step's number that trains once, and returns the seconds of its parts."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", choices, return_hydra_config=True)
    config = cell_of(cfg, dict(cfg.hydra.runtime.choices), choices).config
    torch.manual_seed(0)
    model, task = build_learner(config)
    source = data_source(config)
    source.prepare()
    data = GraphDataset(source.split("train"), RadiusGraph(model.cutoff, model.max_neighbors))
    model.fit_statistics([data.batch(np.arange(len(data)))])
    model.fit_labels(data.label_statistics)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    places = torch.arange(structures)

    def step(number: int) -> dict[str, float]:
        chosen = np.random.default_rng(number).choice(len(data), structures, replace=False)
        batch = data.batch(chosen)
        batch.places = places
        start = time.process_time()
        batch = task.prepare(batch, number)
        corrupted = time.process_time()
        optimizer.zero_grad()
        counts = task.counts(batch)
        totals = task.totals(model(batch), batch)
        sum(task.coefficients[name] * totals[name] / counts[name] for name in totals).backward()
        optimizer.step()
        end = time.process_time()
        return {"corrupt": corrupted - start, "step": end - start}

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("choices", nargs="*", help="model=… data=… and so on")
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="batches")
    parser.add_argument("--repeats", type=int, default=3, help="of each batch; the least counts")
    options = parser.parse_args()
    base = ["data=mini_oc_tiny", "augmentation=none", *options.choices, "task=s2ef"]
    variants = {
        "plain": ["dens=none"],
        "dens, graph rebuilt": ["dens=v2_fixed"],
        "dens, graph kept": ["dens=v2_fixed", "dens.graph=keep"],
    }
    make = partial(step_of, structures=options.structures)
    steps = {name: make([*base, *more]) for name, more in variants.items()}
    sums = {name: {"corrupt": 0.0, "step": 0.0} for name in variants}
    for step in steps.values():
        step(0)
    for number in range(options.steps):
        turns = [{name: run(number) for name, run in steps.items()} for _ in range(options.repeats)]
        for name, parts in sums.items():
            for part in parts:
                parts[part] += min(turn[name][part] for turn in turns) / options.steps
    print(f"{' '.join(base)}, {options.structures} structures, {torch.get_num_threads()} thread(s)")
    for name, parts in sums.items():
        print(
            f"{name:>20}  {parts['step']:7.3f} s  {parts['step'] / sums['plain']['step']:5.2f} x  "
            f"of it corruption {1e3 * parts['corrupt']:6.2f} ms"
        )


if __name__ == "__main__":
    main()
