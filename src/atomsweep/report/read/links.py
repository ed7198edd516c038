"""Addresses of runs in MLflow's own pages, read from its SQLite store without importing MLflow.

`python -m atomsweep ui` serves them. Nothing here fails: without a database there are no links.
"""

import sqlite3
from pathlib import Path

from atomsweep.tracking import schema

PAGES = "http://127.0.0.1:5000/#/experiments"  # where `python -m atomsweep ui` serves
_QUERY = """
    SELECT tags.value, runs.experiment_id, runs.run_uuid
    FROM tags JOIN runs ON tags.run_uuid = runs.run_uuid
    WHERE tags.key = ? AND runs.lifecycle_stage = 'active'
"""


def links(database: Path) -> dict[str, str]:
    """Uid of a run directory → address of its page; {} where the database cannot be read."""
    if not database.is_file():
        return {}
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=2.0) as connection:
            rows = connection.execute(_QUERY, (schema.TAG_UID,)).fetchall()
    except sqlite3.Error:
        return {}
    return {uid: f"{PAGES}/{experiment}/runs/{run}" for uid, experiment, run in rows}
