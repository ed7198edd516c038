"""Runs and plans of one place, read from its run directories."""

from pathlib import Path
from typing import Any

from atomsweep.report.read.evaluated import evaluated_columns
from atomsweep.report.read.journals import read_journal
from atomsweep.report.read.plans import read_plans
from atomsweep.report.read.problems import READ_ERRORS, lost, sentence, shorten
from atomsweep.report.read.row import row_of
from atomsweep.report.read.runs import Runs
from atomsweep.report.read.tidy import METRIC, Span, share_machines
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json, read_lines
from atomsweep.tracking.run import RunDirectory
from atomsweep.tracking.segments import allocated_seconds


def read_directories(root: Path | str) -> Runs:
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
    spans: dict[str, list[Span]] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith(("_", ".")):
            row = _read_run(path, problems, spans)
            if row is not None:
                rows.append(row)
    share_machines(rows, spans)
    plans = read_plans(root / schema.PLANS, problems)
    shorten(problems)
    runs = Runs.of(rows, plans, problems, str(root), lambda run: read_journal(run, problems))
    problems[:] = [problem.replace(f"{root}/", "") for problem in problems]  # runs by their names
    return runs


def _read_run(
    path: Path, problems: list[str], spans: dict[str, list[Span]]
) -> dict[str, Any] | None:
    """A row, or None for what is not a run that we can read; its processes go to `spans`."""
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
            problems.append(sentence(error))
    status, result = documents[schema.STATUS], documents[schema.RESULT]
    try:
        run = read_json(path / schema.RUN)
        state = RunDirectory(path).state()
        row = row_of(run, state, status, result, documents[schema.ENVIRONMENT])
    except READ_ERRORS as error:
        problems.append(f"{path.name} cannot be read: {sentence(error)}")
        return None
    if state == schema.FINISHED and not isinstance(result.get("metrics"), dict):
        problems.append(f"{path.name} is finished without metrics in its {schema.RESULT}")
    elif status.get("state") == schema.FINISHED and state != schema.FINISHED:
        row["message"] = f"says finished, but has no readable {schema.RESULT}"
        problems.append(f"{path.name} {row['message']}")
    if state == schema.FINISHED:
        problems += lost(path, result)
    row["name"] = path.name.removesuffix(f"-{row['identity']}")
    row["path"] = str(path)
    _add_time(row, path, problems, spans)
    if state == schema.FINISHED:
        row.update(evaluated_columns(path, problems))
    return row


def _add_time(
    row: dict[str, Any], path: Path, problems: list[str], spans: dict[str, list[Span]]
) -> None:
    """What all processes held, lost work included, and when each was at work."""
    try:
        parts = read_lines(path / schema.SEGMENTS)
        if parts:
            row.update(processes=len(parts), allocated_seconds=allocated_seconds(parts))
            spans[str(path)] = [
                (one["host"], one["start"], one["heartbeat"] if one["end"] is None else one["end"])
                for one in parts
                if "host" in one
            ]
            if row["state"] == schema.FINISHED:
                ranks = float(parts[-1]["world_size"])
                together = row.get(f"{METRIC}{schema.TRAIN}/{schema.EPOCH_STRUCTURES_PER_S}")
                row[f"{METRIC}run/ranks"] = ranks
                if together is not None:
                    row[f"{METRIC}run/{schema.STRUCTURES_PER_S_RANK}"] = together / ranks
    except READ_ERRORS as error:
        problems.append(f"{path.name}: its {schema.SEGMENTS} cannot be read: {sentence(error)}")
