"""Plans of a root as the mirror needs them: read when they change, and asked by run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json
from atomsweep.tracking.mlflow.views import name_for
from atomsweep.tracking.run import RunDirectory, directories


class Plans:
    """All plans under `<root>/_sweeps`.

    Attributes:
        named: sweep → its plan. A damaged one is left out: `atomsweep status` tells of it.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._folder = Path(root), Path(root) / schema.PLANS
        self._marks: dict[str, list[int]] = {}
        self._cells: dict[str, dict[str, Any]] = {}  # identity → sweep → number of its trial
        self.named: dict[str, dict[str, Any]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the plans that are new or have changed."""
        marks = {}
        for path in sorted(self._folder.rglob("*.json")):
            if (mark := mark_of(path)) is not None:
                marks[str(path.relative_to(self._folder).with_suffix(""))] = mark
        if marks == self._marks:
            return
        before, self.named = self.named, {}
        for name, mark in marks.items():
            try:
                same = self._marks.get(name) == mark and name in before
                self.named[name] = before[name] if same else read_json(self.path_of(name))
            except (ValueError, OSError):
                continue
        self._marks, self._cells = marks, {}
        for name, plan in self.named.items():
            for cell in plan.get("cells", []):
                if "identity" in cell:
                    entry = self._cells.setdefault(cell["identity"], {})
                    entry[name] = cell.get(schema.TRIAL, entry.get(name))

    def path_of(self, sweep: str) -> Path:
        """Where the plan of a sweep is."""
        return self._folder / f"{sweep}.json"

    def cells_of(self, identity: str) -> Mapping[str, Any]:
        """Sweeps whose plan lists a run → number of its trial there, None in what is no study."""
        return self._cells.get(identity, {})

    def sweeps_of(self, run: RunDirectory) -> list[str]:
        """Names of the sweeps that have a run as a cell: its own, and those whose plan lists it."""
        own = run.run.get("sweep")
        return list(dict.fromkeys([*([own] if own else []), *self.cells_of(run.identity)]))

    def trial_tags(self, run: RunDirectory) -> dict[str, str]:
        """`trial.<study>`: number of the trial, in each study that has a run as a trial."""
        cells = self.cells_of(run.identity).items()
        return {name_for(schema.TAG_TRIAL + s): str(n) for s, n in cells if n is not None}

    def runs_of(self, sweep: str) -> list[RunDirectory | None]:
        """A run for each cell of a sweep; None for a cell that has none."""
        there = directories(self._root)
        cells = self.named.get(sweep, {}).get("cells", [])
        wanted = dict.fromkeys(cell["identity"] for cell in cells if "identity" in cell)
        return [RunDirectory.for_identity(self._root, name, among=there) for name in wanted]


def mark_of(path: Path) -> list[int] | None:
    """Size and time of a file; None when it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
