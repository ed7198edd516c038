"""Run directories with chosen contents, as the tracking room writes them."""

import json
from pathlib import Path

import pytest
import yaml

from atomsweep.report.figures.curves import STEP, TIME
from atomsweep.tracking import schema
from atomsweep.tracking.identity import science

PAPER_LIKE = {  # val_id force MAE of each cell in the fixture
    ("sph", "swish"): 0.0500,
    ("sph", "relu"): 0.0530,
    ("sine", "swish"): 0.0504,
    ("sine", "relu"): 0.0520,
}
PAPERS = {"model": "forcenet", "data": "oc20_all", "optim": "forcenet", "seeds": (0, 1)}
OFFSETS = {"val_id": 0.0, "val_ood_ads": 0.004, "val_ood_cat": 0.002, "val_ood_both": 0.010}
COUNTS = {"train": 1200, "val_id": 150, "val_ood_ads": 150, "val_ood_cat": 150, "val_ood_both": 150}


def metrics_of(val_id):
    values = {f"{split}/forces_mae": val_id + offset for split, offset in OFFSETS.items()}
    return values | {"val_avg/forces_mae": sum(values.values()) / 4}


class Root:
    """A directory of runs under construction."""

    def __init__(self, path):
        self.path = Path(path)

    def run(
        self,
        identity,
        *,
        model="forcenet_small",
        basis="sph",
        act="swish",
        val_id=0.05,
        state=schema.FINISHED,
        message=None,
        sweep="basis_act-1a2b3c",
        seed=0,
        device="cpu (Example 9000)",
        steps=800,
        fingerprint="d474",
        created=1786528800.0,
        overrides=None,
        config=None,
        name=None,
        journal=True,
        **choices,
    ):
        chosen = {
            "model": model,
            "basis": basis,
            "act": act,
            "augmentation": "rotate_z",
            "dens": "none",
            "ablation": "none",
            "task": "s2f",
            "data": "mini_oc",
            "optim": "laptop",
            "engine": "cpu",
        } | choices
        name = name or f"{model}-{basis}-{act}"
        path = self.path / f"{name}-{identity}"
        path.mkdir(parents=True)
        data = {
            "name": chosen["data"],
            "fingerprint": fingerprint,
            "provenance": {"source": "made", "licence": "CC0-1.0", "note": "EMT, not DFT."},
            "counts": COUNTS,
        }
        full = {
            "model": {"_target_": "a.Model", "hidden_channels": 64, "basis": {"name": basis}},
            "act": {"_target_": f"a.{act}", "_partial_": True},
            "optim": {"lr": 0.002, "milestones": [0.5, 0.75], "clip_norm": None, "batch_size": 8},
            "engine": {"steps": steps, "epochs": None, "device": "cpu"},
            "task": {"fixed_weight": 0.05},
            "dens": None,
            "data": {"root": "datasets"},
            "seed": seed,
        } | (config or {})
        (path / schema.CONFIG).write_text(yaml.safe_dump(full))
        write(
            path / schema.RUN,
            {
                "schema_version": 1,
                "uid": f"uid-{name}-{identity}",
                "identity": identity,
                "identity_version": 1,
                "choices": chosen,
                "overrides": overrides or [f"model={model}", f"basis={basis}", f"act={act}"],
                "sweep": sweep,
                "seed": seed,
                "data": data,
                "command": "atomsweep run -m basis=sph,sine act=swish,relu",
                "created": created,
                "science": science(full, fingerprint),
            },
        )
        done = steps if state == schema.FINISHED else steps // 2
        write(
            path / schema.STATUS,
            {
                "state": state,
                "step": done,
                "total_steps": steps,
                "message": message,
                "updated": created,
            },
        )
        write(
            path / schema.ENVIRONMENT,
            {"commit": "0123456789abcdef", "dirty": False, "device": device, "host": "node1"},
        )
        if journal and model != "median":
            lines = [
                {
                    "step": step,
                    "device_seconds": step * 0.1,
                    "eval_seconds": 1.0,
                    "val_id/forces_mae": val_id + 0.04 * (1 - step / steps) ** 2,
                }
                for step in range(0, done + 1, steps // 8)
            ]
            (path / schema.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
        if state == schema.FINISHED:
            (path / schema.CHECKPOINTS).mkdir()
            (path / schema.CHECKPOINTS / "best.pt").touch()
            write(
                path / schema.RESULT,
                {
                    "step": 0 if model == "median" else steps,
                    "checkpoint": "best",
                    "parameters": 123456,
                    "device_seconds": steps * 0.1,
                    "eval_seconds": 9.0,
                    "metrics": metrics_of(val_id),
                },
            )
        return path

    def plan(self, cells, groups, sweep="basis_act-1a2b3c", created="2026-08-12T10:00:00+00:00"):
        """Args: cells: identity -> choices."""
        write(
            self.path / schema.PLANS / f"{sweep}.json",
            {
                "sweep": sweep,
                "created": created,
                "command": "run.py -m " + " ".join(f"{k}={','.join(v)}" for k, v in groups.items()),
                "groups": groups,
                "cells": [
                    {
                        "identity": identity,
                        "name": "-".join(choices.values()),
                        "overrides": [f"{k}={v}" for k, v in choices.items()],
                        "choices": {
                            k: v for k, v in choices.items() if "." not in k and k != "seed"
                        },
                        "run": f"{'-'.join(choices.values())}-{identity}",
                    }
                    for identity, choices in cells.items()
                ],
            },
        )


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without drawings, most of what a page takes: for what is about words and numbers."""
    pages = "atomsweep.report.pages"
    nothing = {STEP: None, TIME: None}
    monkeypatch.setattr(
        f"{pages}.report.curve_figures", lambda table: dict.fromkeys(table.curves, nothing)
    )
    monkeypatch.setattr("atomsweep.report.figures.sections.Picture.figure", None)
    monkeypatch.setattr(f"{pages}.html.inline", lambda figure, name, title: "")
    monkeypatch.setattr(f"{pages}.jinja.inline", lambda figure, name, title: "")
    monkeypatch.setattr(f"{pages}.writing.save", lambda figure, path: [])


@pytest.fixture(scope="session")
def make_root():
    """Runs below a directory of one's own choice."""
    return Root


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "runs")


@pytest.fixture
def table5(root):
    """The 2 × 2 sweep, finished, and the Median baseline outside of it."""
    return _table5(root)


@pytest.fixture
def papers_table5(tmp_path):
    """The same with the paper's data, model and optimizer, so that it compares with the paper."""
    return _table5(Root(tmp_path / "runs"), **PAPERS)


@pytest.fixture(scope="session")
def shared_table5(tmp_path_factory):
    """The 2 × 2 sweep, and the same as the paper's, for what looks at them and changes nothing."""
    made = tmp_path_factory.mktemp("shared")
    return _table5(Root(made / "ours")), _table5(Root(made / "papers"), **PAPERS)


def _table5(root, seeds=(0,), **choices):
    cells = {}
    for seed in seeds:
        for number, ((basis, act), val_id) in enumerate(PAPER_LIKE.items()):
            identity = f"{number + 16 * seed:012x}"
            cells[identity] = {"basis": basis, "act": act, "seed": str(seed)}
            if len(seeds) == 1:
                del cells[identity]["seed"]
            spread = 0.0004 * seed
            root.run(identity, basis=basis, act=act, val_id=val_id + spread, seed=seed, **choices)
    data = {key: value for key, value in choices.items() if key == "data"}
    root.run(
        "ffffffffffff",
        model="median",
        basis="none",
        act="none",
        val_id=0.1,
        sweep=None,
        steps=1,
        **data,
    )
    root.plan(cells, {"basis": ["sph", "sine"], "act": ["swish", "relu"]})
    return root
