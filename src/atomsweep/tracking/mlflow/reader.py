"""Runs as MLflow alone holds them: the same documents and journals as the run directories."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atomsweep.tracking import schema
from atomsweep.tracking.mlflow import views
from atomsweep.tracking.mlflow.connect import Store, connect
from atomsweep.tracking.mlflow.mirror import EXPERIMENT


@dataclass(frozen=True)
class MirroredRun:
    """One run.

    Attributes:
        run_id: in MLflow.
        name: of the run directory.
        state: as in `schema`, at the last pass of the mirror.
        run: content of `run.json`.
        status: content of `status.json`, without a traceback; {} when there is none.
        result: content of `result.json`; {} unless finished.
        environment: content of `environment.json`; {} before the first start.
        sweeps: names of the sweeps that have it as a cell.
        evaluations: kind → content of `evaluations/<kind>.json`.
        processes: that worked on it; 0 where none has begun.
        allocated_seconds: device-seconds that they held, lost work included.
    """

    run_id: str
    name: str
    state: str
    run: dict[str, Any]
    status: dict[str, Any]
    result: dict[str, Any]
    environment: dict[str, Any]
    sweeps: tuple[str, ...]
    evaluations: dict[str, dict[str, Any]]
    processes: int = 0
    allocated_seconds: float = 0.0


@dataclass(frozen=True)
class Mirrored:
    """An experiment of a store.

    Attributes:
        runs: by name.
        plans: sweep -> its plan.
        problems: one sentence for each MLflow run that is not as the mirror writes it.
    """

    store: Store
    runs: list[MirroredRun]
    plans: dict[str, dict[str, Any]]
    problems: list[str]

    def journal(self, run: MirroredRun) -> list[dict[str, Any]]:
        """Lines of the journal, those of one step merged, by step; see `views.points`."""
        client = self.store.client
        lines: dict[int, dict[str, Any]] = {}
        for name in client.get_run(run.run_id).data.metrics:
            if name.startswith(schema.FINAL):
                continue
            for point in client.get_metric_history(run.run_id, name):
                line = lines.setdefault(point.step, {schema.STEP: point.step})
                line[name] = _number(point.value)
                line[schema.TIME] = point.timestamp / 1000
        return [lines[step] for step in sorted(lines)]


def read_mirrored(uri: str, experiment: str = EXPERIMENT) -> Mirrored:
    """All runs of an experiment that the mirror wrote; runs of others are left alone.

    Raises:
        TrackingUnavailable: the store cannot be reached.
    """
    store = connect(uri, experiment)
    runs, plans, problems = [], {}, []
    for found in store.search(""):
        tags: Mapping[str, str] = found.data.tags
        if tags.get(schema.TAG_KIND) == "sweep":
            plan = views.document("plan", tags)
            if plan is not None:
                plans[tags[schema.TAG_SWEEP]] = plan
        elif tags.get(schema.TAG_KIND) == "run":
            about = views.document("run", tags)
            if about is None:
                problems.append(
                    f"MLflow run {found.info.run_id} ({found.info.run_name}) holds no "
                    f"{schema.RUN}; `atomsweep sync` completes it"
                )
                continue
            runs.append(_run(found, about))
    return Mirrored(store, sorted(runs, key=lambda run: run.name), plans, problems)


def _run(found: Any, about: dict[str, Any]) -> MirroredRun:
    tags = found.data.tags
    member = [t.removeprefix(schema.TAG_MEMBER) for t in tags if t.startswith(schema.TAG_MEMBER)]
    return MirroredRun(
        run_id=found.info.run_id,
        name=tags[schema.TAG_NAME],
        state=tags[schema.TAG_STATE],
        run=about,
        status=views.document("status", tags) or {},
        result=views.document("result", tags) or {},
        environment=views.document("environment", tags) or {},
        sweeps=tuple(sorted(member)),
        evaluations=views.evaluations_of(tags),
        processes=int(tags.get(schema.TAG_SEGMENTS, 0)),
        allocated_seconds=float(tags.get(schema.TAG_ALLOCATED, 0.0)),
    )


def _number(value: float) -> float:
    """SQL stores keep infinity as the largest float."""
    return value if abs(value) < sys.float_info.max else value * 2
