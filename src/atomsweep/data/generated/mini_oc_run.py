"""Builds the embedded data set in worker processes, resumable after every chunk of systems.

The parent hands chunk numbers to its workers through their standard input. A chunk appears
complete or not at all, so a build that was killed goes on from what is there; workers end by
themselves when the parent is gone.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from atomsweep.console import Progress
from atomsweep.data.generated.mini_oc_recipe import SPLITS, Recipe
from atomsweep.data.source import Provenance
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.writer import StoreWriter
from atomsweep.data.structure import Structure
from atomsweep.processes import TRIES, out_of_reach

CHUNK = 8  # systems
_WORKER = "from atomsweep.data.generated.mini_oc_run import work; work()"

log = logging.getLogger(__name__)


def chunks(recipe: Recipe) -> list[tuple[str, range]]:
    """Split and system ids of each chunk, in the order of the data set."""
    return [
        (split, recipe.sids(split)[start : start + CHUNK])
        for split in SPLITS
        for start in range(0, len(recipe.sids(split)), CHUNK)
    ]


def build_data_set(
    recipe: Recipe,
    directory: Path,
    fingerprint: str,
    provenance: Provenance,
    workers: int | None,
    progress: bool,
) -> None:
    """Fill `directory` with the stores of all splits and the records of all systems.

    Raises:
        OSError: the disk is full; names the path.
        RuntimeError: a worker died or failed; carries its message.
    """
    started = time.monotonic()
    chunk_dir = directory / "chunks"
    chunk_dir.mkdir(exist_ok=True)
    todo = chunks(recipe)
    missing = [n for n in range(len(todo)) if not _chunk_is_whole(chunk_dir, n)]
    total = sum(len(sids) for _, sids in todo)
    done = total - sum(len(todo[n][1]) for n in missing)
    count = min(workers if workers is not None else _cpus(), max(len(missing), 1))
    log.info(
        "building mini_oc: %d relaxations with %d process%s in %s%s",
        total - done,
        count,
        "" if count == 1 else "es",
        directory.parent,
        f" ({done} found from an earlier attempt)" if done else "",
    )
    with Progress("building mini_oc", "relaxation", total, done, progress) as bar:
        _run_workers(recipe, chunk_dir, missing, count, lambda n: bar.update(len(todo[n][1])))
    _assemble(recipe, directory, fingerprint, provenance)
    shutil.rmtree(chunk_dir)
    log.info("mini_oc is ready after %.0f s", time.monotonic() - started)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunk_files(chunk_dir: Path, number: int) -> tuple[Path, Path, Path]:
    stem = f"{number:05d}"
    return chunk_dir / f"{stem}.lmdb", chunk_dir / f"{stem}-ends.lmdb", chunk_dir / f"{stem}.json"


def _chunk_is_whole(chunk_dir: Path, number: int) -> bool:
    """The record of systems is written last, so it stands for the whole chunk."""
    return _chunk_files(chunk_dir, number)[2].is_file()


def _run_workers(
    recipe: Recipe, chunk_dir: Path, missing: list[int], count: int, done: Callable[[int], None]
) -> None:
    todo: SimpleQueue[int] = SimpleQueue()
    for number in missing:
        todo.put(number)
    results: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
    workers = _Workers(recipe, chunk_dir)
    try:
        for _ in range(count if missing else 0):
            threading.Thread(target=_feed, args=(workers, todo, results), daemon=True).start()
        for _ in missing:
            number, error = results.get()
            if error is not None:
                _raise(error)
            done(number)
    finally:
        workers.end()


class _Workers:
    """Processes that build chunks; another may take the place of one that has died."""

    def __init__(self, recipe: Recipe, chunk_dir: Path) -> None:
        self._order = json.dumps({"recipe": asdict(recipe), "chunk_dir": str(chunk_dir)}) + "\n"
        self._processes: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._ended = False

    def start(self) -> subprocess.Popen[str] | None:
        """A fresh interpreter: neither `__main__` nor threads of the caller are carried over.

        None where the build has ended.
        """
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        path = os.pathsep.join(p for p in sys.path if p)
        with self._lock, out_of_reach():
            if self._ended:
                return None
            process = subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **dict.fromkeys(threads, "1"), "PYTHONPATH": path},
            )
            self._processes.append(process)
        return process

    def build(self, process: subprocess.Popen[str], number: int) -> str:
        """Let a process build a chunk; its answer, which is "" of one that has died."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(self._order + f"{number}\n")
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return ""

    def end(self) -> None:
        """End all of them."""
        with self._lock:
            self._ended = True
        for process in self._processes:
            process.terminate()
            process.wait()


