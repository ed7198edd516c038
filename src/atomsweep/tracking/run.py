"""A run's directory: everything that is known of a run, written so that a kill at any time is safe.

`config.yaml`, `run.json` are written before it starts; `status.json` and `segments.jsonl` are
replaced as it goes on; `metrics.jsonl` only grows, except at a resume; `result.json` is the last to
appear and makes the run finished. A launch writes the first two, under the root's `.create.lock`;
what training leaves is written by the holder of the run's `lock` alone.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from atomsweep.build import UserError
from atomsweep.tracking import environment, schema, segments
from atomsweep.tracking.code import code_of
from atomsweep.tracking.files import (
    append_line,
    dumps,
    overwrite,
    read_file,
    remove_temporaries,
    told,
    truncate_after,
    write_atomic,
)
from atomsweep.tracking.lock import Locked, exclusive, holder_of
from atomsweep.tracking.saved import SavedRun
from atomsweep.tracking.state import furthest

log = logging.getLogger(__name__)

CREATE_SECONDS = 60.0  # that a launch waits for others that make run directories
HEARTBEAT_S = 5.0  # `log` refreshes status and segment at most this often


class RunLocked(RuntimeError):
    """Another process works in the run directory."""


Present = dict[str, list[Path]]  # identity -> directories whose names end in it


def directories(root: str | Path) -> Present:
    """What lies in a root, by identity: the root is looked through once, and nothing is read."""
    found: Present = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in Path(root).iterdir():
            *readable, identity = path.name.rsplit("-", 1)
            if readable:
                found.setdefault(identity, []).append(path)
    return found


@contextmanager
def creating(root: str | Path) -> Iterator[Present]:
    """Be the one who makes run directories in a root, which is made too; yields what is there."""
    Path(root).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(Path(root) / ".create.lock", wait_s=CREATE_SECONDS))
        except Locked as error:
            raise UserError(
                f"another launch has been making run directories in {root} for "
                f"{CREATE_SECONDS:g} s ({error}); wait for it, or end it"
            ) from error
        yield directories(root)


class RunDirectory(SavedRun):
    """One run.

    Attributes:
        path: the directory, `<root>/<readable>-<identity>`.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._beat = -float("inf")

    # Making and finding

    @classmethod
    def create(
        cls,
        path: str | Path,
        config_yaml: str,
        run: Mapping[str, Any],
        known_as: Sequence[str] = (),
    ) -> "RunDirectory":
        """The directory, made when it is not there; calling again changes no science.

        A second call with the same identity may bring another device, cluster or tracking: its
        config replaces the old one unless the run is finished or at work.

        Args:
            path: directory; its name ends in the identity.
            config_yaml: the resolved config.
            run: `identity` and `science` at least; by convention also `choices` (group -> option),
                `overrides`, `sweep` (name or null), `seed`, `data_fingerprint`. `uid`, `created`
                and `schema_version` are added.
            known_as: identities of the same run by earlier versions.

        Raises:
            ValueError: the directory belongs to another identity, or `run` names none.

        Config and `run.json` reach the disk before their names appear, in this order, so no kill
        and no power cut leaves a run without its config. That is two waits for the disk: the status
        may be lost, which reads as queued, and so may the names, which are made again.
        """
        directory = cls(path)
        identity = run.get("identity")
        if not identity:
            raise ValueError(f"run must hold its 'identity', got the keys {sorted(run)}")
        directory.path.mkdir(parents=True, exist_ok=True)
        if (directory.path / schema.RUN).exists():
            if directory.identity not in (identity, *known_as):
                raise ValueError(
                    f"{directory.path} belongs to run {directory.identity}, not to {identity}; "
                    "choose another directory"
                )
            config = directory.path / schema.CONFIG
            if (not config.exists() or read_file(config) != config_yaml.encode()) and (
                directory.state() not in (schema.RUNNING, schema.FINISHED)
            ):
                write_atomic(config, config_yaml)
            return directory
        write_atomic(directory.path / schema.CONFIG, config_yaml, named=False)
        content = {
            "schema_version": schema.SCHEMA_VERSION,
            "uid": secrets.token_hex(8),
            "created": time.time(),
            **run,
        }
        directory._write_status({"state": schema.QUEUED}, durable=False)
        makes_it_a_run = directory.path / schema.RUN
        write_atomic(makes_it_a_run, dumps(content, indent=2), named=False)
        return directory

    @classmethod
    def find_or_create(
        cls,
        root: str | Path,
        name: str,
        config_yaml: str,
        run: Mapping[str, Any],
        known_as: Sequence[str] = (),
        there: "Present | None" = None,
    ) -> "RunDirectory":
        """The directory of `run["identity"]`, whatever it is called, or a new one called `name`.

        Safe when several processes ask for the same identity at once: all get the same directory.
        One that an earlier version made, under an identity of `known_as`, is taken as it is.
        `there` are those of `creating(root)`, where many are made together.
        """
        if there is None:
            with creating(root) as there:
                return cls.find_or_create(root, name, config_yaml, run, known_as, there)
        existing = cls.for_identity(root, run["identity"], *known_as, among=there)
        path = existing.path if existing is not None else Path(root) / name
        directory = cls.create(path, config_yaml, run, known_as)
        if existing is None:
            there.setdefault(str(run["identity"]), []).append(path)
        return directory

    @classmethod
    def for_identity(
        cls, root: str | Path, *identities: str, among: "Present | None" = None
    ) -> "RunDirectory | None":
        """The directory of an identity, one run having several names for it where versions differ.

        Of several directories the one that got furthest; None without. Who asks for many passes
        `among`, what one call of `directories(root)` has found.
        """
        there = directories(root) if among is None else among
        found = [
            cls(path)
            for identity in identities
            for path in sorted(there.get(identity, ()))
            if (path / schema.RUN).is_file()
        ]
        return furthest(found)

    # Writing

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that works here.

        Raises:
            RunLocked: another process is.
        """
        path = self.path / schema.LOCK
        try:
            with exclusive(path):
                remove_temporaries(self.path)
                remove_temporaries(self.path / schema.CHECKPOINTS)
                yield
        except Locked as error:
            holder = error.holder or holder_of(path)
            raise RunLocked(
                f"{self.path} is in use by process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}; wait for it or stop it, then start again"
            ) from None

    def update_status(self, **fields: Any) -> None:
        """Merge `fields` into `status.json` and set the heartbeat.

        By convention: `state`, `step`, `total_steps`, `fraction`, `metric` (name), `value` (its
        latest), `best`. Only a change of `state` waits for the disk.
        """
        old = self.status
        changed = "state" in fields and fields["state"] != old.get("state")
        self._write_status(old | fields, durable=changed)

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        device_seconds: float,
        eval_seconds: float,
    ) -> None:
        """Append one line to the journal; refreshes the heartbeat now and then.

        Raises:
            ValueError: a metric has the name of a field of the journal.
        """
        line: dict[str, Any] = {
            schema.STEP: int(step),
            schema.DEVICE_SECONDS: float(device_seconds),
            schema.EVAL_SECONDS: float(eval_seconds),
            schema.TIME: round(time.time(), 3),
        }
        if taken := line.keys() & metrics.keys():
            raise ValueError(f"metrics cannot be called {sorted(taken)}: the journal's own fields")
        line.update((name, float(value)) for name, value in metrics.items())
        append_line(self.path / schema.JOURNAL, line)
        now = time.monotonic()
        if now - self._beat >= HEARTBEAT_S:
            self._beat = now
            progress = {key: line[key] for key in list(line)[:3]}
            self.update_status(**progress)
            segments.update(self.path / schema.SEGMENTS, step=int(step))

    def rewind(self, step: int) -> None:
        """Forget the journal after `step`: the step that a checkpoint continues from."""
        truncate_after(self.path / schema.JOURNAL, step)

    def start_segment(self, device: str, world_size: int = 1, **fields: Any) -> dict[str, Any]:
        """Begin the record of this process; one that was killed before is closed at its heartbeat.

        Args:
            device: name of the device, e.g. "NVIDIA H100" or the CPU's.
            world_size: number of devices that work on the run together.
            fields: more to record; SLURM's job id and requeue count are there by themselves.
        """
        segment = segments.start(self.path / schema.SEGMENTS, device, world_size, **fields)
        self.update_status(state=schema.RUNNING, message=None, traceback=None)
        return segment

    def end_segment(self, ended: str, **fields: Any) -> None:
        """Close the segment of this process, if one is open; `ended` says how."""
        segments.close(self.path / schema.SEGMENTS, ended, **fields)

    def reset_status(self) -> None:
        """Forget all that the status said: the run is queued as on its first day."""
        self._write_status({"state": schema.QUEUED})

    def queue(self) -> None:
        """Wait for a process, which trains to the end: an earlier wish to stop is forgotten."""
        (self.path / schema.STOP).unlink(missing_ok=True)
        self.update_status(state=schema.QUEUED, message=None)

    def ask_to_stop(self, **why: Any) -> None:
        """Leave a flag: who trains this writes a checkpoint at its next step and ends.

        Not through a temporary file: a process that begins here now removes those of others. The
        flag is that the file exists, so half of its content does no harm.
        """
        (self.path / schema.STOP).write_text(dumps(why), encoding="utf-8")

    @property
    def asked_to_stop(self) -> dict[str, Any] | None:
        """What `ask_to_stop` left; None without."""
        return self._read(schema.STOP) if (self.path / schema.STOP).exists() else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result; from here on the run is finished, whatever happens next.

        Args:
            result: by convention `metrics` (`<split>/<metric>` -> value), `step`, `checkpoint`,
                `parameters`, `device_seconds`, `eval_seconds`.
        """
        write_atomic(self.path / schema.RESULT, dumps(result, indent=2))
        self.end_segment(schema.FINISHED)
        self.update_status(state=schema.FINISHED, finished=time.time())

    def fail(self, message: str, traceback: str = "") -> None:
        """Mark the run failed, with one sentence and the traceback: on a full disk, too."""
        self._end(schema.FAILED, message=message, traceback=traceback)

    def fail_if_idle(self, error: Exception, traceback: str = "") -> None:
        """Mark a run failed that no process works on and that nothing else is known to have ended.

        For what goes wrong before its lock is held, or with the lock itself.
        """
        with suppress(OSError):
            if self.state() not in (schema.RUNNING, schema.FINISHED, schema.FAILED):
                self.fail(f"{type(error).__name__}: {told(error)}", traceback)

    def interrupt(self, message: str) -> None:
        """Mark the run interrupted: stopped at a checkpoint, the same command continues it."""
        self._end(schema.INTERRUPTED, message=message)

    def _end(self, state: str, **fields: Any) -> None:
        with suppress(OSError):  # the next process closes it
            self.end_segment(state)
        status = self._with_beat(self.status | {"state": state, **fields})
        try:
            overwrite(self.path / schema.STATUS, dumps(status, indent=2))
        except OSError:  # no room even for the traceback
            short = {key: status.get(key) for key in ("state", "message", "step", "total_steps")}
            overwrite(self.path / schema.STATUS, dumps(short))

    def write_environment(self, **fields: Any) -> None:
        """Write versions, host and commit, and uncommitted changes to `git.diff` if there are any.

        `code` lists what `code_of` found for all processes that worked on the run.

        Args:
            fields: what this module cannot know without torch, e.g. `device="NVIDIA H100"`.
        """
        code, present = self.environment.get("code") or [], code_of(self.config())
        code = [*code, present] if present not in code else code
        found = {**environment.environment(), **fields, "code": code}
        write_atomic(self.path / schema.ENVIRONMENT, dumps(found, indent=2))
        if found["dirty"]:
            diff = environment.diff_of(environment.source_directory())
            write_atomic(self.path / schema.DIFF, diff)

    # Small things

    def _write_status(self, status: dict[str, Any], durable: bool = True) -> None:
        status = self._with_beat(status)
        write_atomic(self.path / schema.STATUS, dumps(status, indent=2), durable)

    def _with_beat(self, status: dict[str, Any]) -> dict[str, Any]:
        return status | {"heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
