"""Points of cost and error: which are on the Pareto front, and the paper's own."""

from collections.abc import Mapping

from atomsweep.report.read import published
from atomsweep.tracking import schema


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Points that no other beats in cost without being worse in error; low is better in both."""
    return [
        label
        for label, (cost, error) in points.items()
        if not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e in points.values())
    ]


def published_points(
    reference: str | None, cost: str
) -> tuple[dict[str, tuple[float, float]], str] | None:
    """Label → cost and average error of a published table, and the unit of the cost.

    Args:
        reference: the table; None where it has no such column.
        cost: `train` or `inference`.
    """
    if reference is None:
        return None
    table = published.table(reference)
    costs = [i for i, c in enumerate(table.columns) if c.name == cost]
    errors = [i for i, c in enumerate(table.columns) if c.split == schema.VAL_AVERAGE]
    if not costs or not errors:
        return None
    found = {}
    for row in table.rows:
        spent, error = row.values[costs[0]], row.values[errors[0]]
        if spent is not None and error is not None:
            label = ", ".join(a.label(v) for a, v in zip(table.axes, row.key, strict=True))
            found[label] = (spent, error * table.columns[errors[0]].to_ours)
    return found, table.columns[costs[0]].unit
