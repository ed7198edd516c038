"""All runs and plans of one place, and what can be asked of them: a sweep, a filter, curves.

They come from run directories (`directories.py`) or from MLflow (`mirrored.py`).
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from atomsweep.console import near_names
from atomsweep.report.read.asked import Asked, asked_of, known_files
from atomsweep.report.read.journals import POINT, Journal, points_of
from atomsweep.report.read.plans import FALLBACK, cell_row, fill_axes
from atomsweep.report.read.tidy import (
    CHOICE,
    CONFIG,
    COUNT,
    METRIC,
    SEED,
    columns,
    frame_of,
    one_of_each,
    records,
    varying,
)
from atomsweep.report.read.values import normal
from atomsweep.shipped import SWEEPS, places

TELLING = ("model", "basis", "act", SEED)  # what a run of a cell cannot have otherwise
UNREADABLE = "its run directory cannot be read, see the problems"


class UnknownSweep(LookupError):
    """No plan and no run has this sweep or filter; the message lists what there is."""


@dataclass
class Runs:
    """All runs of one place.

    Attributes:
        frame: one row per run; of runs with one identity the newest finished.
        plans: sweep name → its plan, as the sweeper wrote it.
        problems: what could not be read, or contradicts itself; one sentence each.
        source: where it was read from, for messages.
        typed: what commands need beside a sweep's name to launch into this place.
        journal: lines of the journal of a run, given its `path`.
        files: folders of sweep files; the first that has a file counts.
        identities: all that a run of some overrides may have, in a sweep over some axes; () where
            nothing can tell.
    """

    frame: pd.DataFrame
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    source: str = ""
    journal: Callable[[str], Journal] = lambda path: []
    typed: str = ""  # `root=…` of commands that fill it, where it is not the usual place
    files: Sequence[Path] = field(default_factory=lambda: places(SWEEPS))
    identities: Callable[[list[str], Iterable[str]], Sequence[str]] = lambda overrides, axes: ()

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Any]],
        plans: dict[str, dict[str, Any]],
        problems: list[str],
        source: str,
        journal: Callable[[str], Journal],
    ) -> "Runs":
        """Runs from rows of `row_of`; a run belongs to each sweep whose plan lists it."""
        frame = one_of_each(frame_of(rows), problems)
        member = {
            name: {cell["identity"] for cell in plan["cells"]} for name, plan in plans.items()
        }
        frame["sweeps"] = [
            tuple(
                dict.fromkeys([*(own or ()), *(n for n in sorted(member) if identity in member[n])])
            )
            for own, identity in zip(frame["sweeps"], frame["identity"], strict=True)
        ]
        return cls(frame, plans, problems, source, journal)

    def sweeps(self) -> list[str]:
        """Names of all sweeps, newest first."""
        planned = sorted(self.plans, key=lambda n: str(self.plans[n].get("created")), reverse=True)
        tagged = {name for names in self.frame["sweeps"] for name in names}
        return [*planned, *sorted(tagged - set(planned))]

    def sweep(self, name: str) -> pd.DataFrame:
        """Runs of a sweep; a cell without a directory is a row in state `missing`.

        A table that has a sweep file need not have been launched: then every cell is missing.

        `attrs` of the frame: `sweep`, `axes` (swept columns in order, the seed apart), `command`,
        `asked` (of its sweep file, or None), `columns` (those of the axes that are columns).

        Args:
            name: of the sweep, or `latest`: the newest, or the newest run where no sweep is.

        Raises:
            UnknownSweep: there is none of that name.
        """
        known = self.sweeps()
        if name == "latest" and not known and len(self.frame):
            own = self.frame[self.frame["choice.model"] != "median"]  # made beside others
            among = own if len(own) else self.frame
            newest = among.sort_values("created", key=lambda when: when.map(str)).iloc[-1]
            return self.where({"identity": str(newest["identity"])})
        if name == "latest" and known:
            name = known[0]
        asked = asked_of(name, self.plans, self.files, self.problems, self._run_of)
        if name not in known and asked is None:
            if name != "latest":
                known = list(dict.fromkeys([*known, *known_files(self.files)]))
            if name in known_files(self.files):
                raise UnknownSweep(self.problems[-1].partition(";")[0])
            hint = f"known: {', '.join(known)}" if known else f"{self.source} has none"
            hint = near_names(name, known) or hint
            raise UnknownSweep(f"there is no sweep {name}; {hint}")
        plan = self.plans.get(name)
        if asked is not None:
            return self._as_asked(asked)
        if plan is None:
            tagged = self.frame[[name in names for names in self.frame["sweeps"]]]
            return _labelled(tagged, name, varying(tagged), None)
        frame = self._of_cells(plan["cells"], name)
        axes = fill_axes(frame, [a for a in plan.get("groups") or {} if a != SEED])
        return _labelled(frame.drop(columns=FALLBACK), name, axes, plan.get("command"))

    def _run_of(self, overrides: list[str], axes: Iterable[str]) -> str | None:
        """Identity of the run that some overrides stand for; None where there is none."""
        like = self.frame
        for key, value in (override.split("=", 1) for override in overrides):
            column = key if key == SEED else CHOICE + key
            if key in TELLING and column in like:  # composing costs more than looking
                like = like[like[column].map(lambda v: str(normal(v))) == value]
        if like.empty:
            return None
        there = set(self.frame["identity"])
        return next((known for known in self.identities(overrides, axes) if known in there), None)

    def _as_asked(self, asked: Asked) -> pd.DataFrame:
        """Runs in the rows and columns of a sweep file."""
        frame = self._of_cells(asked.cells, asked.name)
        frame["command"] = frame["command"].map(self.placed)
        frame["label"] = [asked.settings[identity][0] for identity in frame["identity"]]
        for axis in asked.settings_axes:  # a shared run may have been asked for in other words
            if (column := CHOICE + axis) in frame:
                told = [asked.settings[identity][1] for identity in frame["identity"]]
                frame[column] = [s.get(axis, v) for s, v in zip(told, frame[column], strict=True)]
        rows = fill_axes(frame, asked.rows)
        across = fill_axes(frame, asked.columns)
        frame = _labelled(
            frame.drop(columns=FALLBACK),
            asked.name,
            [*rows, *across],
            self.placed(asked.command),
        )
        frame.attrs.update(asked=asked, columns=across)
        return frame

    def placed(self, command: str) -> str:
        """A command that launches into this place, wherever it was launched before."""
        if not self.typed:
            return command
        words = [word for word in shlex.split(command) if not word.startswith("root=")]
        return f"{shlex.join(words)} {self.typed}"

    def _of_cells(self, cells: Sequence[Mapping[str, Any]], sweep: str) -> pd.DataFrame:
        """Runs in the order of the cells; what was typed for each is in the column `FALLBACK`."""
        planned = {str(cell["identity"]): cell_row(cell, sweep) for cell in cells}
        for identity in {problem.split(" ")[0].rpartition("-")[2] for problem in self.problems}:
            if identity in planned:
                planned[identity]["message"] = UNREADABLE
        here = self.frame[self.frame["identity"].isin(planned)]
        found = {row["identity"]: row for row in records(here.dropna(axis=1, how="all"))}
        frame = frame_of([found.get(identity, row) for identity, row in planned.items()])
        frame["command"] = frame["command"].map(self.placed)
        frame[FALLBACK] = pd.Series(list(planned.values()), frame.index, dtype=object)
        return frame

    def where(self, filters: Mapping[str, str]) -> pd.DataFrame:
        """Runs that have, in each named column, one of the comma-separated values.

        Args:
            filters: column → values, e.g. `{"choice.basis": "sph,sine", "data": "mini_oc"}`.

        Raises:
            UnknownSweep: runs have no such column, or no run passes.
        """
        keep = pd.Series(True, self.frame.index)
        for column, values in filters.items():
            if column not in self.frame:
                hidden = (CONFIG, METRIC, COUNT)
                known = [c for c in columns(self.frame) if not c.startswith(hidden)]
                raise UnknownSweep(f"runs have no column {column}; known: {', '.join(known)}")
            wanted = {normal(value) for value in values.split(",")}
            keep &= self.frame[column].map(normal).isin(wanted)
        chosen = self.frame[keep]
        told = " ".join(f"{column}={values}" for column, values in filters.items())
        if chosen.empty:
            raise UnknownSweep(f"no run of the {len(self.frame)} in {self.source} has {told}")
        return _labelled(chosen, told, varying(chosen), None)

    def curves(
        self, frame: pd.DataFrame | None = None, metrics: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Journals, long: identity, step, device_seconds, eval_seconds, metric, value.

        Args:
            frame: runs to read; all if None.
            metrics: names such as `val_id/forces_mae`; all if None.

        Where a step was logged twice, the later value counts.
        """
        chosen = self.frame if frame is None else frame
        parts = []
        for identity, path in zip(chosen["identity"], chosen["path"], strict=True):
            if isinstance(path, str):
                parts += points_of(identity, self.journal(path), metrics)
        result = pd.DataFrame(parts, columns=list(POINT))
        return result.sort_values(["identity", "metric", "step"], kind="stable", ignore_index=True)


def _labelled(
    frame: pd.DataFrame, sweep: str, axes: Iterable[str], command: str | None
) -> pd.DataFrame:
    """A frame with the `attrs` that `Runs.sweep` describes."""
    frame = frame.reset_index(drop=True)
    if command is not None and command.startswith("run.py"):
        command = f"atomsweep run{command.removeprefix('run.py')}"
    frame.attrs.update(sweep=sweep, axes=list(axes), command=command, asked=None, columns=[])
    return frame
