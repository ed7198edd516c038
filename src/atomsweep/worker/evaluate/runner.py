"""Evaluations of finished runs: run those that are missing, write what they found."""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from atomsweep.build import UserError
from atomsweep.console import Progress, to_file
from atomsweep.engine.devices import check_device
from atomsweep.sweep.evaluation_settings import KINDS, Settings, settings_of
from atomsweep.tracking import evaluations, schema
from atomsweep.tracking.run import RunDirectory, RunLocked
from atomsweep.worker.evaluate.cost import cost
from atomsweep.worker.evaluate.relaxation import relaxation
from atomsweep.worker.evaluate.rotation import rotation
from atomsweep.worker.trained import TrainedModel, device_name

FUNCTIONS: Mapping[str, Callable[[TrainedModel, Any, Callable[[int, int], None]], dict]] = {
    "rotation": rotation,
    "cost": cost,
    "relax": relaxation,
}

log = logging.getLogger(__name__)


class EvaluationFailed(RuntimeError):
    """An evaluation of a finished run failed; the run and its other evaluations stand."""


def evaluate(
    run: RunDirectory,
    kind: str,
    given: Mapping[str, Any],
    device: str | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """What an evaluation of a finished run finds, from its file where that is there.

    Args:
        run: finished.
        kind: one of `KINDS`.
        given: settings that differ from the defaults.
        device: of torch; None takes the one that the run's config names.
        again: do it although it is there.

    Raises:
        UserError: the run is not finished, or a setting is wrong.
        RunLocked: a process works on the run.
        Exception: whatever made it fail, after it has been recorded.
    """
    settings = settings_of(kind, given)
    if run.result is None:
        raise UserError(f"run {run.name} is {run.state()}; only finished runs are evaluated")
    if not again and evaluations.is_there(run, kind, settings):
        return evaluations.result(run, kind) or {}
    with run.lock(), to_file(run.path / schema.LOG):
        if again or not evaluations.is_there(run, kind, settings):  # a faster process may have
            _evaluate_locked(run, kind, settings, device)
    return evaluations.result(run, kind) or {}


def evaluate_wanted(run: RunDirectory) -> None:
    """Every evaluation that sweeps want of a finished run and that is not there.

    Raises:
        EvaluationFailed: one or more failed; the others are there.
    """
    failed = []
    if not (missing := evaluations.missing(run)):
        return
    for kind in missing:
        run.update_status(message=f"evaluating {kind}")
        try:
            evaluate(run, kind, evaluations.wanted(run)[kind])
        except RunLocked:
            raise
        except Exception as error:
            log.exception("evaluation %s failed", kind)
            failed.append(f"{kind}: {error}")
    run.update_status(state=schema.FINISHED, message=None)
    if failed:
        raise EvaluationFailed("; ".join(failed))


def _evaluate_locked(
    run: RunDirectory, kind: str, settings: Mapping[str, Any], device: str | None
) -> None:
    engine = run.config().get("engine") or {}
    name = str(device or engine.get("device", "cpu"))
    check_device(name, "device", "--device cpu")
    where = torch.device(name)
    log.info("%s: evaluation %s on %s", run.name, kind, where)
    start = time.perf_counter()
    try:
        torch.set_num_threads(int(engine.get("threads", 1)))
        tf32 = engine.get("precision") == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        model = TrainedModel(run, where, torch.float32)
        arguments: Settings = KINDS[kind].model_validate(settings)
        with _Bar(kind) as bar:
            values = FUNCTIONS[kind](model, arguments, bar.show)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        evaluations.fail(run, kind, said, traceback.format_exc())
        raise
    named = {f"{kind}/{name}": value for name, value in values.items()}
    content = {
        "metrics": {name: v for name, v in named.items() if not isinstance(v, str)},
        "notes": {name: v for name, v in named.items() if isinstance(v, str)},
        "settings": settings,
        "device": device_name(where),
        "seconds": time.perf_counter() - start,
        "checkpoint_step": model.step,
    }
    evaluations.write(run, kind, content)
    log.info("%s: evaluation %s took %.1f s", run.name, kind, content["seconds"])


class _Bar:
    """Progress of an evaluation whose length is known once it has begun."""

    def __init__(self, kind: str) -> None:
        self.kind, self.done = kind, 0
        self.bar: Progress | None = None

    def __enter__(self) -> "_Bar":
        return self

    def show(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = Progress(self.kind, "part", total, 0, True).__enter__()
        self.bar.update(done - self.done)
        self.done = done

    def __exit__(self, *details: object) -> None:
        if self.bar is not None:
            self.bar.__exit__(*details)
