"""What a run's directory says: its documents, and the state that they and its lock add up to.

Nothing is written here, and what cannot be read stops nobody who asks for something else.
"""

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomsweep.tracking import schema, segments
from atomsweep.tracking.documents import config_fault
from atomsweep.tracking.file_systems import is_shared
from atomsweep.tracking.files import DamagedFile, read_json, read_lines, read_text, read_yaml, told
from atomsweep.tracking.lock import is_locked

log = logging.getLogger(__name__)

HEARTBEAT_LOST_S = 600.0  # a heartbeat from another host that is older belongs to nobody


class SavedRun:
    """A run as it was left.

    Attributes:
        path: the directory, `<root>/<readable>-<identity>`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._run: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def run(self) -> dict[str, Any]:
        """`run.json`, which never changes.

        Raises:
            FileNotFoundError: this is not a run directory.
            DamagedFile: says what is wrong.
        """
        if self._run is None:
            try:
                self._run = read_json(self.path / schema.RUN)
            except DamagedFile as error:
                raise DamagedFile(
                    f"{error}; move its directory away, and the same command makes the run again"
                ) from error
        return self._run

    @property
    def identity(self) -> str:
        """Identity of the run."""
        return str(self.run["identity"])

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.path.name

    def config(self) -> dict[str, Any]:
        """The resolved config.

        Raises:
            OSError: the file cannot be read.
            DamagedFile: says what is wrong.
        """
        path = self.path / schema.CONFIG
        try:
            config = read_yaml(read_text(path))
        except ValueError as error:
            raise DamagedFile(f"{path} is damaged: {error}") from error
        if (wrong := config_fault(config)) is not None:
            raise DamagedFile(f"{path} is damaged: {wrong}")
        return dict(config)

    @property
    def status(self) -> dict[str, Any]:
        """`status.json`; {} when missing or damaged (`problems` says which)."""
        return self._read(schema.STATUS)

    @property
    def result(self) -> dict[str, Any] | None:
        """`result.json`; None unless the run is finished."""
        return self._read(schema.RESULT) or None

    @property
    def environment(self) -> dict[str, Any]:
        """`environment.json` of the last process; {} before the first."""
        return self._read(schema.ENVIRONMENT)

    def state(self) -> str:
        """One of the states of `schema`, derived from what is there and who is at work."""
        if self.result is not None:
            return schema.FINISHED
        if is_locked(self.path / schema.LOCK):
            return schema.RUNNING
        status = self.status
        state = status.get("state")
        if state == schema.FAILED:
            return schema.FAILED
        if state == schema.RUNNING and self._beats_elsewhere(status):
            return schema.RUNNING
        if (self.path / schema.STOP).exists():
            return schema.PRUNED
        if state == schema.QUEUED:
            return schema.QUEUED
        if state is None and not (self.path / schema.JOURNAL).exists():
            return schema.QUEUED
        return schema.INTERRUPTED

    def problems(self) -> list[str]:
        """One sentence for each file that cannot be read."""
        found = []
        for name in (schema.RUN, schema.STATUS, schema.RESULT, schema.ENVIRONMENT, schema.CONFIG):
            try:
                read_json(self.path / name) if name != schema.CONFIG else self.config()
            except FileNotFoundError:
                if name in (schema.RUN, schema.CONFIG):
                    found.append(f"{self.path / name} is missing: creation was cut short")
            except DamagedFile as error:
                found.append(str(error))
            except OSError as error:
                found.append(told(error))
        for name in (schema.SEGMENTS, schema.JOURNAL, schema.JOBS):
            try:
                read_lines(self.path / name)
            except OSError as error:
                found.append(told(error))
        return found + self.contradiction()

    def contradiction(self) -> list[str]:
        """A sentence where a run says that it is finished and is not; else none."""
        if self.status.get("state") != schema.FINISHED or self.result is not None:
            return []
        return [f"{self.path} says finished but has no readable {schema.RESULT}"]

    def journal(self) -> list[dict[str, Any]]:
        """Lines of the journal in the order written, see `schema`."""
        return read_lines(self.path / schema.JOURNAL)

    def segments(self) -> list[dict[str, Any]]:
        """One entry for each process that worked on the run; `end` is null while one is at work.

        [] where the file cannot be read (`problems` says so).
        """
        try:
            return read_lines(self.path / schema.SEGMENTS)
        except OSError as error:
            log.debug("%s", error)
            return []

    def allocated_seconds(self) -> float:
        """Seconds × devices that all segments held, work that was lost to kills included."""
        return segments.allocated_seconds(self.segments())

    # Small things

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            log.debug("%s", error)
            return {}

    def _beats_elsewhere(self, status: Mapping[str, Any]) -> bool:
        """A fresh heartbeat from a host whose locks may not be visible here."""
        return (
            status.get("host") != socket.gethostname()
            and time.time() - float(status.get("heartbeat", 0.0)) < HEARTBEAT_LOST_S
            and is_shared(self.path)
        )
