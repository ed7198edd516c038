"""What a cell will cost, from what finished runs like it did cost. A guess, and called one."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atomsweep.classes import class_name
from atomsweep.tracking import schema
from atomsweep.tracking.run import RunDirectory

BUDGETS = ("steps", "epochs", "device_hours")
ALIKE = 1.5  # parameters may differ by this factor, cost taken as proportional to them
_SAME = ("task", "augmentation", "dens")  # of one kind, whatever their numbers


Kind = tuple[Any, ...]
"""What runs that cost alike have in common: unit of the budget, kind of device, model, data, …"""
Asked = tuple[Kind, float]
"""Kind of a run, and how much of its unit of budget it asks for."""
Spent = tuple[Kind, int, float]
"""Kind of a finished run, its parameters, and its device-seconds per unit of budget."""


@dataclass(frozen=True)
class Costs:
    """Device-seconds per unit of budget of finished runs.

    Attributes:
        seen: kind of run → parameters and device-seconds per unit, evaluation included.
    """

    seen: Mapping[Kind, list[tuple[int, float]]]
    _known: dict[tuple[Kind, int | None], float | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, runs: Iterable[RunDirectory]) -> "Costs":
        """From the runs that are finished; what cannot be read is left out."""
        return cls.of_spent(spent_of(run) for run in runs)

    @classmethod
    def of_spent(cls, spent: Iterable[Spent | None]) -> "Costs":
        """From what `spent_of` says of runs."""
        seen: dict[Kind, list[tuple[int, float]]] = {}
        for one in spent:
            if one is not None:
                seen.setdefault(one[0], []).append(one[1:])
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
        return self.seconds_of(asked_of(science, device), parameters)

    def seconds_of(self, asked: Asked | None, parameters: int | None) -> float | None:
        """The same, from what `asked_of` says of science and device."""
        if asked is None:
            return None
        kind, amount = asked
        if (kind, parameters) not in self._known:
            self._known[kind, parameters] = self._rate(kind, parameters)
        rate = self._known[kind, parameters]
        return None if rate is None else amount * rate

    def _rate(self, kind: Kind, parameters: int | None) -> float | None:
        """Device-seconds per unit of budget."""
        points = self.seen.get(kind, [])
        if parameters:
            points = [
                (p, s) for p, s in points if p and max(p, parameters) <= ALIKE * min(p, parameters)
            ]
            scaled = [s * parameters / p for p, s in points]
        else:
            scaled = [s for _, s in points]
        return statistics.median(scaled) if scaled else None


def asked_of(science: Mapping[str, Any], device: str) -> Asked | None:
    """Kind and budget of a run; None of one from elsewhere, which tells neither."""
    try:
        unit, amount = _budget(science)
        kind = (unit, _kind(device), *_likeness(science))
        hash(kind)  # of one from elsewhere a value may be anything
        return kind, amount
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def spent_of(run: RunDirectory) -> Spent | None:
    """What a run says of the cost of others; None where it has not finished or does not tell."""
    result = run.result
    if result is None:
        return None
    try:
        asked = asked_of(run.run["science"], str(run.environment["device"]))
        spent = float(result["device_seconds"]) + float(result["eval_seconds"])
        return asked and (asked[0], int(result["parameters"]), spent / asked[1])
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OSError):
        return None


def work(science: Mapping[str, Any], parameters: int | None) -> tuple[str, float]:
    """What a cell does, where nothing tells what it costs: unit of its budget, and an amount.

    Of two cells with one unit, that with the larger amount is taken to last longer: budget x
    parameters, of steps x structures in a batch too; device-hours are what they are.
    """
    try:
        unit, amount = _budget(science)
        if unit == "steps":
            amount *= float(science["optim"].get("batch_size") or 1)
    except (KeyError, TypeError, ValueError, AttributeError):
        return "", 0.0
    return unit, amount if unit == "device_hours" else amount * float(parameters or 1)


def remaining(estimate: float | None, fraction: Any, state: str) -> float | None:
    """What is left of an estimate: nothing of a finished run, a part of one that has begun."""
    if state == schema.FINISHED:
        return 0.0
    if estimate is None:
        return None
    return estimate * (1.0 - min(1.0, float(fraction or 0.0)))


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
        class_name(model["_target_"]),
        model.get("cutoff"),
        model.get("max_neighbors"),
        science["data"]["fingerprint"],
        science["optim"].get("batch_size"),
        engine.get("precision"),
        *(class_name(str((science.get(part) or {}).get("_target_"))) for part in _SAME),
    )


def _kind(device: str) -> str:
    return "cpu" if device.lower().startswith("cpu") else "gpu"
