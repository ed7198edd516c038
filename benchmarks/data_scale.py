"""What a large data set costs before and beside training: memory, CPU seconds, bytes on disk.

    OMP_NUM_THREADS=1 python benchmarks/data_scale.py [--frames 20000] [--index 20000000]
        [--layers 4] [--only index,conversion]

Each row is a process of its own; the memory is the most that it held (`VmHWM`, which counts pages
of files that it has mapped and that all processes share), less what it held after its imports; its
own is what no other process can share (`RssAnon`), at the end.
`index` opens a store of that many frames and draws batches from it: its records are not there, so
any size can be tried. The others read a store of `--frames` slabs of 66 atoms (`--layers 4`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from data_loading import GRAPH, slab

from atomsweep.data.batches.graphs import GraphDataset
from atomsweep.data.batches.sampler import BalancedSampler
from atomsweep.data.batches.statistics import label_statistics
from atomsweep.data.formats.describe import describe
from atomsweep.data.formats.store import StoreReader
from atomsweep.data.store.convert import convert
from atomsweep.data.store.dataset import StoreDataset
from atomsweep.data.store.parts import Conversion
from atomsweep.data.store.record import GROUP, GROUPED, INDEX, META
from atomsweep.data.store.writer import StoreWriter


def make_store(path: Path, frames: int, layers: int = 4) -> None:
    """Slabs, each a little moved, in relaxations of 200 frames."""
    rng, few = np.random.default_rng(0), [slab(seed, layers) for seed in range(16)]
    with StoreWriter(path, f"made-{frames}-{layers}") as writer:
        for number in range(frames):
            one = few[number // 200 % len(few)]
            one.sid, one.fid = number // 200, number % 200
            one.pos = one.pos + rng.normal(0, 1e-3, one.pos.shape).astype("f4")
            one.energy, one.forces = float(rng.normal()), rng.normal(size=one.pos.shape)
            writer.add(one)


def make_index(path: Path, frames: int) -> None:
    """A store without its records."""
    header = {"version": GROUPED, "group": GROUP, "count": frames, "fingerprint": "none"}
    header |= {"has_energy": True, "has_forces": True}
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 20) as environment:
        with environment.begin(write=True) as transaction:
            transaction.put(META, json.dumps(header).encode())
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    os.truncate(path, size)
    rng = np.random.default_rng(0)
    with path.open("ab") as file:
        for name in ("natoms", "sid", "fid"):
            for start in range(0, frames, 1 << 20):
                count = min(1 << 20, frames - start)
                values = (
                    rng.integers(20, 200, count) if name == "natoms" else start + np.arange(count)
                )
                file.write(values.astype(INDEX[name]).tobytes())


def index(where: Path, frames: int) -> dict[str, Any]:
    """Open, and the batches of 1 000 steps of one of 64 ranks."""
    dataset = GraphDataset(StoreDataset(where / "index.lmdb"), None, budget=0)
    sampler = BalancedSampler(dataset.natoms, 2048, 0, 5, 64)
    opened = _pages_of(where / "index.lmdb")
    start = time.process_time()
    for step in range(0, 1000 * 50, 50):
        sampler.parts(step)
    told = {"ms_per_step": round(time.process_time() - start, 2)}
    pages = {"opened": opened, "at_the_end": _pages_of(where / "index.lmdb")}
    return told | {f"index_pages_{name}_mb": round(kib / 1024) for name, kib in pages.items()}


def statistics(where: Path, frames: int) -> dict[str, Any]:
    """Label statistics, then from where they are kept."""
    store = StoreDataset(where / "plain.lmdb")
    label_statistics(store, progress=False)
    start = time.process_time()
    label_statistics(store, progress=False)
    return {"again_cpu_s": round(time.process_time() - start, 4)}


def arrays(where: Path, frames: int) -> dict[str, Any]:
    """The first start on a store without neighbour lists, then the second, and its batches."""
    GraphDataset(StoreDataset(where / "plain.lmdb"), GRAPH, budget=1 << 50)
    start = time.process_time()
    dataset = GraphDataset(StoreDataset(where / "plain.lmdb"), GRAPH, budget=1 << 50)
    opened = time.process_time() - start
    order, start = np.random.default_rng(0).permutation(frames)[:6400], time.process_time()
    for at in range(0, len(order), 32):
        dataset.batch(order[at : at + 32])
    rate = len(order) / (time.process_time() - start)
    size = sum(file.stat().st_size for file in where.glob("arrays/*/*.bin"))
    told = {"again_cpu_s": round(opened, 4), "structures_per_cpu_s": round(rate)}
    return told | {"bytes_per_frame": round(size / frames)}


def stopped(where: Path, frames: int) -> dict[str, Any]:
    """How long a first start goes on after a signal that raises, as SIGTERM does in a run."""
    shutil.rmtree(where / "arrays", ignore_errors=True)

    class Asked(Exception):
        """By the signal."""

    def ask(number: int, frame: Any) -> None:
        nonlocal at
        at = time.perf_counter()
        raise Asked

    at = 0.0
    signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 4.0)
    try:
        GraphDataset(StoreDataset(where / "plain.lmdb"), GRAPH, budget=1 << 50)
    except Asked:
        return {"seconds_to_end": round(time.perf_counter() - at, 3)}
    return {"seconds_to_end": "was done before"}


def conversion(where: Path, frames: int) -> dict[str, Any]:
    """A store converted again, by two processes."""
    out = where / "out.lmdb"
    files = [where / "plain.lmdb"]
    convert(Conversion(StoreReader()), files, out, where / "parts", "f", {}, 0, 2, False)
    size = out.stat().st_size
    out.unlink()
    return {"bytes_per_frame": round(size / frames)}


def description(where: Path, frames: int) -> dict[str, Any]:
    """`atomsweep data describe`."""
    workers = len(os.sched_getaffinity(0))
    describe(StoreReader(), [where / "plain.lmdb"], workers=workers).report()
    return {}


ROWS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    function.__name__: function
    for function in (index, statistics, stopped, arrays, conversion, description)
}


def _measure(name: str, where: Path, frames: int, connection: Any) -> None:
    before, own_before = _held(), _held("RssAnon:")
    start, cpu_before = time.perf_counter(), time.process_time()
    told = ROWS[name](where, frames)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_before
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_workers = others.ru_utime + others.ru_stime
    memory = (_held() - before) / 1024
    alone = (_held("RssAnon:") - own_before) / 1024
    child = others.ru_maxrss / 1024
    connection.send((wall, cpu, of_workers, memory, alone, child, told))


def _held(what: str = "VmHWM:") -> int:
    """Memory of this process, KiB: the most so far, or another line of its status."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(what)[1].split()[0])


