"""Runs and plans of one place → a `Store`: frames of sweeps and of filters, curves, problems.

What cannot be read is a problem with a name and never stops the rest.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from atomsweep.report.read import artifacts
from atomsweep.report.read.evaluated import evaluations
from atomsweep.report.read.layout import UNPLANNED, Layout, known_files, layout_of, sweep_directory
from atomsweep.report.read.links import links
from atomsweep.report.read.tidy import (
    CHOICE,
    CONFIG,
    COUNT,
    METRIC,
    SEED,
    as_float,
    budget_of,
    columns,
    fill_command,
    frame_of,
    newest_of_each,
    normal,
    records,
    row_of,
    varying,
)
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json, read_lines, read_yaml
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.segments import allocated_seconds

Journal = Sequence[Mapping[str, Any]]

UNLAUNCHED = "no launch has planned it yet"
UNREADABLE = "its run directory cannot be read, see the problems"
FALLBACK = "_planned"  # a row as its plan has it

READ_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError)


class UnknownSweep(LookupError):
    """No plan and no run has this sweep or filter; the message lists what there is."""


@dataclass
class Store:
    """All runs of one place.

    Attributes:
        runs: one row per run; of runs with one identity the newest finished.
        plans: sweep name → its plan, as the sweeper wrote it.
        problems: what could not be read, or contradicts itself; one sentence each.
        source: where it was read from, for messages.
        typed: what commands need beside a sweep's name to launch into this place.
        journal: lines of the journal of a run, given its `path`.
        files: where sweep files are.
    """

    runs: pd.DataFrame
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    source: str = ""
    journal: Callable[[str], Journal] = lambda path: []
    typed: str = ""  # `root=…` of commands that fill it, where it is not the usual place
    files: Path = field(default_factory=sweep_directory)

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Any]],
        plans: dict[str, dict[str, Any]],
        problems: list[str],
        source: str,
        journal: Callable[[str], Journal],
    ) -> "Store":
        """A store of rows from `row_of`; a run belongs to each sweep whose plan lists it."""
        frame = newest_of_each(frame_of(rows), problems)
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
        tagged = {name for names in self.runs["sweeps"] for name in names}
        return [*planned, *sorted(tagged - set(planned))]

    def sweep(self, name: str) -> pd.DataFrame:
        """Runs of a sweep; a cell without a directory is a row in state `missing`.

        A table that has a sweep file need not have been launched: then every cell is missing.

        `attrs` of the frame: `sweep`, `axes` (swept columns in order, the seed apart), `command`,
        `layout` (of its sweep file, or None), `columns` (those of the axes that are columns).

        Args:
            name: of the sweep, or `latest`.

        Raises:
            UnknownSweep: there is none of that name.
        """
        known = self.sweeps()
        if name == "latest" and known:
            name = known[0]
        layout = layout_of(name, self.plans, self.files, self.problems)
        if name not in known and layout is None:
            if name != "latest":
                known = list(dict.fromkeys([*known, *known_files(self.files)]))
            if name in known_files(self.files):
                raise UnknownSweep(self.problems[-1].partition(";")[0])
            hint = f"known: {', '.join(known)}" if known else f"{self.source} has none"
            raise UnknownSweep(f"there is no sweep {name}; {hint}")
        plan = self.plans.get(name)
        if layout is not None:
            return self._laid_out(layout)
        if plan is None:
            tagged = self.runs[[name in names for names in self.runs["sweeps"]]]
            return _labelled(tagged, name, varying(tagged), None)
        frame = self._of_cells(plan["cells"], name)
        axes = _fill_axes(frame, [a for a in plan.get("groups") or {} if a != SEED])
        return _labelled(frame.drop(columns=FALLBACK), name, axes, plan.get("command"))

    def _laid_out(self, layout: Layout) -> pd.DataFrame:
        frame = self._of_cells(layout.cells, layout.name)
        frame["command"] = frame["command"].map(self.placed)
        frame["label"] = [layout.settings[identity][0] for identity in frame["identity"]]
        for axis in layout.settings_axes:  # a shared run may have been asked for in other words
            if (column := CHOICE + axis) in frame:
                told = [layout.settings[identity][1] for identity in frame["identity"]]
                frame[column] = [s.get(axis, v) for s, v in zip(told, frame[column], strict=True)]
        rows = _fill_axes(frame, layout.rows)
        across = _fill_axes(frame, layout.columns)
        frame = _labelled(
            frame.drop(columns=FALLBACK),
            layout.name,
            [*rows, *across],
            self.placed(layout.command),
        )
        frame.attrs.update(layout=layout, columns=across)
        return frame

    def placed(self, command: str) -> str:
        """A command that launches into this place, wherever it was launched before."""
        if not self.typed:
            return command
        words = [word for word in shlex.split(command) if not word.startswith("root=")]
        return f"{shlex.join(words)} {self.typed}"

    def _of_cells(self, cells: Sequence[Mapping[str, Any]], sweep: str) -> pd.DataFrame:
        """Runs in the order of the cells; what was typed for each is in the column `FALLBACK`."""
        planned = {str(cell["identity"]): _cell_row(cell, sweep) for cell in cells}
        for identity in {problem.split(" ")[0].rpartition("-")[2] for problem in self.problems}:
            if identity in planned:
                planned[identity]["message"] = UNREADABLE
        here = self.runs[self.runs["identity"].isin(planned)]
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
        keep = pd.Series(True, self.runs.index)
        for column, values in filters.items():
            if column not in self.runs:
                hidden = (CONFIG, METRIC, COUNT)
                known = [c for c in columns(self.runs) if not c.startswith(hidden)]
                raise UnknownSweep(f"runs have no column {column}; known: {', '.join(known)}")
            wanted = {normal(value) for value in values.split(",")}
            keep &= self.runs[column].map(normal).isin(wanted)
        chosen = self.runs[keep]
        told = " ".join(f"{column}={values}" for column, values in filters.items())
        if chosen.empty:
            raise UnknownSweep(f"no run of the {len(self.runs)} in {self.source} has {told}")
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
        runs = self.runs if frame is None else frame
        parts = []
        for identity, path in zip(runs["identity"], runs["path"], strict=True):
            if isinstance(path, str):
                parts += _points(identity, self.journal(path), metrics)
        names = ["identity", "step", "device_seconds", "eval_seconds", "metric", "value"]
        result = pd.DataFrame(parts, columns=names)
        return result.sort_values(["identity", "metric", "step"], kind="stable", ignore_index=True)


def read(root: Path | str) -> Store:
    """Every run and plan below `root`, from the run directories.

    Raises:
        FileNotFoundError: `root` is not a directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no directory {root}; name the one of your runs with --root"
        )
    problems: list[str] = []
    rows = []
    pages = links(root / "mlflow.db")
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith(("_", ".")):
            row = _read_run(path, problems, pages)
            if row is not None:
                rows.append(row)
    plans = _read_plans(root / schema.SWEEPS, problems)
    artifacts.shorten(problems)
    store = Store.of(rows, plans, problems, str(root), lambda run: _journal(run, problems))
    problems[:] = [problem.replace(f"{root}/", "") for problem in problems]  # runs by their names
    return store