def _feed(
    workers: _Workers, todo: SimpleQueue[int], results: SimpleQueue[tuple[int, str | None]]
) -> None:
    """Hand chunks to one worker until none is left; runs in a thread."""
    number, lost, process = None, 0, workers.start()
    while process is not None:
        try:
            number = todo.get_nowait() if number is None else number
        except Empty:
            return
        answer = workers.build(process, number)
        if answer:
            results.put((number, None if answer == "done\n" else answer))
            number, lost = None, 0
            continue
        lost += 1
        if lost == TRIES:
            text = f"{lost} processes died over its chunk {number}; perhaps memory is short"
            results.put((number, json.dumps({"kind": "RuntimeError", "text": text})))
            return
        process = workers.start()


def _raise(error: str) -> None:
    record = json.loads(error)
    if record["kind"] == "OSError":
        raise OSError(record["errno"], record["text"], record["path"])
    raise RuntimeError(f"a worker that builds mini_oc failed: {record['text']}")


def work() -> None:
    """Body of a worker: chunk numbers in on standard input, `done` or an error out for each."""
    from atomsweep.data.generated.mini_oc_build import build_system

    reply = sys.stdout
    sys.stdout = sys.stderr
    while line := sys.stdin.readline():
        order, number = json.loads(line), int(sys.stdin.readline())
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in order["recipe"].items()
        }
        try:
            recipe = Recipe(**arguments)
            todo = chunks(recipe)
            split, sids = todo[number]
            systems = [build_system(recipe, split, sid) for sid in sids]
            frames, ends, record = _chunk_files(Path(order["chunk_dir"]), number)
            with StoreWriter(frames) as writer:
                for system in systems:
                    for frame in system.frames:
                        writer.add(frame)
            with StoreWriter(ends) as writer:
                for system in systems:
                    for end in system.ends:
                        writer.add(end)
            temporary = record.with_suffix(".tmp")
            temporary.write_text(json.dumps([system.meta for system in systems]))
            os.replace(temporary, record)  # noqa: PTH105
            answer = "done"
        except OSError as error:
            text = error.strerror or str(error)
            path = str(error.filename or order["chunk_dir"])
            answer = json.dumps(
                {"kind": "OSError", "errno": error.errno, "text": text, "path": path}
            )
        except Exception as error:  # whatever it is, the parent reports it
            text = f"{type(error).__name__} in chunk {number}: {error}"
            answer = json.dumps({"kind": "RuntimeError", "text": text})
        try:
            reply.write(answer + "\n")
            reply.flush()
        except OSError:  # nobody asks any more
            os._exit(1)


def _assemble(recipe: Recipe, directory: Path, fingerprint: str, provenance: Provenance) -> None:
    """One store of frames and one of relaxation ends for each split, and `systems.jsonl`."""
    chunk_dir = directory / "chunks"
    numbered = list(enumerate(chunks(recipe)))
    meta: dict[str, Any] = {"provenance": provenance.as_dict(), "recipe": recipe.as_dict()}
    for split in SPLITS:
        mine = [number for number, (of, _) in numbered if of == split]
        for which, suffix in ((0, ""), (1, "_relaxations")):
            with StoreWriter(directory / f"{split}{suffix}.lmdb", fingerprint, meta) as writer:
                for number in mine:
                    for structure in _structures(_chunk_files(chunk_dir, number)[which]):
                        writer.add(structure)
    lines = [
        json.dumps(system, sort_keys=True)
        for number, _ in numbered
        for system in json.loads(_chunk_files(chunk_dir, number)[2].read_text())
    ]
    (directory / "systems.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _structures(path: Path) -> Iterator[Structure]:
    store = StoreDataset(path)
    for index in range(len(store)):
        yield store[index]
