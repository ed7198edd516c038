"""What a root has mirrored to a store, remembered in the root: run → what it was like then.

A note that saves asking MLflow, and never the truth. It counts only where the store carries the
mark of the pass that wrote it: one that was made anew or put back from a copy has another, or none,
and then every run is compared with MLflow.
"""

import hashlib
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema
from atomsweep.tracking.files import dumps, read_json, write_atomic
from atomsweep.tracking.mlflow.connect import Store, unanswered

log = logging.getLogger(__name__)

FILE = ".mirror.json"


class Memory:
    """The note of one root about one store, read and written under the lock of the mirror.

    Args:
        root: directory of run directories.
        uri: of the store.
        store: open.

    Raises:
        TrackingUnavailable: the store does not answer.
    """

    def __init__(self, root: Path, uri: str, store: Store) -> None:
        self._path, self._store = root / FILE, store
        key = f"{uri} {store.experiment}"  # a URI may hold a password
        self._key = hashlib.sha256(key.encode()).hexdigest()[:12]
        note = self._notes().get(self._key)
        self._note = dict(note) if isinstance(note, Mapping) else {}
        self._id = str(self._note.get("root") or secrets.token_hex(4))
        try:
            mark = store.client.get_experiment(store.experiment).tags.get(self._tag)
        except Exception as error:
            raise unanswered(error) from error
        if mark is None or mark != self._note.get("mark"):
            self._note = {}

    def read(self) -> dict[str, str]:
        """Run → hash of its `signature` when it was mirrored; {} where the note does not count."""
        runs = self._note.get("runs")
        return {str(k): str(v) for k, v in runs.items()} if isinstance(runs, Mapping) else {}

    def add(self, mirrored: Mapping[str, str]) -> None:
        """Remember more; a note that cannot be written costs time later, and nothing else."""
        if not mirrored:
            return
        runs = self.read() | dict(mirrored)
        self._note = {"root": self._id, "mark": secrets.token_hex(8), "runs": runs}
        try:
            write_atomic(self._path, dumps(self._notes() | {self._key: self._note}), durable=False)
            client = self._store.client
            client.set_experiment_tag(self._store.experiment, self._tag, self._note["mark"])
        except Exception as error:
            log.debug("%s", error)

    @property
    def _tag(self) -> str:
        return f"{schema.TAG_ROOT}{self._id}"

    def _notes(self) -> dict[str, Any]:
        try:
            return read_json(self._path)
        except (OSError, ValueError):
            return {}
