"""A tiny run, trained in this process: what evaluations and calculators start from."""

from pathlib import Path

from atomsweep.launch.compose import cell_of
from atomsweep.tracking.run import RunDirectory
from atomsweep.worker.train import train
from tests.contracts.compose import compose_with_choices

TINY = [
    "data=mini_oc_tiny",
    "model.hidden_channels=8",
    "model.decoder_channels=8",
    "model.num_layers=1",
    "engine.steps=40",
    "engine.eval_every=20",
    "tracking=none",
]


def trained_run(root: Path, data: Path, overrides: list[str] | None = None) -> RunDirectory:
    """The finished run of `python run.py <overrides>` under `root`, data sets in `data`."""
    chosen = [*(TINY if overrides is None else overrides), f"data.root={data}", f"root={root}"]
    cfg, choices = compose_with_choices(chosen)
    run = cell_of(cfg, choices, chosen).create(root, sweep=None, command="test")
    train(run, lambda update: None)
    return run
