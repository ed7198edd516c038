"""What MLflow is told of a run directory: params, tags, points of curves. Pure; no MLflow here."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema, segments
from atomsweep.tracking.files import dumps, loads, read_json
from atomsweep.tracking.run import RunDirectory

MAX_NAME = 250  # MLflow's limits
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_DIGEST = 36
MAX_PARTS = 90  # tags for one document
CUT = " ... [cut here; whole in the artifacts]"

EVALUATION = "evaluation."  # + kind: document of what was evaluated after the training
DOCUMENTS = (schema.RUN, schema.STATUS, schema.RESULT, schema.ENVIRONMENT)


@dataclass(frozen=True)
class Point:
    """All that was logged at one step.

    Attributes:
        step: step of the optimiser.
        time: wall clock of its last line, ms since 1970.
        values: metric -> value, `device_seconds` and `eval_seconds` among them.
        lines: number of journal lines up to here.
    """

    step: int
    time: int
    values: Mapping[str, float]
    lines: int


def points(journal: Iterable[Mapping[str, Any]]) -> list[Point]:
    """One point for each step of a journal; of two lines of a step, the later value counts."""
    merged: list[Point] = []
    for number, line in enumerate(journal, start=1):
        step = int(line[schema.STEP])
        values = {k: v for k, v in line.items() if k not in (schema.STEP, schema.TIME)}
        if merged and merged[-1].step == step:
            values = {**merged.pop().values, **values}
        time = round(1000 * float(line.get(schema.TIME, 0.0)))
        merged.append(Point(step, time, values, number))
    return merged


def digests(journal: Iterable[Mapping[str, Any]]) -> list[str]:
    """Hash of the lines up to each one: tells a journal that grew from one that was rewound."""
    content, found = hashlib.sha256(), []
    for line in journal:
        content.update(dumps(line).encode())
        found.append(content.hexdigest()[:16])
    return found


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """A resolved config, flat: `optim.optimizer.lr` -> "0.0005"; all but strings as JSON."""
    return {name_for(key): shorten(value, MAX_PARAM) for key, value in _flat(config, "")}


def tags(run: RunDirectory, state: str, sweeps: Iterable[str]) -> dict[str, str]:
    """Everything of a run that a table needs, beside params and metrics.

    Args:
        run: the run directory.
        state: its state, from `schema`.
        sweeps: names of the sweeps that have it as a cell.

    Raises:
        ValueError: `run.json` is damaged.
    """
    about, status, environment = run.run, run.status, run.environment
    parts = run.segments()
    data = about.get("data") or {}
    fingerprint = data.get("fingerprint") or about.get("data_fingerprint")
    found: dict[str, Any] = {
        schema.TAG_KIND: "run",
        schema.TAG_IDENTITY: run.identity,
        schema.TAG_UID: uid(run),
        schema.TAG_NAME: run.name,
        schema.TAG_STATE: state,
        schema.TAG_SWEEP: about.get("sweep"),
        schema.TAG_SEED: about.get("seed"),
        schema.TAG_DATA: data.get("name"),
        schema.TAG_FINGERPRINT: fingerprint,
        schema.TAG_COMMIT: environment.get("commit"),
        schema.TAG_DEVICE: environment.get("device") or (parts[-1]["device"] if parts else None),
        schema.TAG_HOSTS: ",".join(dict.fromkeys(part["host"] for part in parts)) or None,
        schema.TAG_SEGMENTS: len(parts),
        schema.TAG_ALLOCATED: segments.allocated_seconds(parts),
        schema.TAG_MESSAGE: status.get("message") or "",
    }
    found |= _as_mlflow_expects(environment, parts)
    for group, option in (about.get("choices") or {}).items():
        found[schema.TAG_CHOICE + group] = option
    for sweep in sweeps:
        found[schema.TAG_MEMBER + sweep] = True
    for name in DOCUMENTS:
        found |= document_tags(Path(name).stem, _read(run.path / name))
    for kind, content in evaluations(run).items():
        found |= document_tags(f"{EVALUATION}{kind}", content)
    return {
        name_for(name): shorten(value, MAX_TAG)
        for name, value in found.items()
        if value is not None
    }


def _as_mlflow_expects(
    environment: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What MLflow's own pages show in the columns User, Source and Version."""
    command = environment.get("command") or []
    in_job = any(part.get("slurm_job_id") for part in parts)
    return {
        "mlflow.user": environment.get("user"),
        "mlflow.source.name": Path(str(command[0])).name if command else None,
        "mlflow.source.type": ("JOB" if in_job else "LOCAL") if command else None,
        "mlflow.source.git.commit": environment.get("commit"),
    }


