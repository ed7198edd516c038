"""Equal compute: values of learning curves at a budget, and what it costs to reach an error.

Between two evaluations a curve is linear in the logarithm of training time. Outside of what was
measured there is no value: NaN, never an extrapolation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from atomsweep.report.tables.statistics import interval

POINTS = 40  # of a mean curve

Rows = Mapping[str, Mapping[float, "Curve"]]  # label → seed → curve


@dataclass(frozen=True)
class Curve:
    """Best value logged so far against training time of one run.

    Attributes:
        times: device-seconds of the evaluations, increasing, above 0.
        values: best until then.
        device: that the run trained on.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]
    device: str | None = None

    @classmethod
    def of(
        cls,
        times: Sequence[float],
        values: Sequence[float],
        better: str = "low",
        device: str | None = None,
    ) -> "Curve":
        """From logged points in any order; what is not finite, or at time 0, is left out."""
        points = sorted(
            (t, v)
            for t, v in zip(times, values, strict=True)
            if math.isfinite(t) and math.isfinite(v) and t > 0
        )
        kept: dict[float, float] = {}
        best = math.nan
        for time, value in points:
            best = value if math.isnan(best) else (min if better == "low" else max)(best, value)
            kept[time] = best
        return cls(tuple(kept), tuple(kept.values()), device)

    def at(self, time: float) -> float:
        """Value at a training time in device-seconds; NaN outside of the measured range."""
        if not self.times or not self.times[0] <= time <= self.times[-1]:
            return math.nan
        for (t0, v0), (t1, v1) in pairwise(self._points()):
            if t0 <= time <= t1:
                return v0 + (v1 - v0) * math.log(time / t0) / math.log(t1 / t0)
        return self.values[-1]

    def time_to(self, value: float, better: str = "low") -> float:
        """Training time at which the curve reaches a value; NaN if it does not, or began beyond."""
        sign = 1.0 if better == "low" else -1.0
        points = [(t, sign * v) for t, v in self._points()]
        goal = sign * value
        if not points or points[0][1] < goal:
            return math.nan
        for (t0, v0), (t1, v1) in pairwise(points):
            if v1 <= goal <= v0:
                share = 0.0 if v0 == v1 else (v0 - goal) / (v0 - v1)
                return t0 * (t1 / t0) ** share
        return points[0][0] if points[0][1] == goal else math.nan

    def _points(self) -> list[tuple[float, float]]:
        return list(zip(self.times, self.values, strict=True))


def curves_of(
    points: pd.DataFrame, devices: Mapping[str, str | None], better: str
) -> dict[str, Curve]:
    """Identity → curve, from `Runs.curves` of one metric."""
    return {
        str(identity): Curve.of(
            list(one["device_seconds"]), list(one["value"]), better, devices.get(str(identity))
        )
        for identity, one in points.groupby("identity", sort=False)
    }


@dataclass(frozen=True)
class Saving:
    """How much less training one row needs for what another ends with.

    Attributes:
        row: of the cheaper one.
        other: whose final value is the goal.
        factor: time of `other` / time of `row`, geometric mean over seeds.
        low: of its 95 % interval; NaN for one seed.
        high: of its 95 % interval.
        n: pairs of seeds.
    """

    row: str
    other: str
    factor: float
    low: float
    high: float
    n: int


def saving(
    row: str,
    other: str,
    curves: Mapping[float, Curve],
    others: Mapping[float, Curve],
    better: str = "low",
) -> Saving | None:
    """What `row` saves on the way to the final value of `other`, seed by seed.

    None where a pair is on unlike devices, where some run of `row` does not get there, or where it
    is not the cheaper one.

    Args:
        row: its name.
        other: its name.
        curves: seed → curve of `row`.
        others: seed → curve of `other`.
        better: "low" or "high".
    """
    ratios = []
    for seed in sorted(set(curves) & set(others)):
        one, two = curves[seed], others[seed]
        if one.device != two.device or not two.values or not one.values:
            return None
        goal = two.values[-1]
        spent, needed = two.time_to(goal, better), one.time_to(goal, better)
        if not (math.isfinite(spent) and math.isfinite(needed)):
            return None
        ratios.append(math.log(spent / needed))
    if not ratios:
        return None
    mean, half = interval(ratios)
    if mean <= 0:
        return None
    return Saving(
        row, other, math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(ratios)
    )


def savings(rows: Rows, better: str) -> list[Saving]:
    """What the best row saves on the way to the final value of each other row, most first."""
    ends = {
        label: sum(c.values[-1] for c in curves.values()) / len(curves)
        for label, curves in rows.items()
    }
    best = (min if better == "low" else max)(ends, key=lambda label: ends[label])
    found = (
        saving(best, other, rows[best], curves, better)
        for other, curves in rows.items()
        if other != best
    )
    return sorted((s for s in found if s is not None), key=lambda s: -s.factor)


def mean_curve(curves: Mapping[float, Curve]) -> tuple[list[float], list[float]]:
    """Mean over seeds at even steps of log time, inside of what every seed has measured."""
    start = max(c.times[0] for c in curves.values())
    end = min(c.times[-1] for c in curves.values())
    if not start < end:
        return [], []
    times = [min(start * (end / start) ** (i / (POINTS - 1)), end) for i in range(POINTS)]
    return times, [sum(c.at(t) for c in curves.values()) / len(curves) for t in times]
