"""What was measured after training: `<run>/evaluations/<kind>.json`, as further metrics of the run.

{"metrics": {"<kind>/<name>": number, …}, "settings": {…}, "device": …, "seconds": …,
 "checkpoint_step": …, "created": …}
"""

import re
from pathlib import Path

from analysis.frames import as_float
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json

KINDS = ("rotation", "cost", "relax")


def evaluations(run: Path, problems: list[str]) -> dict[str, float]:
    """Metric → value of every evaluation of a run; what cannot be read is a problem.

    An unknown kind is a problem and its numbers are left out: nobody knows what they mean.
    """
    found: dict[str, float] = {}
    folder = run / schema.EVALUATIONS
    if not folder.is_dir():
        return found
    for path in sorted(folder.glob("*.json")):
        where = f"{run.name}/{schema.EVALUATIONS}/{path.name}"
        if path.stem not in KINDS:
            problems.append(f"{where} is of no known kind; known are {', '.join(KINDS)}")
            continue
        try:
            metrics = read_json(path)["metrics"]
            wrong = [
                name
                for name, value in metrics.items()
                if not re.fullmatch(rf"{path.stem}(/\w+)+", name)
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            problems.append(f"{where} cannot be read: {told}")
            continue
        if wrong:
            problems.append(f"{where}: {wrong[0]} must be {path.stem}/<name> and a number")
        found |= {name: as_float(v) for name, v in metrics.items() if name not in wrong}
    return found
