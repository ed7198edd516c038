"""Reaching an MLflow store: SQLite on a local disk, or a server. MLflow is imported late.

MLflow's own habits are kept out: schema migrations that race, retries that last minutes, log lines,
telemetry, and a SQLite file on a disk that other machines write to as well.
"""

import logging
import os
import re
import secrets
import socket
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from atomsweep.tracking.file_systems import NETWORK, file_system
from atomsweep.tracking.lock import Locked, exclusive
from atomsweep.tracking.mlflow.tables import Tables

CONNECT_S = 3.0
INITIALISE_S = 180.0  # a first migration on a busy machine
ARTIFACTS = "mlflow-artifacts"  # beside a SQLite store
DAMAGED = ("file is not a database", "malformed", "disk image", "no such table")  # SQLite's words

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingUnavailable(RuntimeError):
    """The MLflow store cannot be used now; one sentence says why and what to do."""


@dataclass(frozen=True)
class Store:
    """A store that answers.

    Attributes:
        client: an `mlflow.MlflowClient`.
        experiment: id of the experiment.
        tables: those of its file, to write many rows at once; None where only MLflow can.
    """

    client: Any
    experiment: str
    tables: Tables | None = None

    def search(self, query: str) -> list[Any]:
        """All MLflow runs of the experiment that match a filter, however many."""
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment], filter_string=query, max_results=1000, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found


def connect(uri: str, experiment: str) -> Store:
    """The store at `uri`, initialised once, with its experiment.

    Args:
        uri: `sqlite:///path` (relative to the current directory) or a server, `http://host:port`.
        experiment: name of the MLflow experiment; made when missing.

    Raises:
        TrackingUnavailable: it cannot be reached in a few seconds, or must not be used.
    """
    uri = absolute(uri)
    check_reachable(uri)
    database = sqlite_path(uri)
    location = None
    if database is not None:
        _initialise(database)
        location = (database.parent / ARTIFACTS).as_uri()
    client = _client(uri)
    try:
        number = _experiment(client, experiment, location)
        return Store(client, number, None if database is None else Tables.of(database))
    except TrackingUnavailable:
        raise
    except Exception as error:
        raise _unavailable(uri, error) from error


def check_reachable(uri: str) -> None:
    """Refuse quickly, before MLflow is imported, what cannot work.

    Raises:
        TrackingUnavailable: SQLite on a network file system, or a server that does not answer.
    """
    database = sqlite_path(uri)
    if database is not None:
        kind = file_system(database)
        if kind in NETWORK:
            raise TrackingUnavailable(
                f"MLflow's SQLite store {database} is on a network file system ({kind}), where its "
                "locks are not safe; set tracking.uri to a local disk, e.g. "
                "sqlite:////tmp/mlflow.db, or run `mlflow server` on one machine and set "
                "tracking.uri=http://<machine>:5000"
            )
        return
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in _PORTS or parts.hostname is None or _by_proxy(parts.hostname, scheme):
        return
    try:
        port = parts.port or _PORTS[scheme]
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _unavailable(uri, error) from error


def absolute(uri: str) -> str:
    """`uri` with a relative SQLite path made absolute, so that another process may use it.

    Raises:
        TrackingUnavailable: it is no URI of a store that we can write to.
    """
    if uri.startswith("sqlite:") and sqlite_path(uri) is None:
        raise TrackingUnavailable(
            f"tracking.uri must name a file, e.g. sqlite:///runs/mlflow.db, got {uri!r}"
        )
    if "://" not in uri and not uri.startswith("databricks"):
        raise TrackingUnavailable(
            f"tracking.uri must be sqlite:///<file> or http://<host>:<port>, got {uri!r} "
            "(MLflow has given up stores in plain directories)"
        )
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """File of a SQLite store, absolute; None for any other store."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(match[1]).absolute() if match and match[1] != ":memory:" else None


def _client(uri: str) -> Any:
    """A client that gives up soon, says nothing and reports to nobody."""
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _initialise(database: Path) -> None:
    """Make a SQLite store once: complete under another name, then moved into place.

    Processes that migrate one new file together destroy it, and a killed migration leaves a
    half-made schema; neither can happen to a file that appears complete.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(database.with_name(database.name + ".lock"), wait_s=INITIALISE_S):
            if database.exists() and database.stat().st_size > 0:
                _check_database(database)
                return
            for left in database.parent.glob(f".{database.name}.*.new*"):
                left.unlink()
            new = database.with_name(f".{database.name}.{secrets.token_hex(4)}.new")
            _client(f"sqlite:///{new}").search_experiments(max_results=1)
            new.replace(database)
    except TrackingUnavailable:
        raise
    except Locked as error:
        raise TrackingUnavailable(
            f"another process has been initialising {database} for {INITIALISE_S:.0f} s ({error}); "
            "stop it and try again"
        ) from error
    except Exception as error:
        raise _unavailable(f"sqlite:///{database}", error) from error


def _check_database(database: Path) -> None:
    """Refuse a file that SQLite cannot read, before MLflow fails in the middle of something."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
            connection.execute("SELECT COUNT(*) FROM experiments").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):  # busy, or not readable: MLflow says so or waits
            return
        raise _damaged(database, error) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(database, error) from error


def _damaged(database: Path, error: BaseException) -> TrackingUnavailable:
    reason = " ".join(str(error).split())[:120]
    return TrackingUnavailable(
        f"MLflow's store {database} is damaged ({reason}); move it away: `atomsweep sync --root "
        f"{database.parent}` makes it anew from the run directories, where nothing is lost"
    )


def _experiment(client: Any, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingUnavailable(
            f"the MLflow experiment {name!r} was deleted; restore it with `mlflow experiments "
            f"restore -x {found.experiment_id}` or choose another tracking.experiment"
        )
    kept = str(found.artifact_location or "")
    if location is not None and kept.endswith(f"/{ARTIFACTS}") and not _same(kept, location):
        raise TrackingUnavailable(
            f"MLflow's store was made in another place and keeps its files in {_folder(kept)}; "
            f"after a move or a copy, move {_folder(location).parent}/*.db away: `atomsweep sync "
            f"--root {_folder(location).parent}` makes it anew from the run directories"
        )
    return str(found.experiment_id)


def _folder(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _same(one: str, other: str) -> bool:
    return _folder(one).resolve() == _folder(other).resolve()


def unanswered(error: Exception) -> TrackingUnavailable:
    """What is said of a store that answered before."""
    return TrackingUnavailable(f"MLflow stopped answering: {' '.join(str(error).split())[:300]}")


def _by_proxy(host: str, scheme: str) -> bool:
    """Whether a proxy stands between: then a direct connection says nothing."""
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _unavailable(uri: str, error: Exception) -> TrackingUnavailable:
    database = sqlite_path(uri)
    if database is not None and any(word in str(error) for word in DAMAGED):
        return _damaged(database, error.__cause__ or error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return TrackingUnavailable(f"MLflow at {_public(uri)} cannot be used: {reason[:300]}")


def _public(uri: str) -> str:
    """`uri` without a password."""
    return re.sub(r"(://[^/@:]+):[^/@]+@", r"\1:***@", uri)