def load(
    root: Path | str, sweep: str | None = None, where: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Runs below `root`: all, those of a sweep, or those that a filter keeps.

    `attrs["problems"]` of the frame holds what could not be read.
    """
    return _load(read(root), sweep, where)


def curves(root: Path | str, metrics: Collection[str] | None = None) -> pd.DataFrame:
    """Journals of all runs below `root`, long; see `Store.curves`."""
    return read(root).curves(metrics=metrics)


def load_mlflow(
    uri: str,
    experiment: str = "atomsweep",
    sweep: str | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The frame of `load` from MLflow alone; `path` holds MLflow's run ids."""
    from atomsweep.report.read.mirrored import read_mlflow

    return _load(read_mlflow(uri, experiment), sweep, where)


def known_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan that has what is read of it.

    Raises:
        ValueError: it lists no cells, or a cell without an identity.
    """
    cells = plan.get("cells")
    if not isinstance(cells, list) or not all(
        isinstance(c, dict) and "identity" in c for c in cells
    ):
        raise ValueError("a plan must list its cells, each with an identity")
    return dict(plan)


def _load(store: Store, sweep: str | None, where: Mapping[str, str] | None) -> pd.DataFrame:
    frame = store.sweep(sweep) if sweep else store.where(where) if where else store.runs.copy()
    frame.attrs["problems"] = store.problems
    return frame


def _journal(path: str, problems: list[str]) -> Journal:
    """Lines of a journal; damaged ones are a problem, told once however often it is read."""
    file = Path(path) / schema.JOURNAL
    damaged: list[int] = []
    lines = read_lines(file, damaged)
    if damaged:
        lines_are = "line" if len(damaged) == 1 else "lines"
        left = "is left out" if len(damaged) == 1 else "are left out"
        told = f"{file.parent.name}: {len(damaged)} damaged {lines_are} of its {file.name} {left}"
        if told not in problems:
            problems.append(told)
    return lines


def _read_run(path: Path, problems: list[str], pages: Mapping[str, str]) -> dict[str, Any] | None:
    """A row, or None for what is not a run that we can read; `pages` are its links to MLflow."""
    if not (path / schema.RUN).is_file():
        written = (schema.CONFIG, schema.STATUS, schema.JOURNAL, schema.RESULT)
        if any((path / name).exists() for name in written):
            problems.append(f"{path.name} is half-written: it has no {schema.RUN}")
        return None
    documents: dict[str, dict[str, Any]] = {}
    for name in (schema.STATUS, schema.RESULT, schema.ENVIRONMENT):
        try:
            documents[name] = read_json(path / name)
        except FileNotFoundError:
            documents[name] = {}
        except READ_ERRORS as error:
            documents[name] = {}
            problems.append(_sentence(error))
    status, result = documents[schema.STATUS], documents[schema.RESULT]
    try:
        run = read_json(path / schema.RUN)
        state = RunDirectory(path).state()
        row = row_of(run, state, status, result, documents[schema.ENVIRONMENT])
    except READ_ERRORS as error:
        problems.append(f"{path.name} cannot be read: {_sentence(error)}")
        return None
    if state == schema.FINISHED and not isinstance(result.get("metrics"), dict):
        problems.append(f"{path.name} is finished without metrics in its {schema.RESULT}")
    elif status.get("state") == schema.FINISHED and state != schema.FINISHED:
        row["message"] = f"says finished, but has no readable {schema.RESULT}"
        problems.append(f"{path.name} {row['message']}")
    if state == schema.FINISHED:
        problems += artifacts.lost(path, result)
    row["name"] = path.name.removesuffix(f"-{row['identity']}")
    row["path"] = str(path)
    row["link"] = pages.get(str(run.get("uid") or path.name))
    _add_time(row, path, problems)
    if state == schema.FINISHED:
        row.update(evaluations(path, problems))
    return row


def _add_time(row: dict[str, Any], path: Path, problems: list[str]) -> None:
    """What all processes held, lost work included."""
    try:
        parts = read_lines(path / schema.SEGMENTS)
        if parts:
            row.update(processes=len(parts), allocated_seconds=allocated_seconds(parts))
            if row["state"] == schema.FINISHED:
                row[f"{METRIC}run/ranks"] = float(parts[-1]["world_size"])
    except READ_ERRORS as error:
        problems.append(f"{path.name}: its {schema.SEGMENTS} cannot be read: {_sentence(error)}")


def _read_plans(directory: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    plans = {}
    for path in sorted(directory.rglob("*.json")):
        name = path.relative_to(directory).with_suffix("").as_posix()
        try:
            plan = known_plan(read_json(path))
            plans[str(plan.get("sweep") or name)] = plan
        except READ_ERRORS as error:
            problems.append(f"the plan of sweep {name} cannot be read: {_sentence(error)}")
    return plans


def _cell_row(cell: Mapping[str, Any], sweep: str) -> dict[str, Any]:
    """A planned cell as a run that is missing."""
    overrides = [str(override) for override in cell.get("overrides") or []]
    typed = dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o)
    config = {CONFIG + key: read_yaml(value) for key, value in typed.items() if "." in key}
    groups = {key: value for key, value in typed.items() if "." not in key and key != SEED}
    identity = str(cell["identity"])
    return {
        "identity": identity,
        "name": str(cell.get("name") or "").removesuffix(f"-{identity}") or None,
        "state": schema.MISSING,
        "message": UNLAUNCHED if identity.startswith(UNPLANNED) else "it has no run directory",
        "sweeps": (sweep,),
        "seed": as_float(typed.get(SEED, cell.get("seed", 0))),
        "budget": budget_of(config, None),
        "command": fill_command(overrides),
        **{CHOICE + group: value for group, value in (cell.get("choices") or groups).items()},
        **config,
    }


def _fill_axes(frame: pd.DataFrame, axes: Iterable[str]) -> list[str]:
    """Columns of the axes; a run made for another sweep may not have typed this axis."""
    found = []
    for axis in axes:
        column = _axis_column(axis, frame)
        planned = pd.Series([row.get(column) for row in frame[FALLBACK]], frame.index, dtype=object)
        own = frame[column].astype(object) if column in frame else planned
        frame[column] = own.where(own.notna(), planned)
        found.append(column)
    return found


def _axis_column(axis: str, frame: pd.DataFrame) -> str:
    axis = axis.lstrip("+~").partition("@")[0].replace("/", ".")
    if axis in (SEED, "label"):
        return axis
    return CHOICE + axis if CHOICE + axis in frame else CONFIG + axis


def _labelled(
    frame: pd.DataFrame, sweep: str, axes: Iterable[str], command: str | None
) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    if command is not None and command.startswith("run.py"):
        command = f"python {command}"
    frame.attrs.update(sweep=sweep, axes=list(axes), command=command, layout=None, columns=[])
    return frame


def _points(
    identity: str, journal: Journal, metrics: Collection[str] | None
) -> list[tuple[str, float, float, float, str, float]]:
    """Entries of a journal, its lines merged by step."""
    merged: dict[float, dict[str, Any]] = {}
    for line in journal:
        if schema.STEP in line:
            merged.setdefault(as_float(line[schema.STEP]), {}).update(line)
    return [
        (
            identity,
            step,
            as_float(line.get(schema.DEVICE_SECONDS)),
            as_float(line.get(schema.EVAL_SECONDS)),
            name,
            as_float(value),
        )
        for step, line in merged.items()
        for name, value in line.items()
        if "/" in name and (metrics is None or name in metrics)
    ]


def _sentence(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
