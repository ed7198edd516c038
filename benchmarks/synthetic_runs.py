"""Made-up runs: what a report is measured and tried on without training anything.

    python benchmarks/synthetic_runs.py /tmp/runs --runs 1000 --sweep forcenet/table5

Runs have the files that the tracking room writes; every number is drawn from a formula.
"""

import argparse
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atomsweep.sweep.file import read_sweep
from atomsweep.sweep.grid import grid
from atomsweep.tracking import schema

SWEEPS = Path(__file__).parents[1] / "sweeps"
SPLITS = dict(zip(schema.VAL_SPLITS, (0.0, 0.004, 0.002, 0.010), strict=True))
CHOICES = {
    "model": "forcenet_small", "basis": "sph", "act": "swish", "augmentation": "rotate_z",
    "dens": "none", "ablation": "none", "task": "s2f", "data": "mini_oc", "optim": "laptop",
    "engine": "cpu",
}  # fmt: skip
COUNTS = {"train": 1200} | dict.fromkeys(schema.VAL_SPLITS, 150)
DEVICE = "cpu (made up)"
EVALUATIONS = 12


def make_runs(
    root: Path,
    sweep: str,
    seeds: Sequence[int],
    scale: str | None = None,
    folder: Path = SWEEPS,
) -> int:
    """Every cell of a sweep file of a folder, finished, with plan and Median; returns how many."""
    statement = read_sweep(folder / f"{sweep}.yaml").model_copy(update={"seeds": list(seeds)})
    wanted = grid({}, statement, sweep, scale)
    cells = []
    for overrides, label in wanted.cells:
        typed = dict(o.lstrip("+").split("=", 1) for o in overrides)
        identity = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:12]
        own = {k: v for k, v in typed.items() if "." not in k and k in CHOICES}
        make_run(root, identity, own, typed, overrides, sweep)
        cells.append(
            {
                "identity": identity,
                "name": f"run-{identity}",
                "label": label,
                "overrides": overrides,
                "choices": CHOICES | own,
                "seed": int(typed.get("seed", 0)),
                "run": f"run-{identity}",
            }
        )
    make_run(root, "f" * 12, {"model": "median"}, {}, ["model=median"], None)
    write(
        root / schema.PLANS / f"{sweep}.json",
        {
            "schema": schema.SCHEMA_VERSION,
            "sweep": sweep,
            "created": "2026-08-12T10:00:00+00:00",
            "command": f"run.py sweeps={sweep}",
            "groups": {k: list(v) for k, v in wanted.groups.items()},
            "file": sweep,
            "scale": wanted.scale,
            "published": statement.published,
            "statement": statement.model_dump(mode="json"),
            "cells": cells,
        },
    )
    return len(cells)


def make_run(
    root: Path,
    identity: str,
    choices: Mapping[str, str],
    typed: Mapping[str, str],
    overrides: Sequence[str],
    sweep: str | None,
) -> Path:
    """One finished run with a journal."""
    path = root / f"run-{identity}"
    path.mkdir(parents=True, exist_ok=True)
    chosen = CHOICES | dict(choices)
    seed = int(typed.get("seed", 0))
    final = 0.1 if chosen["model"] == "median" else error_of(typed, seed)
    science: dict[str, Any] = {
        "seed": seed,
        "engine": {"steps": 800},
        "task": {"fixed_weight": 0.05},
    }
    for key, value in typed.items():
        if "." in key:
            group, _, name = key.partition(".")
            science.setdefault(group, {})[name] = json.loads(value) if _plain(value) else value
    data = {
        "name": "mini_oc",
        "fingerprint": "d474",
        "counts": COUNTS,
        "provenance": {"note": "Made up."},
    }
    write(
        path / schema.RUN,
        {
            "schema_version": schema.SCHEMA_VERSION, "uid": f"uid-{identity}", "identity": identity,
            "identity_version": 1, "choices": chosen, "overrides": list(overrides), "sweep": sweep,
            "seed": seed, "data": data, "command": "run.py", "created": 1786528800.0 + seed,
            "science": science,
        },
    )  # fmt: skip
    write(path / schema.STATUS, {"state": "finished", "step": 800, "total_steps": 800})
    write(
        path / schema.ENVIRONMENT,
        {"commit": "0123456789abcdef", "dirty": False, "device": DEVICE, "host": "node1"},
    )
    metrics = {f"{s}/forces_mae": final + more for s, more in SPLITS.items()}
    metrics["val_avg/forces_mae"] = sum(metrics.values()) / 4
    time = 80.0 * (1 + 0.2 * len(chosen["basis"]))
    points = [i / EVALUATIONS for i in range(EVALUATIONS + 1)]
    lines = [
        {
            "step": round(800 * share),
            "device_seconds": time * share,
            "eval_seconds": 9.0 * share,
            **{name: value + 0.3 * math.exp(-6 * share) for name, value in metrics.items()},
        }
        for share in points
    ]
    (path / schema.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    segment = {
        "segment": 0,
        "start": 0.0,
        "end": time + 12,
        "heartbeat": time + 12,
        "world_size": 1,
    }
    (path / schema.SEGMENTS).write_text(json.dumps(segment) + "\n")
    write(
        path / schema.RESULT,
        {
            "step": 800, "checkpoint": "best", "parameters": 123456 + 10 * len(chosen["basis"]),
            "device_seconds": time, "eval_seconds": 9.0, "metrics": metrics,
        },
    )  # fmt: skip
    (path / schema.CHECKPOINTS).mkdir(exist_ok=True)
    (path / schema.CHECKPOINTS / "best.pt").touch()
    return path


def error_of(typed: Mapping[str, str], seed: int) -> float:
    """An error that depends on what was chosen, and a little on the seed."""
    own = " ".join(f"{k}={v}" for k, v in sorted(typed.items()) if k != "seed")
    level = random.Random(own).uniform(0.05, 0.09)
    return level + random.Random(f"{own} {seed}").gauss(0, 0.001)


def write(path: Path, content: object) -> None:
    """JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _plain(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sweep", default="forcenet/table5")
    options = parser.parse_args()
    each = len(list(read_sweep(SWEEPS / f"{options.sweep}.yaml").settings()))
    made = make_runs(options.root, options.sweep, range(max(1, options.runs // each)))
    print(f"{made} runs in {options.root}")


if __name__ == "__main__":
    main()
