"""What a cell will cost, from what finished runs like it did cost. A guess, and called one."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from atomsweep.parts import part_name
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

BUDGETS = ("steps", "epochs", "device_hours")
ALIKE = 1.5  # parameters may differ by this factor, cost taken as proportional to them
_SAME = ("task", "augmentation", "dens")  # of one kind, whatever their numbers


@dataclass(frozen=True)
class Costs:
    """Device-seconds per unit of budget of finished runs.

    Attributes:
        seen: kind of run → parameters and device-seconds per unit, evaluation included.
    """

    seen: Mapping[tuple[Any, ...], list[tuple[int, float]]]

    @classmethod
    def of(cls, runs: Iterable[RunDirectory]) -> "Costs":
        """From the runs that are finished; what cannot be read is left out."""
        seen: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
        for run in runs:
            result = run.result
            if result is None:
                continue
            try:
                science = run.run["science"]
                device = str(run.environment["device"])
                unit, amount = _budget(science)
                spent = float(result["device_seconds"]) + float(result["eval_seconds"])
                point = int(result["parameters"]), spent / amount
            except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OSError):
                continue
            seen.setdefault((unit, _kind(device), *_likeness(science)), []).append(point)
        return cls(seen)

    def seconds(
        self, science: Mapping[str, Any], device: str, parameters: int | None
    ) -> float | None:
        """Device-seconds of a run, evaluation included; None where nothing alike has finished.

        Args:
            science: the run's, from its cell or `run.json`.
            device: `cpu`, `cuda`, or the name of one.
            parameters: of its model; None takes runs of any size.
        """
        try:
            unit, amount = _budget(science)
            points = self.seen.get((unit, _kind(device), *_likeness(science)), [])
        except (KeyError, TypeError, ValueError, AttributeError):  # of a run from elsewhere
            return None
        if parameters:
            points = [
                (p, s) for p, s in points if p and max(p, parameters) <= ALIKE * min(p, parameters)
            ]
            scaled = [s * parameters / p for p, s in points]
        else:
            scaled = [s for _, s in points]
        return amount * statistics.median(scaled) if scaled else None


def remaining(estimate: float | None, status: Mapping[str, Any], state: str) -> float | None:
    """What is left of an estimate: nothing of a finished run, a part of one that has begun."""
    if state == schema.FINISHED:
        return 0.0
    if estimate is None:
        return None
    return estimate * (1.0 - min(1.0, float(status.get("fraction") or 0.0)))


def _budget(science: Mapping[str, Any]) -> tuple[str, float]:
    engine = science["engine"]
    for unit in BUDGETS:
        if engine.get(unit) is not None:
            return unit, float(engine[unit])
    raise ValueError("no budget")


def _likeness(science: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs that agree in this cost about the same, per unit of budget and parameter."""
    model, engine = science["model"], science["engine"]
    return (
        part_name(model["_target_"]),
        model.get("cutoff"),
        model.get("max_neighbors"),
        science["data"]["fingerprint"],
        science["optim"].get("batch_size"),
        engine.get("precision"),
        *(part_name(str((science.get(part) or {}).get("_target_"))) for part in _SAME),
    )


def _kind(device: str) -> str:
    return "cpu" if device.lower().startswith("cpu") else "gpu"
