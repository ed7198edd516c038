"""What was measured after training: `<run>/evaluations/<kind>.json`, as further columns of the run.

{"metrics": {"<kind>/<name>": number, …}, "settings": {…}, "device": …, "seconds": …,
 "checkpoint_step": …, "created": …}
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.report.read.tidy import MEASURED_ON, METRIC
from atomsweep.report.read.values import as_float
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json

KINDS = ("rotation", "cost", "relax")


def evaluated_columns(run: Path, problems: list[str]) -> dict[str, Any]:
    """Columns of every evaluation of a run directory; what cannot be read is a problem."""
    found: dict[str, Any] = {}
    folder = run / schema.EVALUATIONS
    if not folder.is_dir():
        return found
    for path in sorted(folder.glob("*.json")):
        where = f"{run.name}/{schema.EVALUATIONS}/{path.name}"
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            problems.append(f"{where} cannot be read: {error}")
            continue
        found |= columns_of(path.stem, content, where, problems)
    return found


def columns_of(
    kind: str, content: Mapping[str, Any], where: str, problems: list[str]
) -> dict[str, Any]:
    """`metric.<kind>/<name>` of one evaluation, and the device that it ran on.

    An unknown kind is a problem and its numbers are left out: nobody knows what they mean.
    """
    if kind not in KINDS:
        problems.append(f"{where} is of no known kind; known are {', '.join(KINDS)}")
        return {}
    metrics = content.get("metrics")
    if not isinstance(metrics, Mapping):
        problems.append(f"{where} cannot be read: it has no 'metrics'")
        return {}
    wrong = [
        name
        for name, value in metrics.items()
        if not re.fullmatch(rf"{kind}(/\w+)+", name)
        or isinstance(value, bool)
        or not isinstance(value, int | float)
    ]
    if wrong:
        problems.append(f"{where}: {wrong[0]} must be {kind}/<name> and a number")
    found = {METRIC + name: as_float(v) for name, v in metrics.items() if name not in wrong}
    return {**found, MEASURED_ON + kind: content.get("device")}
