"""A run's rows written into MLflow's own tables, where its store is SQLite.

MLflow's store looks up each row and makes an object of it, which is most of what a finished run
costs. The rows are those that its `log_batch` leaves; a test holds one against the other. A
file with other tables, of another version of MLflow, is left to MLflow.
"""

import math
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

BUSY_S = 60.0  # for another writer of the file

_ROW = ("key", "value", "run_uuid")
_POINT = (*_ROW, "timestamp", "step", "is_nan")
_COLUMNS = {"params": _ROW, "tags": _ROW, "metrics": _POINT, "latest_metrics": _POINT}
_UNLIKE = {
    "params": "DO NOTHING",
    "metrics": "DO NOTHING",  # a batch that was sent twice is one batch
    "tags": "(key, run_uuid) DO UPDATE SET value = excluded.value",
    "latest_metrics": (
        "(key, run_uuid) DO UPDATE SET value = excluded.value, timestamp = excluded.timestamp, "
        "step = excluded.step, is_nan = excluded.is_nan "
        "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
        "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)"
    ),
}


class Tables:
    """The tables of one SQLite store.

    Args:
        database: file of the store.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    @classmethod
    def of(cls, database: Path) -> "Tables | None":
        """Those of a store; None where they are not as they are known here."""
        tables = cls(database)
        with closing(tables._connected()) as connection:
            for name, columns in _COLUMNS.items():
                found = connection.execute(f"PRAGMA table_info({name})").fetchall()
                if {column[1] for column in found} != set(columns):
                    return None
        return tables

    def log(
        self, run_id: str, metrics: Iterable[Any], params: Iterable[Any], tags: Iterable[Any]
    ) -> bool:
        """As MLflow's `log_batch`, in one transaction; False where there is no such active run.

        Raises:
            sqlite3.Error: the file cannot be written.
        """
        points = [_point(run_id, metric) for metric in metrics]
        rows = {
            "params": [(one.key, one.value, run_id) for one in params],
            "metrics": points,
            "latest_metrics": points,
            "tags": [(one.key, one.value, run_id) for one in tags],
        }
        with closing(self._connected()) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            query = "SELECT lifecycle_stage FROM runs WHERE run_uuid = ?"
            if connection.execute(query, (run_id,)).fetchone() != ("active",):
                return False
            for name, values in rows.items():
                columns = _COLUMNS[name]
                marks = ", ".join("?" * len(columns))
                connection.executemany(
                    f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks}) "
                    f"ON CONFLICT {_UNLIKE[name]}",
                    values,
                )
        return True

    def end(self, run_id: str, status: str, end_time: int | None) -> bool:
        """As MLflow's `set_terminated`; False where there is no such active run.

        Raises:
            sqlite3.Error: the file cannot be written.
        """
        query = (
            "UPDATE runs SET status = ?, end_time = ? "
            "WHERE run_uuid = ? AND lifecycle_stage = 'active'"
        )
        values = (status, end_time or round(1000 * time.time()), run_id)
        with closing(self._connected()) as connection, connection:
            return connection.execute(query, values).rowcount == 1

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._database, timeout=BUSY_S)


def _point(run_id: str, metric: Any) -> tuple[Any, ...]:
    """A row; NaN is a 0 with a flag, and infinity the largest float."""
    value = float(metric.value)
    nan = math.isnan(value)
    if math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return metric.key, 0.0 if nan else value, run_id, metric.timestamp, metric.step, nan
