"""Relaxed structures from initial ones with a model's forces (IS2RS), and how good they are."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomsweep import keys
from atomsweep.build import UserError
from atomsweep.data.dataset import StructureDataset
from atomsweep.data.source import DataSource, check_split
from atomsweep.data.structure import Structure
from atomsweep.sweep.evaluation_settings import Relax
from atomsweep.tasks.base import ENERGY_THRESHOLD
from atomsweep.tasks.relax import metrics
from atomsweep.tasks.relax.files import write_extxyz, write_trajectory
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import Relaxed, relax
from atomsweep.tracking import schema
from atomsweep.worker.trained import TrainedModel

NEEDS_DFT = "needs DFT"
AVERAGED = ("adwt", "afbt", "fbt")
OF_ENERGIES = (schema.ENERGY_MAE, schema.EWT)

log = logging.getLogger(__name__)


def relaxation(model: TrainedModel, settings: Relax, progress: Callable[[int, int], None]) -> dict:
    """ADwT, AFbT and FbT of every split: ForceNet, arXiv:2103.01436, App. E and Table 8.

    A system whose relaxation fails counts as beyond every threshold. True forces at the relaxed
    structures come from the data set's oracle. Without one AFbT and FbT are "needs DFT", and every
    relaxed structure is written to `evaluations/relax/<split>/<sid>.extxyz`, with its constraints.

    Args:
        model: that is evaluated.
        settings: of the relaxations.
        progress: told of systems done and in all.

    Returns:
        `<split>/<metric>` → value, `seconds_per_system`, and `val_avg/<metric>` where all four
        validation splits are.
    """
    source = model.source()
    ends = {split: _ends(source, split, settings) for split in settings.splits}
    counts = {split: len(chosen) for split, (_, chosen) in ends.items()}
    oracle = None if settings.paths else source.oracle()
    folder = model.run.path / schema.EVALUATIONS / "relax"
    found: dict[str, Any] = {}
    before = 0
    for split, (dataset, chosen) in ends.items():
        start = time.perf_counter()
        results = []
        for one in _relaxed(model, settings, dataset, chosen):
            results.append(one)
            progress(before + len(results), sum(counts.values()))
            _keep(one, folder / split, oracle is None, settings.trajectories)
        seconds = time.perf_counter() - start
        before += len(results)
        references = [dataset[2 * int(chosen[one.index]) + 1] for one in results]
        values = split_metrics(results, references, oracle)
        if keys.ENERGY in model.learned:  # else an energy head was trained by nothing
            values |= energy_metrics(results, references)
        values["seconds"] = seconds
        found |= {f"{split}/{name}": value for name, value in values.items()}
    systems = sum(counts.values())
    spent = sum(found[f"{split}/seconds"] for split in ends)
    found["seconds_per_system"] = spent / systems if systems else float("nan")
    if all(split in settings.splits for split in schema.VAL_SPLITS):
        for name in AVERAGED + (OF_ENERGIES if keys.ENERGY in model.learned else ()):
            of_splits = [found[f"{split}/{name}"] for split in schema.VAL_SPLITS]
            numbers = all(isinstance(value, float) for value in of_splits)
            average = float(np.mean(of_splits)) if numbers else NEEDS_DFT
            found[f"{schema.VAL_AVERAGE}/{name}"] = average
    return found


def split_metrics(
    results: Iterable[Relaxed],
    references: Iterable[Structure],
    oracle: Callable[[Structure], tuple[float, Any]] | None,
) -> dict[str, Any]:
    """Metrics of relaxations against the reference structures and, with an oracle, true forces."""
    results = list(results)
    distances, forces = [], []
    for one, reference in zip(results, references, strict=True):
        ok = one.fault is None
        distances.append(metrics.mean_distance(one.structure, reference) if ok else float("nan"))
        if oracle is not None:
            true = oracle(one.structure)[1] if ok else np.full((1, 3), np.nan)
            fixed = one.structure.fixed if ok else np.zeros(1, bool)
            forces.append(metrics.largest_force(true, fixed))
    failed = [one for one in results if one.fault is not None]
    for one in failed[:3]:
        log.warning("system %d failed: %s", one.structure.sid, one.fault)
    return {
        "adwt": metrics.adwt(distances),
        "afbt": metrics.afbt(forces) if oracle is not None else NEEDS_DFT,
        "fbt": metrics.fbt(forces) if oracle is not None else NEEDS_DFT,
        "distance": float(np.nanmean(distances)) if len(failed) < len(results) else float("nan"),
        "converged": sum(one.converged for one in results) / max(1, len(results)),
        "failed": len(failed) / max(1, len(results)),
        "steps": float(np.mean([one.steps for one in results])) if results else float("nan"),
        "systems": len(results),
    }


def energy_metrics(results: Sequence[Relaxed], references: Sequence[Structure]) -> dict[str, float]:
    """IS2RE through relaxation: the model's energy at the end of its path against the reference's.

    A failed system is out of the mean error (eV; NaN if all failed) and counts against the share.
    """
    pairs = [
        (one.structure.energy, reference.energy)
        for one, reference in zip(results, references, strict=True)
        if one.fault is None
    ]
    errors = np.array([abs(a - b) for a, b in pairs if a is not None and b is not None])
    within = float((errors < ENERGY_THRESHOLD).sum()) / max(1, len(results))
    return {
        schema.ENERGY_MAE: float(errors.mean()) if len(errors) else float("nan"),
        schema.EWT: within,
    }


def _relaxed(
    model: TrainedModel, settings: Relax, dataset: StructureDataset, chosen: Any
) -> Iterable[Relaxed]:
    optimizer = LBFGS(settings.maxstep, settings.memory, settings.damping, settings.alpha)
    return relax(
        (dataset[2 * int(index)] for index in chosen),
        model.potential(),
        optimizer,
        settings.fmax,
        settings.steps,
        settings.batch_size,
        settings.trajectories,
    )


def _ends(source: DataSource, split: str, settings: Relax) -> tuple[StructureDataset, Any]:
    """Both ends of a split's relaxations, and which systems are taken: the first ones."""
    if split in settings.paths:
        from atomsweep.data.formats.files import relaxations_in

        root = str(getattr(source, "root", "datasets"))
        references = getattr(getattr(source, "reader", None), "linear_references", None)
        name = f"{source.name}_is2rs_{split}"
        ends = relaxations_in(settings.paths[split], root, name, references)
    else:
        check_split(split, source.splits(), source.name)
        try:
            ends = source.relaxations(split)
        except ValueError as error:
            raise UserError(f"{error}, or name IS2RE files, paths.{split}=<file>.lmdb") from error
    count = len(ends) // 2
    return ends, np.arange(count if settings.systems is None else min(count, settings.systems))


def _keep(one: Relaxed, folder: Path, structures: bool, trajectories: bool) -> None:
    if structures and one.fault is None:
        write_extxyz(folder / f"{one.structure.sid}.extxyz", one.structure)
    if trajectories and one.path:
        write_trajectory(folder / f"{one.structure.sid}.traj", one)