def dataset(run: RunDirectory) -> dict[str, str] | None:
    """The data set of a run as an input of MLflow's: name, digest, source; None without one."""
    data = run.run.get("data") or {}
    if not data.get("fingerprint"):
        return None
    provenance = data.get("provenance") or {}
    source = {"source": provenance.get("source"), "licence": provenance.get("licence")}
    return {
        "name": str(data.get("name") or "data")[:MAX_NAME],
        "digest": str(data["fingerprint"])[:MAX_DIGEST],
        "source_type": "atomsweep",
        "source": dumps(source),
    }


def final_metrics(run: RunDirectory) -> dict[str, float]:
    """Metrics of the result as `final/<split>/<metric>`; {} unless the run is finished.

    What was evaluated after the training is among them: `final/cost/structures_per_second`.
    """
    if run.result is None:
        return {}
    metrics = dict(run.result.get("metrics") or {})
    for content in evaluations(run).values():
        told = content.get("metrics")
        metrics |= told if isinstance(told, Mapping) else {}
    return {
        name_for(schema.FINAL + name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


def settled(run: RunDirectory) -> int:
    """When the last of `final_metrics` was known, ms since 1970."""
    times = [content.get("created") for content in evaluations(run).values()]
    return round(1000 * max([run.status.get("finished") or 0.0, *(t or 0.0 for t in times)]))


def evaluations(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Kind → content of `evaluations/<kind>.json`; what cannot be read is left out."""
    found = {path.stem: _read(path) for path in evaluation_files(run)}
    return {kind: content for kind, content in found.items() if content}


def evaluation_files(run: RunDirectory) -> list[Path]:
    """Results of evaluations."""
    return sorted((run.path / schema.EVALUATIONS).glob("*.json"))


def evaluations_of(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What `tags` wrote of evaluations, by kind."""
    first = schema.TAG_DOCUMENT + EVALUATION
    kinds = {tag.removeprefix(first).partition(".")[0] for tag in tags if tag.startswith(first)}
    found = {kind: document(EVALUATION + kind, tags) for kind in sorted(kinds)}
    return {kind: content for kind, content in found.items() if content}


def uid(run: RunDirectory) -> str:
    """What tells this directory from another one of the same identity."""
    return str(run.run.get("uid") or run.name)


def name_for(name: str) -> str:
    """`name` with what MLflow does not allow replaced: [a-zA-Z0-9_-. /], no empty path parts."""
    name = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)
    return "/".join(part.strip() or "_" for part in name.split("/"))[:MAX_NAME]


def shorten(value: Any, limit: int) -> str:
    """As text of at most `limit` characters; a cut is visible."""
    text = value if isinstance(value, str) else dumps(value)
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def document_tags(name: str, content: Mapping[str, Any] | None) -> dict[str, str]:
    """A JSON document as tags: `document.run`, and `document.run.1` ... for what does not fit.

    A traceback is left out; {} for no document, or one that is too long for tags altogether.
    """
    if not content:
        return {}
    kept = {k: v for k, v in content.items() if k != "traceback" or v is None}
    text = dumps(kept)
    parts = [text[i : i + MAX_TAG] for i in range(0, len(text), MAX_TAG)]
    first = schema.TAG_DOCUMENT + name
    return (
        {f"{first}.{i}" if i else first: part for i, part in enumerate(parts)}
        if len(parts) <= MAX_PARTS
        else {}
    )


def document(name: str, tags: Mapping[str, str]) -> dict[str, Any] | None:
    """What `document_tags` wrote; None if the tags do not hold it.

    Parts are joined until they are JSON: no beginning of a JSON object is one, so a part that is
    left over from a longer document does no harm.
    """
    first = schema.TAG_DOCUMENT + name
    text = ""
    for i in range(MAX_PARTS):
        part = tags.get(f"{first}.{i}" if i else first)
        if part is None:
            return None
        text += part
        try:
            content = loads(text)
        except ValueError:
            continue
        return content if isinstance(content, dict) else None
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (ValueError, OSError):
        return None  # `RunDirectory.problems` names it


def _flat(node: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