def _pages_of(path: Path) -> int:
    """Pages of a file that this process has touched, KiB."""
    found, mapped = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:  # a mapping begins
            mapped = line.endswith(str(path))
        elif mapped and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--index", type=int, default=20_000_000)
    parser.add_argument("--layers", type=int, default=4, help="of 16 atoms each")
    parser.add_argument("--only", default=",".join(ROWS))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        where, names = Path(folder), options.only.split(",")
        if "index" in names:
            make_index(where / "index.lmdb", options.index)
        if set(names) - {"index"}:
            make_store(where / "plain.lmdb", options.frames, options.layers)
            size = (where / "plain.lmdb").stat().st_size / options.frames
            print(f"{options.frames} frames, {size:.0f} bytes of the store for each", flush=True)
        for name in names:
            ours, theirs = context.Pipe()
            process = context.Process(target=_measure, args=(name, where, options.frames, theirs))
            process.start()
            theirs.close()
            wall, cpu, of_workers, memory, alone, child, told = ours.recv()
            process.join()
            print(
                f"{name:<12} {wall:8.1f} s, {cpu:7.1f} CPU s and {of_workers:7.1f} of workers with "
                f"their imports, {memory:5.0f} MB more than its "
                f"imports ({alone:.0f} its own), {child:5.0f} MB its largest worker; {told}",
                flush=True,
            )


if __name__ == "__main__":
    main()
