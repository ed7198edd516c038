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
    df_of,
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
        df: one row per run; of runs with one identity the newest finished.
        plans: sweep name → its plan, as the sweeper wrote it.
        problems: what could not be read, or contradicts itself; one sentence each.
        source: where it was read from, for messages.
        typed: what commands need beside a sweep's name to launch into this place.
        journal: lines of the journal of a run, given its `path`.
        files: folders of sweep files; the first that has a file counts.
        identities: all that a run of some overrides may have, in a sweep over some axes; () where
            nothing can tell.
    """

    df: pd.DataFrame
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
        df = one_of_each(df_of(rows), problems)
        member = {
            name: {cell["identity"] for cell in plan["cells"]} for name, plan in plans.items()
        }
        df["sweeps"] = [
            tuple(
                dict.fromkeys([*(own or ()), *(n for n in sorted(member) if identity in member[n])])
            )
            for own, identity in zip(df["sweeps"], df["identity"], strict=True)
        ]
        return cls(df, plans, problems, source, journal)

    def sweeps(self) -> list[str]:
        """Names of all sweeps, newest first."""
        planned = sorted(self.plans, key=lambda n: str(self.plans[n].get("created")), reverse=True)
        tagged = {name for names in self.df["sweeps"] for name in names}
        return [*planned, *sorted(tagged - set(planned))]

    def sweep(self, name: str) -> pd.DataFrame:
        """Runs of a sweep; a cell without a directory is a row in state `missing`.

        A table that has a sweep file need not have been launched: then every cell is missing.

        `attrs` of the df: `sweep`, `axes` (swept columns in order, the seed apart), `command`,
        `asked` (of its sweep file, or None), `columns` (those of the axes that are columns).

        Args:
            name: of the sweep, or `latest`: the newest, or the newest run where no sweep is.

        Raises:
            UnknownSweep: there is none of that name.
        """
        known = self.sweeps()
        if name == "latest" and not known and len(self.df):
            own = self.df[self.df["choice.model"] != "median"]  # made beside others
            among = own if len(own) else self.df
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
            hint = f"known: {', '.join(known)}" if known else "it has none"
            hint = near_names(name, known) or hint
            raise UnknownSweep(f"there is no sweep {name} in {self.source}; {hint}")
        plan = self.plans.get(name)
        if asked is not None:
            return self._as_asked(asked)
        if plan is None:
            tagged = self.df[[name in names for names in self.df["sweeps"]]]
            return _labelled(tagged, name, varying(tagged), None)
        df = self._of_cells(plan["cells"], name)
        groups = plan.get("groups") or {}
        alone = ["model"] if list(groups) == [SEED] else []  # one row, whose mean is over seeds
        axes = fill_axes(df, [a for a in groups if a != SEED] or alone)
        return _labelled(df.drop(columns=FALLBACK), name, axes, plan.get("command"))

    def _run_of(self, overrides: list[str], axes: Iterable[str]) -> str | None:
        """Identity of the run that some overrides stand for; None where there is none."""
        like = self.df
        for key, value in (override.split("=", 1) for override in overrides):
            column = key if key == SEED else CHOICE + key
            if key in TELLING and column in like:  # composing costs more than looking
                like = like[like[column].map(lambda v: str(normal(v))) == value]
        if like.empty:
            return None
        there = set(self.df["identity"])
        return next((known for known in self.identities(overrides, axes) if known in there), None)

    def _as_asked(self, asked: Asked) -> pd.DataFrame:
        """Runs in the rows and columns of a sweep file."""
        df = self._of_cells(asked.cells, asked.name)
        df["command"] = df["command"].map(self.placed)
        df["label"] = [asked.settings[identity][0] for identity in df["identity"]]
        for axis in asked.settings_axes:  # a shared run may have been asked for in other words
            if (column := CHOICE + axis) in df:
                told = [asked.settings[identity][1] for identity in df["identity"]]
                df[column] = [s.get(axis, v) for s, v in zip(told, df[column], strict=True)]
        if asked.further_from is not None:
            df["further"] = (df["seed"] >= asked.further_from).astype(object)
        rows = fill_axes(df, asked.rows)
        across = fill_axes(df, asked.columns)
        df = _labelled(
            df.drop(columns=FALLBACK),
            asked.name,
            [*rows, *across],
            self.placed(asked.command),
        )
        df.attrs.update(asked=asked, columns=across)
        return df

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
        here = self.df[self.df["identity"].isin(planned)]
        found = {row["identity"]: row for row in records(here.dropna(axis=1, how="all"))}
        df = df_of([found.get(identity, row) for identity, row in planned.items()])
        df["command"] = df["command"].map(self.placed)
        df[FALLBACK] = pd.Series(list(planned.values()), df.index, dtype=object)
        return df

    def where(self, filters: Mapping[str, str]) -> pd.DataFrame:
        """Runs that have, in each named column, one of the comma-separated values.

        Args:
            filters: column → values, e.g. `{"choice.basis": "sph,sine", "data": "mini_oc"}`.

        Raises:
            UnknownSweep: runs have no such column, or no run passes.
        """
        keep = pd.Series(True, self.df.index)
        for column, values in filters.items():
            if column not in self.df:
                hidden = (CONFIG, METRIC, COUNT)
                known = [c for c in columns(self.df) if not c.startswith(hidden)]
                raise UnknownSweep(f"runs have no column {column}; known: {', '.join(known)}")
            wanted = {normal(value) for value in values.split(",")}
            keep &= self.df[column].map(normal).isin(wanted)
        chosen = self.df[keep]
        told = " ".join(f"{column}={values}" for column, values in filters.items())
        if chosen.empty:
            raise UnknownSweep(f"no run of the {len(self.df)} in {self.source} has {told}")
        return _labelled(chosen, told, varying(chosen), None)

    def curves(
        self, df: pd.DataFrame | None = None, metrics: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Journals, long: identity, step, device_seconds, eval_seconds, metric, value.

        Args:
            df: runs to read; all if None.
            metrics: names such as `val_id/forces_mae`; all if None.

        Where a step was logged twice, the later value counts.
        """
        chosen = self.df if df is None else df
        parts = []
        for identity, path in zip(chosen["identity"], chosen["path"], strict=True):
            if isinstance(path, str):
                parts += points_of(identity, self.journal(path), metrics)
        result = pd.DataFrame(parts, columns=list(POINT))
        return result.sort_values(["identity", "metric", "step"], kind="stable", ignore_index=True)


def _labelled(
    df: pd.DataFrame, sweep: str, axes: Iterable[str], command: str | None
) -> pd.DataFrame:
    """A DataFrame with the `attrs` that `Runs.sweep` describes."""
    df = df.reset_index(drop=True)
    if command is not None and command.startswith("run.py"):
        command = f"atomsweep run{command.removeprefix('run.py')}"
    df.attrs.update(sweep=sweep, axes=list(axes), command=command, asked=None, columns=[])
    return df
